"""Plots of a metric against the axes of a sweep: one axis as lines, two as a map."""

import itertools
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from jaxtl.evaluation.metrics import is_finite_number
from jaxtl.results.labels import (
    axis_title,
    labels_title,
    plot_label,
    tick_label,
    value_key,
)
from jaxtl.results.plots.panels import (
    MAX_LINES,
    WIDTH,
    legend,
    outer_labels,
    panels,
    save,
    shortened,
)
from jaxtl.results.plots.style import SETTINGS, VERMILION, share_limits, text_color
from jaxtl.results.plots.sweep_view import SweepView, seeds_text, split_by
from jaxtl.results.records import Record
from jaxtl.results.statistics import Estimate


class AxisScale(NamedTuple):
    """The positions of an axis's values in a plot.

    Attributes:
      positions: `labels.value_key` of a value -> position.
      ticks: (position, text) of the values that are named.
      zero: position of a 0 that a logarithmic scale has no place for, else None.
      joined: whether lines join neighboring values.
    """

    positions: Mapping[str, float]
    ticks: Sequence[tuple[float, str]]
    zero: float | None
    joined: bool


def axis_scale(values: Sequence[Any]) -> AxisScale:
    """Places the values of an axis.

    Numbers that span a factor of eight or more are placed by their logarithm, and a 0
    among them left of the others; other numbers are placed linearly, and values that
    are no numbers at equal distances.
    """
    keys = [value_key(v) for v in values]
    if not all(map(is_finite_number, values)):
        ticks = [(float(i), plot_label(v)) for i, v in enumerate(values)]
        positions = {key: float(i) for i, key in enumerate(keys)}
        return AxisScale(positions, ticks, None, False)
    positive = [v for v in values if v > 0]
    wide = len(positive) > 1 and max(positive) / min(positive) >= 8
    if min(values) < 0 or not wide:
        positions = {k: float(v) for k, v in zip(keys, values)}
        ticks = _ticks(values, list(positions.values()))
        return AxisScale(positions, ticks, None, True)
    logs = np.log10(sorted(positive))
    zero = logs[0] - max(np.median(np.diff(logs)), 0.15 * (logs[-1] - logs[0]))
    places = [math.log10(v) if v > 0 else float(zero) for v in values]
    zero = float(zero) if 0 in values else None
    return AxisScale(dict(zip(keys, places)), _ticks(values, places), zero, True)


def _ticks(
    values: Sequence[float], positions: Sequence[float], most: int = 9
) -> list[tuple[float, str]]:
    """A tick for every value, or evenly thinned ones; 0 keeps its own."""
    order = sorted(range(len(values)), key=lambda i: positions[i])
    step = math.ceil(len(order) / most)
    named = [i for n, i in enumerate(order) if n % step == 0 or values[i] == 0]
    return [(positions[i], tick_label(values[i])) for i in named]


@matplotlib.rc_context(SETTINGS)
def against_axis(view: SweepView, name: str, path: pathlib.Path) -> pathlib.Path | None:
    """Draws the metric against an axis: means and 95 % intervals over seeds.

    There is a line per compared value and a panel per condition; at each position the
    other tuned axes are chosen on val. A tuned axis shows val, a condition test. A
    setting without a value on the axis, such as a baseline, is a horizontal line.

    Args:
      view: of the sweep.
      name: the axis.
      path: of the PNG.

    Returns:
      the PNG's path, None where nothing was measured.
    """
    split = "val" if name in view.tuned else view.split
    lines, styles = list(view.lines(view.records, MAX_LINES)), view.line_styles()
    scale = axis_scale(view.axes[name])
    conditions = view.panels(without=name)
    figure, all_axes = panels([labels_title(condition) for condition in conditions])
    drawn: list[list[Record]] = []
    for axes, condition in zip(all_axes, conditions):
        groups = view.lines(view.within(condition))
        for i, line in enumerate(lines):
            by_value = split_by(groups.get(line, ()), [name])
            best = {key: view.best_setting(g) for (key,), g in by_value.items()}
            estimates = {key: view.estimate(g, split) for key, g in best.items()}
            estimates = {k: e for k, e in estimates.items() if e is not None}
            shift = (i - (len(lines) - 1) / 2) / len(lines)
            style = {**styles[line], "label": line}
            keys = _draw_line(axes, view, scale, estimates, style, shift)
            drawn += [best[key] for key in keys]
        _draw_ticks(axes, scale, 36 if len(conditions) > 1 else 60)
    if not drawn:
        return None
    share_limits(all_axes[0].yaxis, view.metric)
    outer_labels(all_axes, axis_title(name), view.label(split))
    legend(figure, all_axes)
    title = f"{split} {view.metric} against {axis_title(name)}: mean"
    title += " and 95 % interval" * (max(map(len, drawn)) > 1)
    title += f", {seeds_text(drawn)}"
    if set(view.tuned) - {name}:
        title += "; other settings chosen on val"
    return save(figure, path, title[0].upper() + title[1:])


def _draw_line(
    axes: Axes,
    view: SweepView,
    scale: AxisScale,
    estimates: Mapping[str, Estimate],
    style: dict[str, Any],
    shift: float,
) -> list[str]:
    """Draws one line.

    Args:
      axes: of the panel.
      view: of the sweep.
      scale: of the x axis.
      estimates: `value_key` of a value -> the metric.
      style: of the line, with its label.
      shift: of its points to the side, in (−½, ½).

    Returns:
      the keys of the values that it shows.
    """
    keys = sorted(
        (k for k in estimates if k in scale.positions), key=scale.positions.get
    )
    level = value_key(None)
    if level in estimates and not keys:
        style = {**style, "linestyle": "--", "marker": "", "linewidth": 1.4}
        axes.axhline(view.factor * estimates[level].mean, **style)
        return [level]
    if not keys:
        return []
    # Side by side, so that intervals can be read where lines cross.
    span = max(scale.positions.values()) - min(scale.positions.values()) or 1.0
    x = np.array([scale.positions[k] for k in keys]) + 0.03 * shift * span
    mean = view.factor * np.array([estimates[k].mean for k in keys])
    arms = [view.arms(estimates[k]) for k in keys]
    barred = [i for i, arm in enumerate(arms) if arm]
    label, dashes = style.pop("label"), style.pop("linestyle")
    if barred:
        lengths = np.array([arms[i] for i in barred]).T
        bars = {"fmt": "none", "capsize": 3, "elinewidth": 1, "ecolor": style["color"]}
        axes.errorbar(x[barred], mean[barred], yerr=lengths, **bars)
    style |= {"linestyle": dashes if scale.joined else "none", "markersize": 5}
    first = int(scale.zero is not None and scale.positions[keys[0]] == scale.zero)
    axes.plot(x[first:], mean[first:], label=label, linewidth=1.5, **style)
    if first:  # a dotted line, since 0 is infinitely far to the left
        color = {"color": style["color"], "linewidth": 1, "alpha": 0.7}
        axes.plot(x[:2], mean[:2], ":", **color)
    return keys


def _draw_ticks(axes: Axes, scale: AxisScale, most: int) -> None:
    """Draws the ticks of the x axis, and "//" between a 0 and a logarithmic scale.

    Args:
      axes: of the panel.
      scale: of the x axis.
      most: characters that fit beside each other below it.
    """
    longest = max((len(text) for _, text in scale.ticks), default=0)
    crowded = sum(len(text) + 1 for _, text in scale.ticks) > most
    rotation = {"rotation": 90 if longest > 12 else 45} if crowded else {}
    axes.set_xticks(*zip(*scale.ticks), **rotation)
    axes.minorticks_off()
    positions = sorted(scale.positions.values())
    margin = 0.06 * (positions[-1] - positions[0]) or 0.5
    axes.set_xlim(positions[0] - margin, positions[-1] + margin)
    if scale.zero is not None:
        middle = (positions[0] + positions[1]) / 2
        style = {"ha": "center", "va": "center", "clip_on": False, "fontsize": 11}
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        transform = axes.get_xaxis_transform()
        axes.text(middle, 0, "//", transform=transform, bbox=box, **style)


@matplotlib.rc_context(SETTINGS)
def heat_map(
    view: SweepView, x: str, y: str, path: pathlib.Path
) -> pathlib.Path | None:
    """Draws the mean val metric over two axes, with figures in the cells.

    There is a panel for each of up to four compared values, those that are best on val;
    other conditions have their last value, and other tuned axes are chosen on val in
    each cell. A frame marks the best cell of a panel.

    Args:
      view: of the sweep.
      x: the horizontal axis.
      y: the vertical axis.
      path: of the PNG.

    Returns:
      the PNG's path, None where nothing was measured on val.
    """
    groups = _map_groups(view, x, y)
    maps = {name: _map_values(view, group, x, y) for name, group in groups.items()}
    maps = {name: values for name, values in maps.items() if np.isfinite(values).any()}
    if not maps:
        return None
    columns = 2 if len(maps) > 1 and len(view.axes[x]) <= 6 else 1
    rows = math.ceil(len(maps) / columns)
    row_height = max(1.8, min(4.0, 0.42 * len(view.axes[y]) + 0.8))
    size = (WIDTH, 1.5 + rows * row_height)
    figure = Figure(figsize=size, layout="constrained")
    all_axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in all_axes[len(maps) :]:
        axes.set_axis_off()
    values = view.factor * np.concatenate([v.ravel() for v in maps.values()])
    low, high = np.nanmin(values), np.nanmax(values)
    limits = (low, high) if high > low else (low - 1, high + 1)
    for axes, (name, values) in zip(all_axes, maps.items()):
        image = _draw_map(axes, view, values, (x, y), limits)
        axes.set_title(shortened(name, 64 // columns), loc="left", fontsize=10)
        axes.set_xlabel(axis_title(x))
        axes.set_ylabel(axis_title(y))
    figure.colorbar(image, ax=all_axes, label=view.label("val"), shrink=0.8)
    records = [record for group in groups.values() for record in group]
    seeds = seeds_text(split_by(records, list(view.axes)).values())
    names = f"{axis_title(x)} and {axis_title(y)}"
    title = f"Mean {view.label('val')} over {names}, {seeds}"
    if set(view.tuned) - {x, y}:
        title += "; other settings chosen on val"
    return save(figure, path, title)


def _map_groups(view: SweepView, x: str, y: str) -> dict[str, list[Record]]:
    """Title of a panel -> its records."""
    last = {a: view.axes[a][-1] for a in view.conditions if a not in (x, y)}
    records = [r for r in view.within(last) if x in r.labels and y in r.labels]
    condition = labels_title(last)
    lines = view.lines(records, most=4)
    return {
        ", ".join(text for text in (name, condition) if text): group
        for name, group in lines.items()
    }


def _map_values(
    view: SweepView, records: Iterable[Record], x: str, y: str
) -> np.ndarray:
    """The mean val metric, (values of y, values of x); NaN where it is missing."""
    groups = split_by(records, [x, y])
    xs, ys = map(value_key, view.axes[x]), map(value_key, view.axes[y])
    values = []
    for b, a in itertools.product(ys, list(xs)):
        estimate = view.estimate(view.best_setting(groups.get((a, b), ())), "val")
        values.append(np.nan if estimate is None else estimate.mean)
    return np.array(values, float).reshape(len(view.axes[y]), len(view.axes[x]))


def _draw_map(
    axes: Axes,
    view: SweepView,
    values: np.ndarray,
    names: tuple[str, str],
    limits: tuple[float, float],
) -> AxesImage:
    (low, high), grid = limits, view.factor * values
    xs, ys = (view.axes[name] for name in names)
    image = axes.imshow(
        grid, cmap="cividis", vmin=low, vmax=high, aspect="auto", origin="lower"
    )
    digits = 1 if view.factor == 100 else 2
    style = {"ha": "center", "va": "center", "fontsize": 9 if len(xs) <= 6 else 7}
    for i, j in np.ndindex(*grid.shape):
        if np.isfinite(grid[i, j]) and len(xs) <= 12:
            color = text_color(image.cmap(image.norm(grid[i, j]))[:3])
            axes.text(j, i, f"{grid[i, j]:.{digits}f}", color=color, **style)
    if np.isfinite(grid).any():
        best = np.nanargmax(grid if view.higher else -grid)
        i, j = np.unravel_index(best, grid.shape)
        corner = (j - 0.47, i - 0.46)
        frame = {"fill": False, "edgecolor": VERMILION, "linewidth": 2.5}
        axes.add_patch(Rectangle(corner, 0.94, 0.92, **frame))
    axes.set_xticks(range(len(xs)), [tick_label(v) for v in xs], fontsize=9)
    axes.set_yticks(range(len(ys)), [tick_label(v) for v in ys], fontsize=9)
    return image
