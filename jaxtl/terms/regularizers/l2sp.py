"""L2-SP: stay near the starting point."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxtl.core import selection
from jaxtl.core import tree as trees
from jaxtl.core.config import traced
from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.regularizers import per_leaf


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
    neither part. Reports ‖θ − θ₀‖ of what counts, without strengths, as `drift`.

    Attributes:
      select: pattern of the parameters that count in the first part.
      strengths: pattern -> factor of the leaves it covers in the first part; the first
        match counts, and 1 where there is none.
      head: factor of the second part, ½‖θ‖² over every trainable parameter that has no
        source (a new head).
    """

    select: str = ".*"
    strengths: Mapping[str, float] = traced({})
    head: float = traced(0.0)

    @property
    def streams(self):
        return ()

    def check(self, setup: Setup):
        per_leaf.check(setup, self.select, self.strengths)
        checks.number(setup, "head", self.head, 0.0)

    def __call__(self, context):
        values = per_leaf.measure(
            context, self.select, lambda _, theta, start: l2sp(theta, start)
        )
        distance = per_leaf.total(values, self.strengths)
        fresh = jax.tree.map(
            lambda theta, start: theta if start is None else None,
            selection.keep(context.program.trainable_mask, context.params),
            context.source.params,
            is_leaf=lambda x: x is None,
        )
        decay = 0.5 * trees.sum_squares(fresh)
        drift = jnp.sqrt(2 * jax.lax.stop_gradient(per_leaf.total(values, {})))
        return distance + self.head * decay, {"drift": drift}
