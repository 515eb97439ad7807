"""Directions of the Jacobian difference in the parameters of adapters.

With adapter parameters A, the weights W(A) that the network reads, and D = ∂W/∂A,

    E ‖(J(W) − J(W₀)) D u‖² = ‖(J(W) − J(W₀)) D‖²_F    for random signs u.

The source has no adapters: its weights W₀ move along the same direction D u. Changes of
the Jacobian along which the adapters cannot move the weights are not penalized.
"""

from collections.abc import Sequence

import jax

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.context import Context, View
from jaxtl.terms.regularizers.jacobian_estimates import random_signs


def weight_directions(
    context: View, keys: Sequence[jax.Array], mask: PyTree
) -> list[PyTree]:
    """D u for random signs u, differentiable in the adapters.

    Args:
      context: of the step.
      keys: from each of which a u is drawn.
      mask: tree of bools over the weights: those that directions move.

    Returns:
      For each key a tree of the structure of the weights, None at all other leaves.
    """
    adapters, weights = context.adapters
    _, derivative = jax.linearize(weights, adapters)
    return [
        trees.restrict(derivative(random_signs(key, adapters)), mask) for key in keys
    ]


def adapted_paths(context: View | Context | Setup, wrt: str) -> set[str] | None:
    """The paths of the weights that adapters change.

    Args:
      context: of the step, or of the experiment.
      wrt: what the term differentiates by.

    Returns:
      The paths; None where the term does not differentiate by adapters.
    """
    if wrt != "adapters":
        return None
    program = context.program
    mask = program.peft.adapted_mask(program.base_params(context.params))
    return {path for path, is_adapted in trees.flatten(mask).items() if is_adapted}


def check_adapters(setup: Setup, wrt: str) -> None:
    """Raises UserError where a term differentiates by adapters and there are none.

    Args:
      setup: of the experiment.
      wrt: what the term differentiates by.
    """
    if wrt == "adapters" and setup.program.peft is None:
        raise UserError(
            f"{checks.where(setup, 'wrt')}='adapters': the experiment has no adapters; "
            "expected wrt='params', or peft=tl.peft.LoRA(…)."
        )
