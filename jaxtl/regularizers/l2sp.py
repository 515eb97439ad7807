"""L2-SP: stay near the starting point."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl import checks, select
from jaxtl import tree as trees
from jaxtl.core import PyTree, Setup, Term


def l2sp(params: PyTree, source: PyTree) -> jax.Array:
    """½ Σ (θ − θ₀)², the sum over every element of the leaves that both trees have.

    Args:
      params: θ, with None where a leaf does not count.
      source: θ₀, the same structure, with None where a leaf has no source.

    References:
      Li, Grandvalet, Davoine, Explicit Inductive Bias for Transfer Learning with
      Convolutional Networks, ICML 2018, eq. 2: with factor α.
    """
    return 0.5 * trees.sum_squares(trees.sub(params, source))


@dataclasses.dataclass(frozen=True, kw_only=True)
class L2SP(Term):
    """½‖θ − θ₀‖² over sourced parameters, plus head · ½‖θ‖² over those without.

    With the paper's α and β: weight = α, head = β / α. Frozen parameters count in
    neither part.

    Attributes:
      select: pattern of the parameters that count in the first part.
      head: factor of the second part, ½‖θ‖² over every trainable parameter that has no
        source (a new head).
    """

    select: str = ".*"
    head: float = 0.0

    @property
    def streams(self):
        return ()

    def check(self, setup: Setup):
        checks.sourced(setup)
        checks.selected(setup, self.select, sourced=True)
        checks.number(setup, "head", self.head, 0.0)

    def __call__(self, context):
        params = select.keep(context.mask, context.params)
        chosen = select.mask(self.select, context.params)
        distance = l2sp(select.keep(chosen, params), context.source.params)
        fresh = jax.tree.map(
            lambda theta, start: theta if start is None else None,
            params,
            context.source.params,
            is_leaf=lambda x: x is None,
        )
        decay = 0.5 * trees.sum_squares(fresh)
        drift = jnp.sqrt(2 * jax.lax.stop_gradient(distance))
        return distance + self.head * decay, {"drift": drift}
