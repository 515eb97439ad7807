"""Central moment discrepancy: match means, variances and what comes after them."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.domain import domain_pair


def central_moments(
    source: jax.Array, target: jax.Array, moments: int = 5, span=1.0
) -> jax.Array:
    """‖E S − E T‖₂ / s + Σ_{k=2}^{K} ‖c_k(S) − c_k(T)‖₂ / s^k.

    c_k(X) = E (X − E X)^k by coordinates; E is the batch's mean.

    Args:
      source: (n, d) features of one domain.
      target: (m, d) features of the other.
      moments: K, at least 1.
      span: s = |b − a| of features in [a, b]; 1 for a sigmoid's, 2 for a tanh's.

    Returns:
      A scalar ≥ 0. Its gradient is 0 in a moment that agrees exactly.

    References:
      Zellinger et al., Central Moment Discrepancy (CMD) for Domain-Invariant
      Representation Learning, ICLR 2017, with K = 5.
    """
    if moments < 1:
        raise UserError(f"CMD: moments={moments!r}: expected at least 1.")
    means = source.mean(0), target.mean(0)
    total = _norm(means[0] - means[1]) / span
    centred = source - means[0], target - means[1]
    for k in range(2, moments + 1):
        a, b = (jnp.mean(x**k, axis=0) for x in centred)
        total = total + _norm(a - b) / span**k
    return total


def _norm(x: jax.Array) -> jax.Array:
    """‖x‖₂ with the gradient 0 at 0, where a square root has none."""
    square = jnp.sum(jnp.square(x))
    root = jnp.sqrt(jnp.where(square > 0, square, 1.0))
    return jnp.where(square > 0, root, 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CMD(Term):
    """`central_moments` between two streams' features, summed over stages.

    Features are one vector per example (`pairs.vector`). The paper's are bounded; those
    of a ReLU are not, and high moments of large features drown the others: give their
    usual range as `span`, or fewer moments.

    Attributes:
      source: stream of the labelled domain.
      target: stream of the other domain; its labels are not used.
      stages: whose outputs to align; None is the last before the head.
      moments: K, the highest moment.
      span: |b − a|, the range of the features.
    """

    source: str = "source"
    target: str = "unlabelled"
    stages: tuple[str, ...] | None = None
    moments: int = 5
    span: float = traced(1.0)

    @property
    def streams(self):
        return (self.source, self.target)

    def check(self, setup: Setup):
        domain_pair.check(setup, self.source, self.target, self.stages)
        checks.number(setup, "moments", self.moments, 1)
        checks.positive(setup, "span", self.span)

    def __call__(self, context):
        return sum(
            central_moments(
                *domain_pair.both(context, self, stage), self.moments, self.span
            )
            for stage in domain_pair.chosen(self.stages, context.program.network)
        )
