"""Weight decay as a term: L2 regularization towards zero."""

import dataclasses

import jax

from jaxtl.core import selection
from jaxtl.core import tree as trees
from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.context import View
from jaxtl.terms.regularizers.per_leaf import ParameterTerm


def weight_decay(params: PyTree) -> jax.Array:
    """½ Σ θ², the sum over all leaves and elements; None counts as no leaf.

    Args:
      params: θ, a tree of arrays.

    Returns:
      A scalar in float32 (or wider).
    """
    return 0.5 * trees.sum_squares(params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightDecay(ParameterTerm):
    """½‖θ‖² over the selected trainable parameters; its gradient is θ.

    Under adaptive optimizers this is L2 regularization and not decoupled decay
    (Loshchilov & Hutter, ICLR 2019), which the optimizer offers itself.

    Attributes:
      select: pattern of the parameters that count.
    """

    select: str = ".*"

    def check(self, setup: Setup) -> None:
        checks.selected(setup, self.select)

    def __call__(self, context: View) -> jax.Array:
        trainable = selection.keep(context.program.trainable_mask, context.params)
        selected = selection.mask(self.select, context.params)
        return weight_decay(selection.keep(selected, trainable))
