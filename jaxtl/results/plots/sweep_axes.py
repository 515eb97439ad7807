"""Pictures of a metric against the axes of a sweep: one as lines, two as a map."""

import itertools
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jaxtl.results.plots import sweep_cells as cells
from jaxtl.results.plots import view as plots_view
from jaxtl.results.plots.base import COLOURS
from jaxtl.results.plots.view import View


class Scale(NamedTuple):
    """Where an axis's values lie.

    Attributes:
      place: `slices.key` of a value -> position.
      ticks: (position, text) of those that are named.
      zero: position of a 0 that a logarithm has no place for, else None.
      joined: whether neighbours may be joined by a line.
    """

    place: Mapping[str, float]
    ticks: Sequence[tuple[float, str]]
    zero: float | None
    joined: bool


def scale_of(values: Sequence[Any]) -> Scale:
    """Places an axis's values: logarithmic where they span decades, else evenly spread.

    A weight of 0 among numbers that span a factor of eight gets a place of its own,
    left of the others; values that are no numbers stand in their order.
    """
    keys = [plots_view.key(v) for v in values]
    if not all(map(plots_view.is_number, values)):
        ticks = [(float(i), plots_view.text(v)) for i, v in enumerate(values)]
        return Scale(dict(zip(keys, map(float, range(len(keys))))), ticks, None, False)
    positive = [v for v in values if v > 0]
    wide = len(positive) > 1 and max(positive) / min(positive) >= 8
    if min(values) < 0 or not wide:
        place = {k: float(v) for k, v in zip(keys, values)}
        return Scale(place, _named(values, list(place.values())), None, True)
    logs = np.log10(sorted(positive))
    zero = logs[0] - max(np.median(np.diff(logs)), 0.15 * (logs[-1] - logs[0]))
    places = [math.log10(v) if v > 0 else float(zero) for v in values]
    zero = float(zero) if 0 in values else None
    return Scale(dict(zip(keys, places)), _named(values, places), zero, True)


def _named(values, places, most: int = 9):
    """Every value's tick, or evenly thinned ones; 0 keeps its own."""
    order = sorted(range(len(values)), key=lambda i: places[i])
    every = math.ceil(len(order) / most)
    kept = [i for n, i in enumerate(order) if n % every == 0 or values[i] == 0]
    return [(places[i], plots_view.short(values[i])) for i in kept]


def against_axis(view: View, name: str, path: pathlib.Path) -> pathlib.Path | None:
    """Draws the metric against an axis: means and 95 % intervals over seeds.

    A line per compared value, a panel per condition; at each place the other tuned axes
    are chosen on val. A tuned axis shows val, a condition test. What has no place on
    the axis, such as a baseline, is a level line.

    Returns:
      the PNG's path, None where nothing was measured.
    """
    split = "val" if name in view.tuned else view.split
    rest = [a for a in view.tuned if a != name]
    names = list(view.lines(view.records, cells.MOST))
    scale = scale_of(view.axes[name])
    conditions = view.panels(without=name)
    figure, frame = cells.frames([plots_view.said(c) for c in conditions])
    drawn: list = []
    for axis, condition in zip(frame, conditions):
        lines = view.lines(view.within(condition))
        for i, line in enumerate(names):
            groups = plots_view.split_by(lines.get(line, ()), [name])
            best = {k: view.chosen(g) for (k,), g in groups.items()}
            points = {k: view.point(g, split) for k, g in best.items()}
            shown = {k: p for k, p in points.items() if p is not None}
            look = cells.style(i), (i - (len(names) - 1) / 2) / len(names)
            drawn += [best[k] for k in _line(axis, scale, shown, line, look, view)]
        _mark_places(axis, scale)
    if not drawn:
        return None
    cells.outer_labels(frame, plots_view.name(name), view.label(split))
    cells.legend(figure, frame)
    title = f"{split} {view.metric} against {plots_view.name(name)}: mean"
    title += " and 95 % interval" * (max(map(len, drawn)) > 1)
    title += f", {plots_view.seeds(drawn)}"
    title += "; other settings chosen on val" if rest else ""
    return cells.save(figure, path, title[0].upper() + title[1:])


def _line(axis, scale, points, name, look, view) -> list[str]:
    """Draws one line; returns the keys of the places that it shows."""
    style, shift = look
    there = sorted((k for k in points if k in scale.place), key=scale.place.get)
    level = plots_view.key(None)
    if level in points and not there:
        style.update(linestyle="--", marker="")
        axis.axhline(view.factor * points[level].mean, label=name, lw=1.4, **style)
        return [level]
    if not there:
        return []
    # Side by side, so that intervals can be read where lines cross.
    span = max(scale.place.values()) - min(scale.place.values()) or 1.0
    x = np.array([scale.place[k] for k in there]) + 0.03 * shift * span
    mean = view.factor * np.array([points[k].mean for k in there])
    half = view.factor * np.array([points[k].half or 0.0 for k in there])
    joined = style.pop("linestyle")
    bars = {"capsize": 3, "elinewidth": 1, "markersize": 5, "linestyle": "none"}
    axis.errorbar(x, mean, yerr=half, **bars, **style)
    style["linestyle"] = joined if scale.joined else "none"
    first = int(scale.zero is not None and scale.place[there[0]] == scale.zero)
    axis.plot(x[first:], mean[first:], label=name, markersize=5, lw=1.5, **style)
    if first:  # 0 lies infinitely far to the left
        axis.plot(x[:2], mean[:2], ":", color=style["color"], linewidth=1, alpha=0.7)
    return there


def _mark_places(axis, scale: Scale) -> None:
    long = max((len(t) for _, t in scale.ticks), default=0)
    crowded = sum(len(t) + 1 for _, t in scale.ticks) > 36
    rotation = {"rotation": 90 if long > 12 else 45} if crowded else {}
    axis.set_xticks(*zip(*scale.ticks), **rotation)
    axis.minorticks_off()
    places = sorted(scale.place.values())
    room = 0.06 * (places[-1] - places[0]) or 0.5
    axis.set_xlim(places[0] - room, places[-1] + room)
    if scale.zero is not None:
        middle = (places[0] + places[1]) / 2
        style = {"ha": "center", "va": "center", "clip_on": False, "fontsize": 11}
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        where = axis.get_xaxis_transform()
        axis.text(middle, 0, "//", transform=where, bbox=box, **style)


def heat_map(view: View, x: str, y: str, path: pathlib.Path) -> pathlib.Path | None:
    """Draws the mean val metric over two axes with numbers in the cells.

    A panel for each of up to four compared values, the best ones on val; other
    conditions are at their last value, other tuned axes chosen on val in each cell. The
    best cell of a panel has a frame.

    Returns:
      the PNG's path, None where nothing was measured on val.
    """
    panels = _map_panels(view, x, y)
    grids = {n: _grid(view, g, x, y) for n, g in panels.items()}
    grids = {n: g for n, g in grids.items() if np.isfinite(g).any()}
    if not grids:
        return None
    wide, high = len(view.axes[x]), len(view.axes[y])
    columns = 2 if len(grids) > 1 and wide <= 6 else 1
    rows = math.ceil(len(grids) / columns)
    height = 1.5 + rows * max(1.8, min(4.0, 0.42 * high + 0.8))
    figure = Figure(figsize=(cells.WIDE, height), layout="constrained")
    frame = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in frame[len(grids) :]:
        axis.set_axis_off()
    found = view.factor * np.concatenate([g.ravel() for g in grids.values()])
    low, high = np.nanmin(found), np.nanmax(found)
    limits = (low, high) if high > low else (low - 1, high + 1)
    for axis, (name, grid) in zip(frame, grids.items()):
        picture = _map(axis, view, grid, view.axes[x], view.axes[y], limits)
        axis.set_title(name, loc="left", fontsize=10)
        axis.set_xlabel(plots_view.name(x))
        axis.set_ylabel(plots_view.name(y))
    figure.colorbar(picture, ax=frame, label=view.label("val"), shrink=0.8)
    used = [r for group in panels.values() for r in group]
    n = plots_view.seeds(plots_view.split_by(used, list(view.axes)).values())
    names = f"{plots_view.name(x)} and {plots_view.name(y)}"
    title = f"Mean {view.label('val')} over {names}, {n}"
    rest = set(view.tuned) - {x, y}
    return cells.save(
        figure, path, title + ("; other settings chosen on val" if rest else "")
    )


def _map_panels(view: View, x: str, y: str) -> dict:
    last = {a: view.axes[a][-1] for a in view.conditions if a not in (x, y)}
    inside = [r for r in view.within(last) if x in r.labels and y in r.labels]
    note = plots_view.said(last)
    lines = view.lines(inside, most=4).items()
    return {", ".join(t for t in (name, note) if t): group for name, group in lines}


def _grid(view: View, records, x: str, y: str) -> np.ndarray:
    groups, xs, ys = plots_view.split_by(records, [x, y]), view.axes[x], view.axes[y]
    grid = np.full((len(ys), len(xs)), np.nan)
    for (i, b), (j, a) in itertools.product(enumerate(ys), enumerate(xs)):
        best = view.chosen(groups.get((plots_view.key(a), plots_view.key(b)), ()))
        found = view.point(best, "val")
        grid[i, j] = np.nan if found is None else found.mean
    return grid


def _map(axis, view, values, xs, ys, limits):
    (low, high), grid = limits, view.factor * values
    picture = axis.imshow(
        grid, cmap="cividis", vmin=low, vmax=high, aspect="auto", origin="lower"
    )
    digits = 1 if view.factor == 100 else 2
    small = 9 if len(xs) <= 6 else 7
    for i, j in np.ndindex(*grid.shape):
        if np.isfinite(grid[i, j]) and len(xs) <= 12:
            colour = "black" if grid[i, j] > (low + high) / 2 else "white"
            shown = f"{grid[i, j]:.{digits}f}"
            axis.text(
                j, i, shown, color=colour, ha="center", va="center", fontsize=small
            )
    if np.isfinite(grid).any():
        best = np.nanargmax(grid if view.higher else -grid)
        i, j = np.unravel_index(best, grid.shape)
        axis.add_patch(_frame(j, i))
    axis.set_xticks(range(len(xs)), [plots_view.short(v) for v in xs], fontsize=9)
    axis.set_yticks(range(len(ys)), [plots_view.short(v) for v in ys], fontsize=9)
    return picture


def _frame(j: int, i: int):
    place = (j - 0.47, i - 0.46)
    return Rectangle(place, 0.94, 0.92, fill=False, edgecolor=COLOURS[4], linewidth=2.5)
