"""Pictures of a sweep: which of them its axes allow, and what settings cost."""

import dataclasses
import itertools
import pathlib
import textwrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxtl.results.plots import sweep_axes
from jaxtl.results.plots import sweep_cells as cells
from jaxtl.results.plots import view as plots_view
from jaxtl.results.plots.base import COLOURS
from jaxtl.results.plots.view import View
from jaxtl.results.records import Collection

_FACTS = {
    "drift": "drift from the source ‖θ − θ₀‖",
    "seconds": "seconds per cell",
    "train_seconds": "seconds of training",
    "trainable_parameters": "trainable parameters",
}
_AXES = 4  # pictures of metrics against axes
_MAPS = 2  # heat maps


def against_fact(
    view: View, fact: str, path: pathlib.Path, *, chosen: bool = False
) -> pathlib.Path | None:
    """Draws the metric against a number of every result.

    Args:
      view: of the records.
      fact: a number in `result`, such as "drift" or "seconds".
      path: where to write.
      chosen: one mark with its interval for each compared value, at its setting that
        is best on val, by the view's split; else every setting's mean on val, with its
        seeds as dots.

    Returns:
      the PNG's path, None where all results agree in that number.
    """
    # Of all records, so that a line has the same colour in every picture.
    names = list(view.lines(view.records, cells.MOST))
    known = tuple(r for r in view.records if plots_view.is_number(r.result.get(fact)))
    view = dataclasses.replace(view, records=known)
    # Whoever looks at all settings on test has chosen by test.
    split = view.split if chosen or not view.tuned else "val"
    sizes = {abs(r.result[fact]) for r in known}
    if len(sizes) < 2:
        return None
    conditions = view.panels()
    figure, frame = cells.frames([plots_view.said(c) for c in conditions])
    drawn: list = []
    for axis, condition in zip(frame, conditions):
        lines = view.lines(view.within(condition))
        for i, name in enumerate(names):
            group = lines.get(name, ())
            groups = plots_view.split_by(group, view.tuned).values()
            groups = [view.chosen(group)] if chosen else list(groups)
            drawn += _marks(axis, view, groups, fact, split, name, cells.style(i))
            if chosen:
                _bars(axis, view, groups, fact, split, cells.style(i))
    if not drawn:
        return None
    sizes = sorted(sizes - {0.0})
    if sizes[-1] / sizes[0] >= 30 and min(r.result[fact] for r in known) > 0:
        for axis in frame:
            axis.set_xscale("log")
    label = _FACTS.get(fact, fact.replace("_", " "))
    cells.outer_labels(frame, label, view.label(split))
    cells.legend(figure, frame)
    title = f"{split} {view.metric} against {label}, {plots_view.seeds(drawn)}: "
    kinds = ("marks are settings, dots seeds", "mean, 95 % interval; dots: seeds")
    title += kinds[chosen] + "; settings chosen on val" * (chosen and bool(view.tuned))
    return cells.save(figure, path, title[0].upper() + title[1:])


def _marks(axis, view, groups, fact, split, name, look) -> list:
    """Draws settings over their seeds; returns those that were measured."""
    look["linestyle"], shown = "none", []
    for group in groups:
        there = [r for r in group if plots_view.is_number(r.value(split, view.metric))]
        if not there:
            continue
        x = np.array([r.result[fact] for r in there], float)
        y = view.factor * np.array([r.value(split, view.metric) for r in there])
        if len(there) > 1:
            axis.plot(x, y, ".", color=look["color"], alpha=0.35, markersize=4)
        label = "" if shown else name
        axis.plot(x.mean(), y.mean(), label=label, markersize=6, **look)
        shown.append(there)
    return shown


def _bars(axis, view, groups, fact, split, look) -> None:
    for group in groups:
        found = view.point(group, split)
        if found is not None and found.half is not None:
            x = np.mean([r.result[fact] for r in group])
            y, half = view.factor * found.mean, view.factor * found.half
            axis.errorbar(x, y, yerr=half, capsize=3, color=look["color"])


def overview(view: View, path: pathlib.Path) -> pathlib.Path | None:
    """Draws each compared value's metric with intervals, val and test, best val first.

    Of conditions the last; tuned axes are chosen on val.

    Returns:
      the PNG's path, None where fewer than two values were measured.
    """
    condition = view.panels()[-1]
    splits = ("val", "test") if view.split == "test" else ("val",)
    lines = view.lines(view.within(condition), most=40)
    best = {n: view.chosen(group) for n, group in lines.items()}
    rows = {n: [view.point(g, s) for s in splits] for n, g in best.items()}
    rows = {n: found for n, found in rows.items() if any(found)}
    if len(rows) < 2:
        return None
    sign = -1.0 if view.higher else 1.0
    order = sorted(rows, key=lambda n: sign * next(filter(None, rows[n])).mean)
    figure = Figure(figsize=(cells.WIDE, 1.5 + 0.34 * len(rows)), layout="constrained")
    axis = figure.subplots()
    looks = (("val", COLOURS[7], "D", 0.13), ("test", COLOURS[5], "o", -0.13))
    for part, (split, colour, marker, shift) in enumerate(looks[: len(splits)]):
        there = [(i, rows[n][part]) for i, n in enumerate(order) if rows[n][part]]
        if there:
            y = np.array([i for i, _ in there]) - shift
            mean = view.factor * np.array([p.mean for _, p in there])
            half = view.factor * np.array([p.half or 0.0 for _, p in there])
            style = {"fmt": marker, "color": colour, "capsize": 3, "markersize": 5}
            axis.errorbar(mean, y, xerr=half, label=split, **style)
    shown = [textwrap.shorten(n, 34, placeholder="…") for n in order]
    axis.set_yticks(range(len(order)), shown)
    axis.set_ylim(len(order) - 0.5, -0.5)
    axis.set_xlabel(view.label("").strip())
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9)
    title = f"{view.metric}, mean and 95 % interval, {plots_view.seeds(best.values())}"
    title += f"; {plots_view.said(condition)}" if condition else ""
    title += "; settings chosen on val" if view.tuned else ""
    return cells.save(figure, path, title[0].upper() + title[1:])


def draw_all(
    collection: Collection, summary: Any, folder: str | pathlib.Path
) -> list[pathlib.Path]:
    """Draws what the axes and results of a sweep allow, at most a dozen or so.

    Args:
      collection: of records.
      summary: of the same records, which says what is compared by which metric; None
        divides the axes as it would.
      folder: where to write, made where it is not there.

    Returns:
      paths of the PNGs, in the order in which they are best read; an SVG lies beside
      each.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    view = plots_view.view(collection, summary)
    drawn = [overview(view, folder / "overview.png")] if view.line else []
    axes = [a for a in (*view.conditions, *view.tuned) if len(view.axes[a]) > 2]
    for name in axes[:_AXES]:
        path = folder / f"against-{_file(name)}.png"
        drawn.append(sweep_axes.against_axis(view, name, path))
    maps = [a for a in (*view.tuned, *view.conditions) if view.numeric(a)]
    for x, y in list(itertools.combinations(maps, 2))[:_MAPS]:
        path = folder / f"map-{_file(x)}-{_file(y)}.png"
        drawn.append(sweep_axes.heat_map(view, x, y, path))
    drawn.append(cells.learning_curves(view, folder / "learning-curves.png"))
    drawn.append(against_fact(view, "drift", folder / "against-drift.png"))
    for fact in _costs(view):
        path = folder / f"against-{_file(fact)}.png"
        drawn.append(against_fact(view, fact, path, chosen=True))
    drawn += _of_the_winner(view, folder)
    return [path for path in drawn if path is not None]


def _costs(view: View) -> list[str]:
    """The costs that differ by more than chance between settings."""
    found: list[str] = []
    for fact in ("seconds", "train_seconds", "trainable_parameters"):
        known = [r.result.get(fact) for r in view.records]
        known = [v for v in known if plots_view.is_number(v) and v > 0]
        timed = fact == "train_seconds" and "seconds" in found
        if len(known) > 1 and max(known) > 1.2 * min(known) and not timed:
            found.append(fact)
    return found


def _of_the_winner(view: View, folder: pathlib.Path) -> list[pathlib.Path]:
    inside = [
        r for r in view.within(view.panels()[-1]) if r.result.get("details") is not None
    ]
    best = view.chosen(inside)
    found = cells.details(best)
    if not found:
        return []
    labels = best[0].labels
    axes = [a for a in (*view.conditions, *view.tuned) if a in labels]
    of = plots_view.said({a: labels[a] for a in axes})
    name = plots_view.text(labels[view.line]) if view.line else ""
    of = ", ".join(part for part in (name, of) if part)
    drawn = [cells.confusion(found, folder / "confusion.png", of=of)]
    if "reliability" in found:
        drawn.append(cells.reliability(found, folder / "reliability.png", of=of))
    return drawn


def _file(name: str) -> str:
    safe = "".join(c if c.isalnum() or c in "._" else "-" for c in name)
    return safe.strip("-.")[:60] or "axis"
