"""Weights in the order of a model's names: its classes, targets and input columns.

Two models whose classes have the same names in another order have the same weights, but
for the order of their head's outputs; the same holds for the columns of a table and
what reads them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.names import (
    NameMatch,
    are_names,
    are_numbers,
    difference,
    listing,
    match_names,
)
from jaxtl.core.selection import first
from jaxtl.core.types import Network, PyTree
from jaxtl.pretrained import counted_axes
from jaxtl.pretrained.match import Weights


@dataclasses.dataclass(frozen=True)
class Loading:
    """Weights that a model is about to load.

    Attributes:
      config: the model as configuration with its number of outputs, or a `Network`.
      x: a batch of its inputs.
      weights: of any source.
      skipped: patterns of leaves that are not loaded.
      source: what to call the weights in messages.
    """

    config: Any
    x: PyTree
    weights: Weights
    skipped: tuple[str, ...] = ()
    source: str = "the weights"

    def keeps(self, path: str) -> bool:
        """Whether the leaf of that path is loaded."""
        return first(self.skipped, path) is None

    @property
    def network(self) -> Network:
        """The model's pure functions."""
        is_network = isinstance(self.config, Network)
        return self.config if is_network else self.config.pure()


def order_head(
    loading: Loading, names: tuple[str, ...]
) -> tuple[Weights, tuple[str, ...], str]:
    """Brings a head into the order of the data's classes, labels or targets.

    A side without names is taken by place. The names do not matter where the head is
    not loaded.

    Args:
      loading: the model and the weights.
      names: of the model's outputs in order, () for none. Outputs beyond them are the
        source's further ones.

    Returns:
      The weights, the names of all outputs as far as they have one, and a sentence on
      what was decided ("" where there was nothing to decide).

    Raises:
      UserError: names that do not match, or a head that can't be reordered.
    """
    weights, source = loading.weights, loading.source
    stored, stage = weights.output_names, loading.network.stages[-1]
    params = weights.params if isinstance(weights.params, dict) else {}
    head = trees.flatten({stage: params.get(stage, {})})
    if not any(map(loading.keeps, head)):
        return _without_task(weights), names, ""
    if not (stored or names):
        return weights, names, ""
    name_match = match_names(stored, names)
    if name_match is not None and name_match.kind == "place":
        return weights, names, _place_note("head", source, stored, names)
    if name_match is not None and name_match.is_identity:
        note = _order_note(name_match, "head", source, stored, names)
        return weights, _extended(names, stored, name_match), note
    axes = counted_axes.output_axes(loading.config, loading.x)
    if axes is not None and not any(map(loading.keeps, axes)):
        return _without_task(weights), names, ""
    if name_match is None or axes is None:
        raise UserError(_head_problem(loading, names, name_match))
    note = _order_note(name_match, "head", source, stored, names)
    weights = counted_axes.permuted(weights, axes, name_match.places)
    weights = _with_moved_numbers(weights, ("target_offset",), name_match.places)
    return weights, _extended(names, stored, name_match), note


def _without_task(weights: Weights) -> Weights:
    """The weights without the task of their head, which is not loaded."""
    meta = {name: value for name, value in weights.meta.items() if name != "task"}
    return dataclasses.replace(weights, meta=meta)


def _head_problem(
    loading: Loading, names: tuple[str, ...], name_match: NameMatch | None
) -> str:
    """The message for a head whose outputs do not match, or can't be reordered."""
    stored, stage = loading.weights.output_names, loading.network.stages[-1]
    both = (
        f"the head of {loading.source} predicts {listing(stored)}, and the data have "
        f"{listing(names)}"
    )
    if name_match is None:
        return (
            f"{both}{difference(stored, names)}: train a new one with reset={stage!r}, "
            "or name its outputs as the data do with output_names=."
        )
    return (
        f"{both}, and the outputs of this model can't be reordered: give the data the "
        f"head's order, or train a new one with reset={stage!r}."
    )


def _extended(
    names: tuple[str, ...], stored: tuple[str, ...], name_match: NameMatch
) -> tuple[str, ...]:
    """The names, and behind them the source's further ones."""
    return (*names, *(stored[i] for i in name_match.places[len(names) :]))


def order_columns(loading: Loading, names: tuple[str, ...]) -> tuple[Weights, str]:
    """Brings what reads a table into the order of the data's columns.

    The stored mean and deviation of each column move with them; they are dropped where
    the columns are others and what reads them is not loaded.

    Args:
      loading: the model and the weights.
      names: of the input columns in order, () for none.

    Returns:
      The weights, and a sentence as from `order_head`.

    Raises:
      UserError: names that do not match, or inputs that can't be reordered.
    """
    weights, source = loading.weights, loading.source
    stored = weights.feature_names
    if not (stored or names):
        return weights, ""
    name_match = match_names(stored, names)
    if name_match is not None and len(stored) > len(names) > 0:
        name_match = None  # every column has to be there
    if name_match is not None and name_match.kind == "place":
        return weights, _place_note("columns", source, stored, names)
    if name_match is not None and name_match.is_identity:
        return weights, _order_note(name_match, "columns", source, stored, names)
    axes = counted_axes.input_axes(loading.network, loading.x)
    if axes is not None and not any(map(loading.keeps, axes)):
        meta = {k: v for k, v in weights.meta.items() if k != "preprocess"}
        return dataclasses.replace(weights, meta=meta), ""
    columns = f"{source} read the columns {listing(stored)}, and the data have "
    if name_match is None:
        shown = difference(stored, names) or difference(names, stored)
        raise UserError(
            f"{columns}{listing(names)}{shown}: choose the same ones with features="
            f"{_reset_advice(loading, axes)}."
        )
    if axes is None:
        raise UserError(
            f"{columns}{listing(names)}, and the inputs of this model can't be "
            "reordered: give the data that order with features=."
        )
    note = _order_note(name_match, "columns", source, stored, names)
    places = name_match.places
    weights = counted_axes.permuted(weights, axes, places)  # indicators stay behind
    weights = _with_moved_indices(weights, ("indicators", "unseen"), places)
    return _with_moved_numbers(weights, ("mean", "std", "fill"), places), note


def _reset_advice(loading: Loading, axes: Mapping[str, int] | None) -> str:
    """A clause that names the stages that read the columns, "" where unknown."""
    stages = dict.fromkeys(p.split("/")[0] for p in axes or () if loading.keeps(p))
    options = ", ".join(map(repr, stages))
    if not stages:
        return ""
    value = options if len(stages) == 1 else f"({options})"
    return f", or train what reads them anew with reset={value}"


def _with_moved_numbers(
    weights: Weights, fields: Sequence[str], places: Sequence[int]
) -> Weights:
    """The weights with stored numbers of the preprocessing, one per place, moved."""
    stored = weights.meta.get("preprocess")
    if not stored:
        return weights
    moved = {
        name: [value[i] for i in places]
        if name in fields and value and len(value) == len(places)
        else value
        for name, value in stored.items()
    }
    return dataclasses.replace(weights, meta={**weights.meta, "preprocess": moved})


def _with_moved_indices(
    weights: Weights, fields: Sequence[str], places: Sequence[int]
) -> Weights:
    """The weights with stored numbers of columns as these are after a move."""
    stored = weights.meta.get("preprocess")
    if not stored:
        return weights
    new = {old: i for i, old in enumerate(places)}
    moved = {
        name: [new[i] for i in value] if name in fields else value
        for name, value in stored.items()
    }
    return dataclasses.replace(weights, meta={**weights.meta, "preprocess": moved})


def _order_note(
    name_match: NameMatch,
    what: str,
    source: str,
    stored: Sequence[str],
    names: Sequence[str],
) -> str:
    """A sentence on a match by name, "" for equal names in equal order."""
    case = ", whose case differs" if name_match.kind == "but for case" else ""
    if name_match.is_identity and not case:
        return ""
    verb = "matched" if name_match.is_identity else "reordered"
    return (
        f"{what} of {source} {verb} by name{case}: ({listing(stored)}) there, "
        f"({listing(names)}) here"
    )


def _place_note(
    what: str, source: str, stored: Sequence[str], names: Sequence[str]
) -> str:
    """A sentence on a match by place, "" where neither side has names to lose."""
    if not any(are_names(side) and not are_numbers(side) for side in (stored, names)):
        return ""
    there, here = (f"({listing(s)})" if s else "no names" for s in (stored, names))
    return f"{what} of {source} taken by place, not by name: {there} there, {here} here"
