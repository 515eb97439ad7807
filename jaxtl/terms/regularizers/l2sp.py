"""L2-SP: the squared distance to the starting point."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.core.config import traced
from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.regularizers import per_leaf
from jaxtl.terms.regularizers.weight_decay import weight_decay


def l2sp(params: PyTree, source: PyTree) -> jax.Array:
    """½ Σ (θ − θ₀)², the sum over every element of the leaves that both trees have.

    Args:
      params: θ, with None where a leaf does not count.
      source: θ₀, the same structure, with None where a leaf has no source.

    Returns:
      A scalar.

    References:
      Li, Grandvalet, Davoine, Explicit Inductive Bias for Transfer Learning with
      Convolutional Networks, ICML 2018, eq. 2: with factor α.
    """
    return 0.5 * trees.sum_squares(trees.sub(params, source))


@dataclasses.dataclass(frozen=True, kw_only=True)
class L2SP(per_leaf.LeafTerm):
    """½‖θ − θ₀‖² over sourced parameters, plus head · ½‖θ‖² over those without.

    With the paper's α and β: weight = α, head = β / α. Frozen parameters count in
    neither part. Reports ‖θ − θ₀‖ of what counts, without strengths, as `drift`.

    Attributes:
      select: pattern of the parameters that count in the first part.
      strengths: pattern -> factor of the leaves it matches in the first part; the first
        match counts, and 1 where there is none.
      head: factor of the second part, ½‖θ‖² over every trainable parameter that has no
        source (a new head).
    """

    head: float = traced(0.0)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.number(setup, "head", self.head, 0.0)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        values = self.leaf_values(
            context, lambda _, params, source: l2sp(params, source)
        )
        distance = self.weighted_sum(values)
        decay = weight_decay(per_leaf.unsourced_params(context))
        half_square = jax.lax.stop_gradient(per_leaf.weighted_sum(values, {}))
        return distance + self.head * decay, {"drift": jnp.sqrt(2 * half_square)}
