"""BSP: penalizes the largest singular values of adversarially trained features."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.context import View
from jaxtl.terms.domain.domain_pair import DomainPairAtStage


def spectral_penalty(features: jax.Array, largest: int = 1) -> jax.Array:
    """Σ_{i=1}^{k} σ_i²(F), the squares of a batch's largest singular values.

    Args:
      features: F, (batch, d), neither centered nor averaged over the batch.
      largest: k; at most min(batch, d) values count.

    Returns:
      A scalar, without ½.

    References:
      Chen et al., Transferability vs. Discriminability: Batch Spectral Penalization for
      Adversarial Domain Adaptation, ICML 2019, with k = 1.
    """
    # σ² are the eigenvalues of the smaller Gram matrix, whose gradient is finite where
    # singular values repeat.
    matrix = features if features.shape[0] < features.shape[1] else features.T
    squares = jnp.linalg.eigvalsh(jnp.matmul(matrix, matrix.T, precision="highest"))
    return jnp.sum(jnp.maximum(squares[-largest:], 0.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BSP(DomainPairAtStage):
    """`spectral_penalty` of both domains' features, summed.

    Use it beside an adversarial term (DANN or CDAN); the paper's weight is 1e-4.

    Attributes:
      source: stream of the labelled domain.
      target: stream of the other domain; its labels are not used.
      stage: stage whose output is read, one vector per example; None is the last one
        before the head.
      largest: k, the number of singular values of each domain.
    """

    compares: ClassVar[str] = "singular values of the features"

    largest: int = 1

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.number(setup, "largest", self.largest, 1)

    def __call__(self, context: View) -> jax.Array:
        source = self.features(context, self.source)
        target = self.features(context, self.target)
        source_penalty = spectral_penalty(source, self.largest)
        return source_penalty + spectral_penalty(target, self.largest)
