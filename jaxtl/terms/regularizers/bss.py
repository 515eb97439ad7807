"""Batch spectral shrinkage: let go of what the target's features barely use."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core import types
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, feature_stage


def spectral_shrinkage(features: jax.Array, smallest: int = 1) -> jax.Array:
    """Sum of the squares of the smallest singular values of a batch of features.

    Σ_{i=1}^{k} σ²_{−i}(F), neither averaged over the batch nor centred, without ½.

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
    wide = features.shape[0] < features.shape[1]
    gram = features @ features.T if wide else features.T @ features
    return jnp.sum(jnp.maximum(jnp.linalg.eigvalsh(gram)[:smallest], 0.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpectralShrinkage(Term):
    """`spectral_shrinkage` of a stage's features, one vector per example.

    Attributes:
      smallest: how many singular values.
      stage: the stage; None takes the last before the head.
      stream: name of the stream.
    """

    smallest: int = 1
    stage: str | None = None
    stream: str = "target"

    @property
    def streams(self):
        return (self.stream,)

    def check(self, setup: Setup):
        checks.stream(setup, "stream", self.stream)
        checks.number(setup, "smallest", self.smallest, 1)
        checks.stage(setup, "stage", self.reads(setup.program.network))

    def reads(self, network) -> str:
        """Returns the stage whose features are shrunk."""
        return feature_stage(network.stages, self.stage)

    def __call__(self, context):
        features = context.forward(self.stream).features[
            self.reads(context.program.network)
        ]
        return spectral_shrinkage(types.vectors(features), self.smallest)
