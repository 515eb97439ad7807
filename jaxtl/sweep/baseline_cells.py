"""Baselines as cells of a sweep: what is fitted without training a network."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtl.analysis import baselines
from jaxtl.core import serialization
from jaxtl.core.errors import UserError
from jaxtl.results.database import DONE, FAILED, Outcome
from jaxtl.sweep import axes
from jaxtl.sweep.grid import Cell
from jaxtl.training.experiment import Experiment

NETWORK = "network"  # the label of cells that train one, where no axis names methods


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """One baseline on one experiment's data.

    Attributes:
      key, labels: as of a `sweep.Cell`.
      baseline: what is fitted.
      exp: whose data and features it takes.
    """

    key: str
    labels: Mapping[str, Any]
    baseline: Any
    exp: Experiment


def method_axis(grid: axes.Grid) -> str:
    """Returns the axis that a baseline's name stands on: that of the methods."""
    for axis, values in grid.axes.items():
        values = values.values if isinstance(values, axes.When) else values
        if isinstance(values, Mapping):
            return axis if isinstance(axis, str) else ", ".join(axis)
    return axes.VARIANT if axes.VARIANT in grid.axes else axes.METHOD


def fits(given: Any, grid: axes.Grid, cells: Sequence[Cell]) -> list[Fit]:
    """Returns the fits that a file's BASELINES ask for in a sweep.

    Each baseline is fitted once for all cells that it can't tell apart (same data, same
    seed, same features); of the axes, those keep their label on which these agree.
    """
    axis, found = method_axis(grid), []
    for name, baseline in baselines.named(given).items():
        groups: dict[Any, list[Cell]] = {}
        for cell in cells:
            groups.setdefault(baselines.key(baseline, cell.exp), []).append(cell)
        telling = _telling(list(groups.values()))
        for members in groups.values():
            first = members[0]
            labels = {axis: f"baseline: {name}"}
            labels |= {k: v for k, v in first.labels.items() if k in telling}
            found.append(_fit(baseline, labels, first.exp))
    return found


def _telling(groups: list[list[Cell]]) -> set[str]:
    """Returns the axes on which the cells of every group agree."""
    names = {axis for cells in groups for cell in cells for axis in cell.labels}
    return {
        axis
        for axis in names
        if all(len({repr(c.labels.get(axis)) for c in cells}) == 1 for cells in groups)
        and (len(groups) > 1 or axis == axes.SEED)
    }


def _fit(baseline, labels, exp: Experiment) -> Fit:
    facts = serialization.to_json(baselines.depends_on(baseline, exp))
    text = json.dumps([facts, list(labels.values())], sort_keys=True, default=str)
    return Fit(hashlib.sha256(text.encode()).hexdigest()[:20], labels, baseline, exp)


def run(fit: Fit, exp: Experiment) -> Outcome:
    """Fits and measures; `exp` is the fit's, with its source trained."""
    begun = time.perf_counter()
    try:
        result = baselines.run(fit.baseline, exp)
    except UserError as error:
        return Outcome(fit.key, FAILED, {}, {}, str(error))
    result = {**result, "seconds": time.perf_counter() - begun}
    return Outcome(fit.key, DONE, result, {})
