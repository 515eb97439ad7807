"""Cosine-SP: the angle between each leaf and its starting point, whatever its norm."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.terms.context import View
from jaxtl.terms.regularizers.per_leaf import LeafTerm


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
    is_nonzero = (squares[0] > 0) & (squares[1] > 0)
    norms = [jnp.sqrt(jnp.where(is_nonzero, square, 1.0)) for square in squares]
    gap = params / norms[0] - source / norms[1]
    return jnp.where(is_nonzero, 0.5 * jnp.sum(jnp.square(gap)), 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CosineSP(LeafTerm):
    """`cosine_distance`, the mean over leaves, each leaf a vector of its own.

    Per leaf and not over all parameters at once: a layer before a normalization
    computes the same at any norm, and one cosine of all parameters would be that of the
    few largest leaves. Each leaf has the same share in the mean, a bias as much as a
    kernel (`select=".*/kernel"` leaves biases out). Counts the selected trainable
    parameters that have a source.

    Attributes:
      select: pattern of the parameters that count.
      strengths: pattern -> factor of the leaves it matches; the first match counts, and
        1 where there is none. The mean divides by the number of leaves all the same.
    """

    def __call__(self, context: View) -> jax.Array:
        values = self.leaf_values(
            context, lambda _, params, source: cosine_distance(params, source)
        )
        return self.weighted_sum(values) / len(values)
