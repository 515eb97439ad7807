"""Learning curves of a sweep: the metric on val over training steps."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from jaxtl.results.labels import axis_title, labels_title
from jaxtl.results.plots.panels import MAX_LINES, legend, outer_labels, panels, save
from jaxtl.results.plots.style import SETTINGS, share_limits
from jaxtl.results.plots.sweep_view import SweepView, seeds_text
from jaxtl.results.records import Record
from jaxtl.results.statistics import t_interval

_MAX_BANDS = 6  # more bands hide each other


class _Curve(NamedTuple):
    """A setting's curve.

    Attributes:
      name: of its line.
      records: its runs.
      steps: (n,) that all seeds reached.
      values: (seeds, n).
    """

    name: str
    records: Sequence[Record]
    steps: np.ndarray
    values: np.ndarray


@matplotlib.rc_context(SETTINGS)
def learning_curves(view: SweepView, path: pathlib.Path) -> pathlib.Path | None:
    """Draws the val metric over steps: mean and 95 % band over seeds.

    There is a line per value of the compared axis (where there is none, of the first
    condition or tuned axis), of its setting that is best on val, and a panel per
    condition. Steps that not all seeds reached are left out.

    Returns:
      the PNG's path, None where no curve has two evaluations.
    """
    if view.line is None and (axes := (*view.conditions, *view.tuned)):
        view = view.with_line(axes[0])
    drawn = {
        labels_title(condition): curves
        for condition in view.panels()
        if (curves := _curves(view, condition))
    }
    if not drawn:
        return None
    figure, all_axes = panels(list(drawn))
    styles, banded = view.line_styles(), False
    for axes, curves in zip(all_axes, drawn.values()):
        for curve in curves:
            banded |= _draw(axes, view, curve, styles[curve.name], len(curves))
    share_limits(all_axes[0].yaxis, view.metric)
    outer_labels(all_axes, "training steps", view.label("val"))
    legend(figure, all_axes, axis_title(view.line) if view.line else "")
    settings = [curve.records for curves in drawn.values() for curve in curves]
    band = ""
    if max(map(len, settings)) > 1:
        band = ", mean" + " and 95 % band" * banded
    title = f"Learning curves: val {view.metric}{band}, {seeds_text(settings)}"
    return save(figure, path, title + "; settings chosen on val" * bool(view.tuned))


def _curves(view: SweepView, condition: Mapping) -> list[_Curve]:
    """The curves of a panel that have two evaluations or more."""
    lines = view.lines(view.within(condition))
    curves = []
    for name in view.lines(view.records, MAX_LINES):
        best = view.best_setting(lines.get(name, ()))
        rows = [_metric_by_step(record, view.metric) for record in best]
        rows = [row for row in rows if row]
        steps = sorted(set.intersection(*map(set, rows))) if rows else []
        if len(steps) > 1:
            values = np.array([[_float(row[s]) for s in steps] for row in rows], float)
            curves.append(_Curve(name, best, np.array(steps), values))
    return curves


def _metric_by_step(record: Record, metric: str) -> dict[int, float | None]:
    rows = record.curve.get("val", ())
    return {row["step"]: row[metric] for row in rows if metric in row}


def _float(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _draw(
    axes: Axes, view: SweepView, curve: _Curve, style: dict[str, Any], curves: int
) -> bool:
    """Draws the mean of a curve, with a band unless too many would hide each other.

    Args:
      axes: of the panel.
      view: of the sweep.
      curve: to draw.
      style: of its line.
      curves: number of the panel's curves.

    Returns:
      whether there is a band.
    """
    estimates = [t_interval(values) for values in curve.values.T]
    mean = view.factor * np.array([estimate.mean for estimate in estimates])
    style = {**style, "markersize": 4, "linewidth": 1.5}
    style["markevery"] = max(1, len(curve.steps) // 8)
    axes.plot(curve.steps, mean, label=curve.name, **style)
    arms = [view.arms(estimate) for estimate in estimates]
    if curves > _MAX_BANDS or not any(arms):
        return False
    below, above = np.array([arm or (0.0, 0.0) for arm in arms]).T
    look = {"color": style["color"], "alpha": 0.15, "linewidth": 0}
    axes.fill_between(curve.steps, mean - below, mean + above, **look)
    return True
