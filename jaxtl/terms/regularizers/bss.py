"""Batch spectral shrinkage: suppresses the features' smallest singular values."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core import types
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, feature_stage, stream_field
from jaxtl.terms.context import View


def spectral_shrinkage(features: jax.Array, smallest: int = 1) -> jax.Array:
    """Sum of the squares of the smallest singular values of a batch of features.

    Σ_{i=1}^{k} σ²_{−i}(F), neither averaged over the batch nor centered, without ½.

    Args:
      features: F, (batch, width), float32 or wider.
      smallest: k, how many; at most min(batch, width).

    Returns:
      A scalar.

    References:
      Chen et al., Catastrophic Forgetting Meets Negative Transfer: Batch Spectral
      Shrinkage for Safe Transfer Learning, NeurIPS 2019, eq. 3.
    """
    # σ² are the eigenvalues of the smaller Gram matrix, whose gradient is cheaper and
    # finite where singular values repeat at 0.
    is_wide = features.shape[0] < features.shape[1]
    gram = features @ features.T if is_wide else features.T @ features
    return jnp.sum(jnp.maximum(jnp.linalg.eigvalsh(gram)[:smallest], 0.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpectralShrinkage(Term):
    """`spectral_shrinkage` of a stage's features, one vector per example.

    Attributes:
      smallest: number of singular values.
      stage: the stage; None is the last one before the head.
      stream: name of the stream.
    """

    compares: ClassVar[str] = "singular values of the features"

    smallest: int = 1
    stage: str | None = None
    stream: str = stream_field("target")

    def check(self, setup: Setup) -> None:
        checks.stream(setup, "stream", self.stream)
        checks.number(setup, "smallest", self.smallest, 1)
        stage = feature_stage(setup.program.network.stages, self.stage)
        checks.stage(setup, "stage", stage)

    def __call__(self, context: View) -> jax.Array:
        stage = feature_stage(context.program.network.stages, self.stage)
        features = context.forward(self.stream).features[stage]
        return spectral_shrinkage(types.vectors(features), self.smallest)
