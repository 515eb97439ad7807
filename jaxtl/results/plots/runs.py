"""Plots of finished runs: a study's results, and a metric against a number of runs."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxtl.core.errors import UserError, nearest
from jaxtl.results import study_tables
from jaxtl.results.format_number import SHARES, metric_factor
from jaxtl.results.plots.style import COLORS, MARKERS, open_axes, save_png
from jaxtl.results.settings import Setting
from jaxtl.results.statistics import t_interval
from jaxtl.results.study_tables import NameGrid


def study(groups: Sequence[Setting], path: pathlib.Path, *, title: str = "") -> None:
    """Draws the test metric of settings with 95 % intervals.

    Settings whose names form a grid are lines over its columns, others are dots. Where
    a setting has no test metric, the one on val stands for it.

    Args:
      groups: the settings.
      path: of the PNG.
      title: above the axes.
    """
    metric = study_tables.default_metric(groups)
    grid = study_tables.name_grid(groups)
    figure = _dots(groups, metric) if grid is None else _lines(grid, metric)
    save_png(figure, path, title)


def _point(group: Setting, metric: str) -> tuple[float, float]:
    """The mean of a setting and half of its interval, in the units of the plot."""
    values = group.raw_values("test", metric) or group.raw_values("val", metric)
    if not values:
        return np.nan, 0.0
    estimate, factor = t_interval(values), metric_factor(metric)
    return factor * estimate.mean, factor * (estimate.half or 0.0)


def _label(metric: str) -> str:
    return f"test {metric}" + (" (%)" if metric in SHARES else "")


def _lines(grid: NameGrid, metric: str) -> Figure:
    figure = Figure(figsize=(8.5, 5), layout="constrained")
    axes = figure.subplots()
    for i, row in enumerate(grid.rows):
        columns = [j for j, c in enumerate(grid.columns) if (row, c) in grid.settings]
        points = [_point(grid.settings[row, grid.columns[j]], metric) for j in columns]
        # Side by side, so that intervals can be read where lines cross.
        shift = (i - (len(grid.rows) - 1) / 2) * 0.025
        axes.errorbar(
            np.array(columns) + shift,
            [mean for mean, _ in points],
            yerr=[half for _, half in points],
            label=row,
            color=COLORS[i % len(COLORS)],
            marker=MARKERS[i % len(MARKERS)],
            capsize=3,
            linewidth=1.4,
            markersize=5,
        )
    axes.set_xticks(range(len(grid.columns)), grid.columns)
    axes.set_xlim(-0.4, len(grid.columns) - 0.6)
    axes.set_ylabel(_label(metric))
    open_axes(axes, "y")
    seeds = max(len(group.done) for group in grid.settings.values())
    title = f"95 % interval, {seeds} seeds" if seeds > 1 else "one seed"
    figure.legend(loc="outside right upper", frameon=False, title=title, fontsize=9)
    return figure


def _dots(groups: Sequence[Setting], metric: str) -> Figure:
    figure = Figure(figsize=(8, 1.2 + 0.35 * len(groups)), layout="constrained")
    axes = figure.subplots()
    for i, group in enumerate(groups):
        mean, half = _point(group, metric)
        axes.errorbar(
            mean, i, xerr=half, fmt="o", color=COLORS[5], capsize=3, markersize=5
        )
    names = [f"{group.labels['run']} (n={len(group.done)})" for group in groups]
    axes.set_yticks(range(len(groups)), names)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlabel(f"{_label(metric)}, mean and 95 % interval")
    open_axes(axes, "x")
    return figure


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
    for axes, (title, panel) in zip(all_axes, panels.items()):
        handles |= _fact_panel(axes, panel, names, metric_factor(metric))
        axes.set_xlabel({"drift": "‖θ − θ₀‖"}.get(fact, fact.replace("_", " ")))
        axes.set_title(title, loc="left", fontsize=10)
        open_axes(axes)
    all_axes[0].set_ylabel(_label(metric))
    figure.legend(
        [handles[name] for name in names],
        names,
        loc="outside right upper",
        frameon=False,
        fontsize=9,
        title="mean; dots: seeds",
    )
    figure.savefig(path, dpi=150)


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
    axes: Axes, panel: Mapping[str, np.ndarray], names: Sequence[str], factor: float
) -> dict[str, Any]:
    """Draws the settings of a panel; returns name -> handle for the legend."""
    for name, points in panel.items():
        i = names.index(name)
        color, marker = COLORS[i % len(COLORS)], MARKERS[i // len(COLORS)]
        axes.plot(points[:, 0], factor * points[:, 1], ".", color=color, alpha=0.35)
        x, y = points.mean(0)
        axes.plot(x, factor * y, marker, color=color, label=name)
    handles, labels = axes.get_legend_handles_labels()
    return dict(zip(labels, handles))
