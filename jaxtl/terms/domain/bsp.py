"""BSP: keep the largest singular values of adversarial features from dominating."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, feature_stage
from jaxtl.terms.domain import domain_pair


def spectral_penalty(features: jax.Array, largest: int = 1) -> jax.Array:
    """Σ_{i=1}^{k} σ_i²(F), the squares of a batch's largest singular values.

    Args:
      features: F, (batch, d), neither centred nor averaged over the batch.
      largest: k; at most min(batch, d) count.

    Returns:
      A scalar, without ½.

    References:
      Chen et al., Transferability vs. Discriminability: Batch Spectral Penalization for
      Adversarial Domain Adaptation, ICML 2019, with k = 1.
    """
    # σ² are the eigenvalues of the smaller Gram matrix, whose gradient is finite where
    # singular values repeat.
    a = features if features.shape[0] < features.shape[1] else features.T
    squares = jnp.linalg.eigvalsh(jnp.matmul(a, a.T, precision="highest"))
    return jnp.sum(jnp.maximum(squares[-largest:], 0.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BSP(Term):
    """`spectral_penalty` of both domains' features, summed; goes with an adversary.

    Add it to DANN or CDAN; the paper's weight is 1e-4.

    Attributes:
      source: stream of the labelled domain.
      target: stream of the other domain; its labels are not used.
      stage: whose features are meant, one vector per example; None is the last before
        the head.
      largest: k, how many singular values of each domain.
    """

    source: str = "source"
    target: str = "unlabelled"
    stage: str | None = None
    largest: int = 1

    @property
    def streams(self):
        return (self.source, self.target)

    def check(self, setup: Setup):
        domain_pair.check(setup, self.source, self.target)
        checks.stage(setup, "stage", self._stage(setup.program.network))
        checks.number(setup, "largest", self.largest, 1)

    def _stage(self, network) -> str:
        return feature_stage(network.stages, self.stage)

    def __call__(self, context):
        stage = self._stage(context.program.network)
        return sum(
            spectral_penalty(domain_pair.feature(context, stream, stage), self.largest)
            for stream in self.streams
        )
