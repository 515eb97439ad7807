"""Central moment discrepancy: matches means, variances and higher central moments."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.context import View
from jaxtl.terms.domain.afn import norms
from jaxtl.terms.domain.domain_pair import DomainPairAtStages


def central_moments(
    source: jax.Array,
    target: jax.Array,
    moments: int = 5,
    span: float | jax.Array = 1.0,
) -> jax.Array:
    """‖E S − E T‖₂ / s + Σ_{k=2}^{K} ‖c_k(S) − c_k(T)‖₂ / s^k.

    c_k(X) = E (X − E X)^k of each coordinate; E is the mean over the batch.

    Args:
      source: (n, d) features of one domain.
      target: (m, d) features of the other.
      moments: K, at least 1.
      span: s = |b − a| of features in [a, b]: 1 for a sigmoid, 2 for a tanh. May be
        traced.

    Returns:
      A scalar ≥ 0. Its gradient is 0 in a moment that agrees exactly.

    Raises:
      UserError: if `moments` is below 1.

    References:
      Zellinger et al., Central Moment Discrepancy (CMD) for Domain-Invariant
      Representation Learning, ICLR 2017, with K = 5.
    """
    if moments < 1:
        raise UserError(f"CMD: moments={moments!r}: expected at least 1.")
    # Moments do not change with a common shift, and means far from 0 lose digits.
    center = jax.lax.stop_gradient(jnp.concatenate([source, target]).mean(0))
    source, target = source - center, target - center
    source_mean, target_mean = source.mean(0), target.mean(0)
    total = norms(source_mean - target_mean) / span
    centered = source - source_mean, target - target_mean
    for k in range(2, moments + 1):
        source_moment, target_moment = (jnp.mean(x**k, axis=0) for x in centered)
        total = total + norms(source_moment - target_moment) / span**k
    return total


@dataclasses.dataclass(frozen=True, kw_only=True)
class CMD(DomainPairAtStages):
    """`central_moments` between two streams' features, summed over stages.

    Features are one vector per example (`domain_pair.stage_vectors`). The paper's
    features are bounded. Those of a ReLU are not, and then the high moments of large
    features dominate the sum: set `span` to their usual range, or take fewer moments.

    Attributes:
      source: stream of the labelled domain.
      target: stream of the other domain; its labels are not used.
      stages: stages whose outputs to align; None is the last one before the head.
      moments: K, the highest moment.
      span: |b − a|, the range of the features.
    """

    compares: ClassVar[str] = "moments of the features"

    moments: int = 5
    span: float = traced(1.0)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.number(setup, "moments", self.moments, 1)
        checks.positive(setup, "span", self.span)

    def __call__(self, context: View) -> jax.Array:
        values = [
            central_moments(source, target, self.moments, self.span)
            for source, target in self.feature_pairs(context)
        ]
        return sum(values, jnp.float32(0.0))
