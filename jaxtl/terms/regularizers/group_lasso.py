"""Group-Lasso-SP: whole units stay at the starting point or leave it."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxtl.terms.context import View
from jaxtl.terms.regularizers.per_leaf import LeafTerm


def group_lasso(params: jax.Array, source: jax.Array, axis: int = -1) -> jax.Array:
    """Σ_g √s_g · ‖θ_g − θ₀_g‖₂ over the groups g of one leaf, s_g elements each.

    Without ½. A group that lies at θ₀ has the gradient 0.

    Args:
      params: θ of one leaf, of any shape.
      source: θ₀, the same shape.
      axis: each index along it is a group; a scalar is a group of one.

    Returns:
      A scalar.

    References:
      Li, Grandvalet, Davoine, Explicit Inductive Bias for Transfer Learning with
      Convolutional Networks, ICML 2018, section 3, "Group-Lasso-SP": with factor α.
    """
    gap = jnp.atleast_1d(params - source)
    gap = jnp.moveaxis(gap, axis, 0).reshape(gap.shape[axis], -1)
    squares = jnp.sum(jnp.square(gap), axis=1)
    # The root has no derivative at 0; the inner `where` keeps infinity out of it.
    has_moved = squares > 0
    norms = jnp.where(has_moved, jnp.sqrt(jnp.where(has_moved, squares, 1.0)), 0.0)
    return math.sqrt(gap.shape[1]) * jnp.sum(norms)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupLassoSP(LeafTerm):
    """`group_lasso` over the selected trainable parameters that have a source.

    A group is an output unit or channel of one leaf: an index of a kernel's last axis,
    a row of an embedding table; each element of a bias or scale is a group of its own.

    Attributes:
      select: pattern of the parameters that count.
      strengths: pattern -> factor of the leaves it matches; the first match counts, and
        1 where there is none.
    """

    def __call__(self, context: View) -> jax.Array:
        def equation(path: str, params: jax.Array, source: jax.Array) -> jax.Array:
            is_embedding = path.split("/")[-1] == "embedding"
            return group_lasso(params, source, 0 if is_embedding else -1)

        return self.weighted_sum(self.leaf_values(context, equation))
