"""Group-Lasso-SP: let few units leave the starting point, each as a whole."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.regularizers import per_leaf


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
    # The root has no derivative at 0; the inner choice keeps infinity out of it.
    moved = squares > 0
    norms = jnp.where(moved, jnp.sqrt(jnp.where(moved, squares, 1.0)), 0.0)
    return jnp.sqrt(jnp.float32(gap.shape[1])) * jnp.sum(norms)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupLassoSP(Term):
    """`group_lasso` over the selected trainable parameters that have a source.

    A group is an output unit or channel of one leaf: an index of a kernel's last axis,
    a row of an embedding table; each element of a bias or scale is a group of its own.

    Attributes:
      select: pattern of the parameters that count.
      strengths: pattern -> factor of the leaves it covers; the first match counts, and
        1 where there is none.
    """

    select: str = ".*"
    strengths: Mapping[str, float] = traced({})

    @property
    def streams(self):
        return ()

    def check(self, setup: Setup):
        per_leaf.check(setup, self.select, self.strengths)

    def __call__(self, context):
        def equation(path, theta, start):
            row = path.split("/")[-1] == "embedding"
            return group_lasso(theta, start, 0 if row else -1)

        values = per_leaf.measure(context, self.select, equation)
        return per_leaf.total(values, self.strengths)
