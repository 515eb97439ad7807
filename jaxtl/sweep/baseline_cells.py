"""Baselines as cells of a sweep: models that are fitted without training a network."""

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
from jaxtl.sweep.axes import METHOD, SEED, VARIANT, Grid, When, axis_name
from jaxtl.sweep.cells import Cell
from jaxtl.training.experiment import Experiment

NETWORK = "network"  # label of cells that train a network where no axis names methods


@dataclasses.dataclass(frozen=True, eq=False)
class BaselineFit:
    """The fit of a baseline to the data of one experiment.

    Attributes:
      key: identity, as of a `cells.Cell`.
      labels: axis -> value as tables show it.
      baseline: the model to fit.
      exp: the experiment whose data and features it is fitted to.
    """

    key: str
    labels: Mapping[str, Any]
    baseline: baselines.Baseline
    exp: Experiment


def method_axis(grid: Grid) -> str:
    """Name of the axis that shows a baseline's name: the first with named variants."""
    for axis, values in grid.axes.items():
        values = values.values if isinstance(values, When) else values
        if isinstance(values, Mapping):
            return axis_name(axis)
    return VARIANT if VARIANT in grid.axes else METHOD


def build_fits(named: Any, grid: Grid, cells: Sequence[Cell]) -> list[BaselineFit]:
    """Builds the fits of a sweep's baselines.

    A baseline is fitted once for all cells that make no difference to it (same data,
    same seed, same features). Its labels are those on which these cells agree.

    Args:
      named: name -> baseline, as BASELINES of an experiment file.
      grid: the grid.
      cells: its cells.
    """
    axis, fits = method_axis(grid), []
    for name, baseline in baselines.named(named).items():
        groups: dict[Any, list[Cell]] = {}
        for cell in cells:
            groups.setdefault(baselines.key(baseline, cell.exp), []).append(cell)
        common = _common_axes(list(groups.values()))
        for group in groups.values():
            cell = group[0]
            labels = {axis: f"baseline: {name}"}
            labels |= {k: v for k, v in cell.labels.items() if k in common}
            key = _key(baseline, labels, cell.exp)
            fits.append(BaselineFit(key, labels, baseline, cell.exp))
    return fits


def _common_axes(groups: Sequence[Sequence[Cell]]) -> set[str]:
    """The axes on which the cells of every group agree.

    With one group only the seed: other axes make no difference to the baseline.
    """
    names = {axis for cells in groups for cell in cells for axis in cell.labels}
    return {
        axis
        for axis in names
        if all(len({repr(c.labels.get(axis)) for c in cells}) == 1 for cells in groups)
        and (len(groups) > 1 or axis == SEED)
    }


def _key(
    baseline: baselines.Baseline, labels: Mapping[str, Any], exp: Experiment
) -> str:
    inputs = serialization.to_json(baselines.depends_on(baseline, exp))
    text = json.dumps([inputs, list(labels.values())], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def run_fit(fit: BaselineFit, exp: Experiment) -> Outcome:
    """Fits a baseline and evaluates it; errors of the user make a failed outcome.

    Args:
      fit: the fit.
      exp: its experiment, with the source trained.
    """
    start = time.perf_counter()
    try:
        result = baselines.run(fit.baseline, exp)
    except UserError as error:
        return Outcome(fit.key, FAILED, {}, {}, str(error))
    result = {**result, "seconds": time.perf_counter() - start}
    return Outcome(fit.key, DONE, result, {})
