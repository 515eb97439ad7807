"""L1-SP: the absolute distance to the starting point; most parameters stay at it."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.core.types import PyTree
from jaxtl.terms.context import View
from jaxtl.terms.regularizers.per_leaf import LeafTerm


def l1sp(params: PyTree, source: PyTree) -> jax.Array:
    """Σ |θ − θ₀|, the sum over every element of the leaves that both trees have.

    Without ½. Where θ = θ₀ the subgradient is 0.

    Args:
      params: θ, with None where a leaf does not count.
      source: θ₀, the same structure, with None where a leaf has no source.

    Returns:
      A scalar.

    References:
      Li, Grandvalet, Davoine, Explicit Inductive Bias for Transfer Learning with
      Convolutional Networks, ICML 2018, section 3, "L1-SP": with factor α.
    """
    gaps = jax.tree.leaves(trees.sub(params, source))
    # The derivative of jnp.abs at 0 is 1, which would move parameters away from θ₀.
    distances = [jnp.sum(gap * jax.lax.stop_gradient(jnp.sign(gap))) for gap in gaps]
    return sum(distances, jnp.float32(0.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class L1SP(LeafTerm):
    """`l1sp` over the selected trainable parameters that have a source.

    Its gradient has the same size wherever a parameter moved, so under plain gradient
    descent parameters oscillate around θ₀ by up to learning rate × weight.

    Attributes:
      select: pattern of the parameters that count.
      strengths: pattern -> factor of the leaves it matches; the first match counts, and
        1 where there is none.
    """

    def __call__(self, context: View) -> jax.Array:
        return self.weighted_sum(
            self.leaf_values(context, lambda _, params, source: l1sp(params, source))
        )
