"""Cosine-SP: keep the direction of each leaf's starting point, whatever its length."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.regularizers import per_leaf


def cosine_distance(params: jax.Array, source: jax.Array) -> jax.Array:
    """1 − cos(θ, θ₀) of one leaf taken as a vector, in [0, 2].

    Computed as ½‖θ/‖θ‖ − θ₀/‖θ₀‖‖², which is the same number and precise near θ₀ too.
    0, with gradient 0, where either is the zero vector.

    Args:
      params: θ of one leaf, of any shape.
      source: θ₀, the same shape.

    Returns:
      A scalar.
    """
    squares = jnp.sum(jnp.square(params)), jnp.sum(jnp.square(source))
    known = (squares[0] > 0) & (squares[1] > 0)
    lengths = [jnp.sqrt(jnp.where(known, s, 1.0)) for s in squares]
    gap = params / lengths[0] - source / lengths[1]
    return jnp.where(known, 0.5 * jnp.sum(jnp.square(gap)), 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CosineSP(Term):
    """`cosine_distance`, the mean over leaves, each leaf a vector of its own.

    Per leaf and not over all parameters at once: a layer before a normalisation means
    the same at any length, and one cosine of everything would be that of the few
    largest leaves. Each leaf counts alike in the mean, a bias as much as a kernel
    (`select=".*/kernel"` leaves biases out). Counts the selected trainable parameters
    that have a source.

    Attributes:
      select: pattern of the parameters that count.
      strengths: pattern -> factor of the leaves it covers; the first match counts, and
        1 where there is none. The mean divides by the number of leaves all the same.
    """

    select: str = ".*"
    strengths: Mapping[str, float] = traced({})

    @property
    def streams(self):
        return ()

    def check(self, setup: Setup):
        per_leaf.check(setup, self.select, self.strengths)

    def __call__(self, context):
        values = per_leaf.measure(
            context, self.select, lambda _, theta, start: cosine_distance(theta, start)
        )
        return per_leaf.total(values, self.strengths) / len(values)
