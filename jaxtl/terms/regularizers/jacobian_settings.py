"""Checks of the settings of `JacobianDifference`, and their description."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core import selection
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.regularizers import dense_layers

_OPTIONS = {
    "wrt": ("params", "inputs", "adapters"),
    "estimator": ("projected", "forward", "exact", "dense", "dense_projected"),
    "draws": ("signs", "orthogonal"),
}
_LEAST = {"probes": 1, "directions": 0, "stage_groups": 1, "every": 1}


def check_settings(setup: Setup, settings: Mapping[str, Any]) -> None:
    """Raises UserError for values out of range, and for settings that exclude others.

    Args:
      setup: of the experiment.
      settings: field of the term -> its value.
    """
    for field, options in _OPTIONS.items():
        checks.one_of(setup, field, settings[field], options)
    for field, least in _LEAST.items():
        checks.number(setup, field, settings[field], least)
    checks.number(setup, "fraction", settings["fraction"], 0.0, 1.0)
    estimator, wrt, probes, draws, directions, groups = (
        settings[field]
        for field in (
            "estimator",
            "wrt",
            "probes",
            "draws",
            "directions",
            "stage_groups",
        )
    )
    if estimator == "forward" and draws != "signs":
        raise UserError(
            f"{checks.where(setup, 'draws')}={draws!r}: estimator='forward' "
            "draws directions of the parameters, and expects draws='signs'."
        )
    if wrt == "adapters" and estimator != "forward":
        raise UserError(
            f"{checks.where(setup, 'estimator')}={estimator!r}: wrt='adapters' expects "
            "estimator='forward'."
        )
    if directions and (estimator, wrt, probes) != ("forward", "params", 1):
        raise UserError(
            f"{checks.where(setup, 'directions')}={directions}: expected "
            "estimator='forward', wrt='params' and probes=1, or directions=0."
        )
    if groups > 1 and (estimator, wrt) != ("forward", "params"):
        raise UserError(
            f"{checks.where(setup, 'stage_groups')}={groups}: expected "
            "estimator='forward' and wrt='params', or stage_groups=1."
        )


def check_groups(setup: Setup, groups: Sequence[Sequence[str]]) -> None:
    """Raises UserError where there are fewer stages than groups of them.

    Args:
      setup: of the experiment.
      groups: of stages with selected parameters, `jacobian_stages.stage_groups`.
    """
    stages = [stage for group in groups for stage in group]
    if len(groups) > len(stages) > 0:
        raise UserError(
            f"{checks.where(setup, 'stage_groups')}={len(groups)}: the parameters that "
            f"this term selects lie in {len(stages)} stages ({', '.join(stages)}); "
            f"expected a number from 1 to {len(stages)}."
        )


def check_selection(setup: Setup, mask: PyTree, stage: str) -> None:
    """Raises UserError where nothing is left to differentiate by.

    Args:
      setup: of the experiment.
      mask: tree of bools: the parameters by which the term differentiates.
      stage: whose output is derived.
    """
    if not any(jax.tree.leaves(mask)):
        raise UserError(
            f"{checks.where(setup, 'stage')}: no selected, trainable parameter "
            f"with a source lies at or before the stage {stage!r}, so this term would "
            "always be 0; choose a later stage or another select."
        )


def check_dense(
    setup: Setup, estimator: str, wrt: str, dense: PyTree, selected: PyTree
) -> None:
    """Raises UserError where an estimator for dense layers has none to read.

    Args:
      setup: of the experiment.
      estimator, wrt: of the term.
      dense: mask of the parameters of dense layers that the term selects.
      selected: mask of all that it selects.
    """
    field = f"{checks.where(setup, 'estimator')}={estimator!r}"
    if wrt != "params":
        raise UserError(
            f"{field} differentiates by parameters and wrt={wrt!r}; use "
            "wrt='params', or estimator='projected'."
        )
    dense_layers.check_visible(setup, field)
    if not any(jax.tree.leaves(dense)):
        leaves = trees.flatten(selection.keep(selected, setup.params))
        layers = ", ".join(dense_layers.paths(setup.params)) or "none"
        raise UserError(
            f"{field}: none of the {len(leaves)} parameters that this term "
            f"selects belongs to a dense layer (the model's are: {layers}); use "
            "estimator='projected' or another select."
        )


def check_inputs(x: PyTree) -> None:
    """Raises UserError for inputs by which nothing can be differentiated.

    Args:
      x: inputs, an array or a tree of such.
    """
    for leaf in jax.tree.leaves(x):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise UserError(
                f"JacobianDifference(wrt='inputs'): the inputs are {leaf.dtype} "
                "and have no derivative; use wrt='params'."
            )


def description(
    settings: Mapping[str, Any],
    outputs: str,
    selected: Mapping[str, Any],
    groups: Sequence[Sequence[str]],
) -> str:
    """Describes the Jacobian that a term compares.

    Args:
      settings: field of the term -> its value.
      outputs: what is differentiated, in words.
      selected: path -> parameter, of those by which it is differentiated.
      groups: of stages, one of which a step takes.

    Returns:
      A sentence part: the Jacobian of what, by what, and by how many parameters.
    """
    estimator, every = settings["estimator"], settings["every"]
    steps = "" if every == 1 else f", every {every} steps"
    if settings["directions"]:
        steps = f", along {settings['directions']} fixed directions{steps}"
    if len(groups) > 1:
        names = " | ".join(" ".join(group) for group in groups)
        steps = f", by one of {names} at each step{steps}"
    if settings["wrt"] == "inputs":
        return f"{estimator} Jacobian of {outputs} by the inputs{steps}"
    is_dense = estimator.startswith("dense")
    modules = [p.rpartition("/")[0] if is_dense else p.split("/")[0] for p in selected]
    count = sum(leaf.size for leaf in selected.values())
    moved = " that the adapters move," if settings["wrt"] == "adapters" else ""
    return (
        f"{estimator} Jacobian of {outputs} by {count:,} parameters{moved} of "
        f"{'the dense layers ' if is_dense else ''}"
        f"{', '.join(dict.fromkeys(modules))}{steps}"
    )
