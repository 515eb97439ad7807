"""L1-SP: let few parameters leave the starting point, and those far."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.core.config import traced
from jaxtl.core.types import PyTree
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.regularizers import per_leaf


def l1sp(params: PyTree, source: PyTree) -> jax.Array:
    """Σ |θ − θ₀|, the sum over every element of the leaves that both trees have.

    Without ½. Where θ = θ₀ the subgradient is 0.

    Args:
      params: θ, with None where a leaf does not count.
      source: θ₀, the same structure, with None where a leaf has no source.

    References:
      Li, Grandvalet, Davoine, Explicit Inductive Bias for Transfer Learning with
      Convolutional Networks, ICML 2018, section 3, "L1-SP": with factor α.
    """
    gaps = jax.tree.leaves(trees.sub(params, source))
    # The derivative of jnp.abs at 0 is 1, which would push resting parameters away.
    sizes = [jnp.sum(gap * jax.lax.stop_gradient(jnp.sign(gap))) for gap in gaps]
    return sum(sizes, jnp.float32(0.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class L1SP(Term):
    """`l1sp` over the selected trainable parameters that have a source.

    Its gradient has one size wherever a parameter moved, so under plain gradient
    descent parameters waver around θ₀ by up to learning rate × weight.

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
        values = per_leaf.measure(
            context, self.select, lambda _, theta, start: l1sp(theta, start)
        )
        return per_leaf.total(values, self.strengths)
