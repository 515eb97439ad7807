"""Plots of finished runs: a study's results, and a metric against a number of runs."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxtl.core.errors import UserError, nearest
from jaxtl.results import study_tables
from jaxtl.results.format_number import SHARES, metric_factor
from jaxtl.results.plots.panels import shortened
from jaxtl.results.plots.style import (
    SETTINGS,
    interval_arms,
    line_styles,
    open_axes,
    save_png,
    share_limits,
)
from jaxtl.results.pretraining import pretraining_records
from jaxtl.results.settings import Setting
from jaxtl.results.statistics import Estimate, t_interval
from jaxtl.results.study_tables import NameGrid


@matplotlib.rc_context(SETTINGS)
def study(groups: Sequence[Setting], path: pathlib.Path, *, title: str = "") -> None:
    """Draws the test metric of settings with 95 % intervals.

    Settings whose names form a grid are lines over its columns, others are dots. Where
    a setting has no test metric, the one on val stands for it. Runs that others start
    from, on other data, are left out.

    Args:
      groups: the settings.
      path: of the PNG.
      title: above the axes.
    """
    records = [record for group in groups for record in group.records]
    sources = {id(record) for record in pretraining_records(records)}
    competing = [g for g in groups if not any(id(r) in sources for r in g.records)]
    groups = competing or groups
    metric = study_tables.default_metric(groups)
    grid = study_tables.name_grid(groups)
    figure = _dots(groups, metric) if grid is None else _lines(grid, metric)
    save_png(figure, path, title)


def _estimate(group: Setting, metric: str) -> Estimate | None:
    """The mean of a setting and its interval, None where no run has the metric."""
    values = group.raw_values("test", metric) or group.raw_values("val", metric)
    return t_interval(values) if values else None


def _draw_points(
    axes: Axes,
    points: Mapping[float, Estimate | None],
    metric: str,
    look: Mapping[str, Any],
    *,
    vertical: bool = True,
) -> None:
    """Draws means with their intervals, joined by a line.

    Args:
      axes: to draw into.
      points: position -> the metric; None leaves a gap.
      metric: that is drawn.
      look: color, marker, dashes and label.
      vertical: whether the metric is the y axis; else it is the x axis.
    """
    factor = metric_factor(metric)
    measured = {place: e for place, e in points.items() if e is not None}
    if not measured:
        return
    means = [factor * estimate.mean for estimate in measured.values()]
    pairs = (list(measured), means) if vertical else (means, list(measured))
    axes.plot(*pairs, linewidth=1.4, markersize=5, **look)
    for place, estimate in measured.items():
        arms = interval_arms(estimate, metric)
        if arms:
            lengths, mean = [[arms[0]], [arms[1]]], factor * estimate.mean
            bar = {"fmt": "none", "ecolor": look["color"], "capsize": 3}
            if vertical:
                axes.errorbar(place, mean, yerr=lengths, **bar)
            else:
                axes.errorbar(mean, place, xerr=lengths, **bar)


def _label(metric: str) -> str:
    return f"test {metric}" + (" (%)" if metric in SHARES else "")


def _lines(grid: NameGrid, metric: str) -> Figure:
    figure = Figure(figsize=(8.5, 5), layout="constrained")
    axes, styles = figure.subplots(), line_styles(grid.rows)
    for i, row in enumerate(grid.rows):
        # Side by side, so that intervals can be read where lines cross.
        shift = (i - (len(grid.rows) - 1) / 2) * 0.025
        points = {
            j + shift: _estimate(grid.settings[row, column], metric)
            for j, column in enumerate(grid.columns)
            if (row, column) in grid.settings
        }
        look = {**styles[row], "label": shortened(row, 30)}
        _draw_points(axes, points, metric, look)
    names = [shortened(name, 100 // len(grid.columns)) for name in grid.columns]
    axes.set_xticks(range(len(grid.columns)), names)
    axes.set_xlim(-0.4, len(grid.columns) - 0.6)
    axes.set_ylabel(_label(metric))
    share_limits(axes.yaxis, metric)
    open_axes(axes, "y")
    seeds = max(len(group.done) for group in grid.settings.values())
    title = f"95 % interval, {seeds} seeds" if seeds > 2 else _seeds(seeds)
    figure.legend(loc="outside right upper", frameon=False, title=title, fontsize=9)
    return figure


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def _dots(groups: Sequence[Setting], metric: str) -> Figure:
    figure = Figure(figsize=(8, 1.2 + 0.35 * len(groups)), layout="constrained")
    axes = figure.subplots()
    styles = line_styles(group.labels["run"] for group in groups)
    for i, group in enumerate(groups):
        point = {float(i): _estimate(group, metric)}
        _draw_points(axes, point, metric, styles[group.labels["run"]], vertical=False)
    names = [
        f"{shortened(group.labels['run'], 40)} (n={len(group.done)})"
        for group in groups
    ]
    axes.set_yticks(range(len(groups)), names)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    interval = max(len(group.done) for group in groups) > 2
    axes.set_xlabel(_label(metric) + ", mean and 95 % interval" * interval)
    share_limits(axes.xaxis, metric)
    open_axes(axes, "x")
    return figure


@matplotlib.rc_context(SETTINGS)
def against(
    groups: Sequence[Setting],
    fact: str,
    path: pathlib.Path,
    *,
    metric: str | None = None,
) -> None:
    """Draws the test metric against a number of every run: means, with seeds as dots.

    Args:
      groups: the settings; those named "column/row" share a panel per column.
      fact: a number of result.json, such as "drift" or "flops_per_step".
      path: of the PNG.
      metric: default: what the runs were chosen by.

    Raises:
      UserError: no run stores that number.
    """
    metric = metric or study_tables.default_metric(groups)
    panels: dict[str, dict[str, np.ndarray]] = {}
    for group in groups:
        name = pathlib.PurePath(group.labels["run"])
        points = _fact_points(group, fact, metric)
        if len(points):
            panels.setdefault(name.parent.name, {})[name.name] = points
    if not panels:
        names = _numbers(groups)
        raise UserError(
            f"--against {fact}: no run stores such a number{nearest(fact, names)} "
            f"(known: {', '.join(names)})."
        )
    size = (1.5 + 4.5 * len(panels), 4.6)
    figure = Figure(figsize=size, layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    handles: dict[str, Any] = {}
    styles = line_styles(names)
    for axes, (title, panel) in zip(all_axes, panels.items()):
        handles |= _fact_panel(axes, panel, styles, metric_factor(metric))
        share_limits(axes.yaxis, metric)
        axes.set_xlabel({"drift": "‖θ − θ₀‖"}.get(fact, fact.replace("_", " ")))
        axes.set_title(shortened(title, 45), loc="left", fontsize=10)
        open_axes(axes)
    all_axes[0].set_ylabel(_label(metric))
    figure.legend(
        [handles[name] for name in names],
        [shortened(name, 30) for name in names],
        loc="outside right upper",
        frameon=False,
        fontsize=9,
        title="mean; dots: seeds",
    )
    save_png(figure, path)


def _fact_points(group: Setting, fact: str, metric: str) -> np.ndarray:
    """(number, metric) of each run that has both, (runs, 2)."""
    results = [record.result for record in group.done]
    points = [
        (result[fact], (result.get("test") or result.get("val", {})).get(metric))
        for result in results
        if isinstance(result.get(fact), int | float)
    ]
    return np.array([point for point in points if point[1] is not None], float)


def _numbers(groups: Sequence[Setting]) -> list[str]:
    """The names of all numbers that some run stores."""
    results = [record.result for group in groups for record in group.done]
    return sorted(
        {k for r in results for k, v in r.items() if isinstance(v, int | float)}
    )


def _fact_panel(
    axes: Axes,
    panel: Mapping[str, np.ndarray],
    styles: Mapping[str, Mapping[str, Any]],
    factor: float,
) -> dict[str, Any]:
    """Draws the settings of a panel; returns name -> handle for the legend."""
    for name, points in panel.items():
        style = {**styles[name], "linestyle": "none"}
        dots = {"color": style["color"], "alpha": 0.35, "markersize": 4}
        axes.plot(points[:, 0], factor * points[:, 1], ".", **dots)
        x, y = points.mean(0)
        axes.plot(x, factor * y, label=name, **style)
    handles, labels = axes.get_legend_handles_labels()
    return dict(zip(labels, handles))
