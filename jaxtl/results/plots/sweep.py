"""The plots of a sweep: those that its axes allow, the overview, the costs."""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxtl.evaluation.metrics import is_finite_number
from jaxtl.results import settings
from jaxtl.results.labels import labels_title, plot_label
from jaxtl.results.plots import learning_curves, predictions, sweep_axes
from jaxtl.results.plots.panels import (
    MAX_LINES,
    WIDTH,
    legend,
    outer_labels,
    panels,
    save,
    shortened,
)
from jaxtl.results.plots.point_labels import Mark
from jaxtl.results.plots.style import GRAY, SETTINGS, open_axes, share_limits
from jaxtl.results.plots.sweep_view import SweepView, build_view, seeds_text, split_by
from jaxtl.results.records import Collection, Record
from jaxtl.results.statistics import Estimate
from jaxtl.results.summary import Summary

_FACTS = {
    "drift": "drift from the source ‖θ − θ₀‖",
    "seconds": "seconds per cell",
    "train_seconds": "seconds of training",
    "trainable_parameters": "trainable parameters",
}
_AXES = 4  # plots of the metric against an axis
_MAPS = 2  # heat maps
_OVERVIEW_ROWS = 40


def draw_all(
    collection: Collection, summary: Summary | None, folder: str | pathlib.Path
) -> list[pathlib.Path]:
    """Draws what the axes and results of a sweep allow, at most a dozen plots or so.

    Args:
      collection: the records.
      summary: of the same records, see `build_view`.
      folder: where to write; created where it does not exist.

    Returns:
      paths of the PNGs, in the order in which they are best read; an SVG of the same
      name is written beside each.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    view = build_view(collection, summary)
    paths = [overview(view, folder / "overview.png")] if view.line else []
    axes = [a for a in (*view.conditions, *view.tuned) if len(view.axes[a]) > 2]
    for name in axes[:_AXES]:
        path = folder / f"against-{_file_name(name)}.png"
        paths.append(sweep_axes.against_axis(view, name, path))
    numeric = [a for a in (*view.tuned, *view.conditions) if view.is_numeric(a)]
    for x, y in list(itertools.combinations(numeric, 2))[:_MAPS]:
        path = folder / f"map-{_file_name(x)}-{_file_name(y)}.png"
        paths.append(sweep_axes.heat_map(view, x, y, path))
    path = folder / "learning-curves.png"
    paths.append(learning_curves.learning_curves(view, path))
    paths.append(against_fact(view, "drift", folder / "against-drift.png"))
    for fact in _costs(view):
        path = folder / f"against-{_file_name(fact)}.png"
        paths.append(against_fact(view, fact, path, best_only=True))
    paths += _best_setting_plots(view, folder)
    return [path for path in paths if path is not None]


def _file_name(axis: str) -> str:
    """An axis as part of a file name."""
    safe = "".join(c if c.isalnum() or c in "._" else "-" for c in axis)
    return safe.strip("-.")[:60] or "axis"


def _costs(view: SweepView) -> list[str]:
    """The costs that differ between runs by more than chance."""
    costs: list[str] = []
    for fact in ("seconds", "train_seconds", "trainable_parameters"):
        values = [record.result.get(fact) for record in view.records]
        values = [v for v in values if is_finite_number(v) and v > 0]
        repeated = fact == "train_seconds" and "seconds" in costs
        if len(values) > 1 and max(values) > 1.2 * min(values) and not repeated:
            costs.append(fact)
    return costs


def _best_setting_plots(view: SweepView, folder: pathlib.Path) -> list[pathlib.Path]:
    """Draws the predictions of the last condition's setting that is best on val."""
    records = [
        record
        for record in view.within(view.panels()[-1])
        if record.result.get("details") is not None
    ]
    best = view.best_setting(records)
    details = predictions.pooled_details(best)
    if not details:
        return []
    labels = best[0].labels
    name = plot_label(labels.get(view.line)) if view.line else ""
    axes = [a for a in (*view.conditions, *view.tuned) if a in labels]
    other_labels = labels_title({a: labels[a] for a in axes})
    setting = ", ".join(text for text in (name, other_labels) if text)
    if len(settings.group_by_setting(records)) > 1:
        setting += " (best on val)"
    path = folder / "confusion.png"
    paths = [predictions.confusion(details, path, setting=setting)]
    if "reliability" in details:
        path = folder / "reliability.png"
        paths.append(predictions.reliability(details, path, setting=setting))
    return paths


@matplotlib.rc_context(SETTINGS)
def overview(view: SweepView, path: pathlib.Path) -> pathlib.Path | None:
    """Draws each compared value's metric with intervals, val and test, best val first.

    Conditions have their last value; tuned axes are chosen on val.

    Returns:
      the PNG's path, None where fewer than two values were measured.
    """
    condition = view.panels()[-1]
    splits = ("val", "test") if view.split == "test" else ("val",)
    lines = view.lines(view.within(condition), most=_OVERVIEW_ROWS)
    best = {name: view.best_setting(group) for name, group in lines.items()}
    rows = {n: [view.estimate(group, s) for s in splits] for n, group in best.items()}
    rows = {name: estimates for name, estimates in rows.items() if any(estimates)}
    if len(rows) < 2:
        return None
    sign = -1.0 if view.higher else 1.0
    order = sorted(rows, key=lambda name: sign * next(filter(None, rows[name])).mean)
    size = (WIDTH, 1.5 + 0.34 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes, styles = figure.subplots(), view.line_styles()
    for y, name in enumerate(order):
        for split, estimate in zip(splits, rows[name]):
            if estimate:
                _draw_row(axes, view, estimate, (split, y), styles[name])
    names = [shortened(name, 34) for name in order]
    axes.set_yticks(range(len(order)), names)
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.set_xlabel(view.label("").strip())
    share_limits(axes.xaxis, view.metric)
    open_axes(axes, "x")
    if view.split == "test":
        _split_legend(figure)
    title = f"{view.metric}, mean and 95 % interval, {seeds_text(best.values())}"
    title += f"; {labels_title(condition)}" if condition else ""
    title += "; settings chosen on val" if view.tuned else ""
    return save(figure, path, title[0].upper() + title[1:])


def _draw_row(
    axes: Axes,
    view: SweepView,
    estimate: Estimate,
    place: tuple[str, int],
    style: Mapping[str, Any],
) -> None:
    """Draws the estimate of one line: filled and above on test, hollow on val.

    Args:
      axes: to draw into.
      view: of the sweep.
      estimate: of the metric.
      place: (split, position of the line).
      style: of the line.
    """
    split, y = place
    on_test = split == view.split
    look = {"color": style["color"], "marker": style["marker"], "markersize": 6}
    look |= {} if on_test else {"markerfacecolor": "none"}
    mean, arms = view.factor * estimate.mean, view.arms(estimate)
    y += 0 if view.split == "val" else -0.14 if on_test else 0.14
    axes.plot(mean, y, linestyle="none", **look)
    if arms:
        lengths = [[arms[0]], [arms[1]]]
        bar = {"fmt": "none", "ecolor": style["color"], "capsize": 3}
        bar["elinewidth"] = 1.5 if on_test else 0.8
        axes.errorbar(mean, y, xerr=lengths, **bar)


def _split_legend(figure: Figure) -> None:
    """Explains filled and hollow marks."""
    look = {"color": GRAY, "marker": "o", "linestyle": "none"}
    handles = [Line2D([], [], **look), Line2D([], [], markerfacecolor="none", **look)]
    style = {"frameon": False, "fontsize": 9, "ncols": 2}
    figure.legend(handles, ["test", "val"], loc="outside lower left", **style)


@matplotlib.rc_context(SETTINGS)
def against_fact(
    view: SweepView, fact: str, path: pathlib.Path, *, best_only: bool = False
) -> pathlib.Path | None:
    """Draws the metric against a number of every result.

    Args:
      view: of the sweep.
      fact: a number in `result`, such as "drift" or "seconds".
      path: of the PNG.
      best_only: whether to draw only the setting of each compared value that is best on
        val, with its interval, by the view's split. Otherwise every setting is drawn by
        its mean on val, with its seeds as dots.

    Returns:
      the PNG's path, None where all results agree in that number.
    """
    # The lines of all records, so that a line has the same style in every plot.
    names, styles = list(view.lines(view.records, MAX_LINES)), view.line_styles()
    records = tuple(r for r in view.records if is_finite_number(r.result.get(fact)))
    view = dataclasses.replace(view, records=records)
    # All settings on test would invite a choice by test.
    split = view.split if best_only or not view.tuned else "val"
    if len({abs(r.result[fact]) for r in records}) < 2:
        return None
    conditions = view.panels()
    figure, all_axes = panels([labels_title(condition) for condition in conditions])
    drawn: list[list[Record]] = []
    marks: list[Mark] = []
    for axes, condition in zip(all_axes, conditions):
        lines = view.lines(view.within(condition))
        for name in names:
            group = lines.get(name, ())
            drawn_settings = list(split_by(group, view.tuned).values())
            if best_only:
                drawn_settings = [view.best_setting(group)]
            quantities, look = (fact, split, best_only), (name, styles[name])
            measured = _draw_marks(axes, view, drawn_settings, quantities, look)
            drawn += [setting for setting, _ in measured]
            marks += [mark for _, mark in measured]
    if not drawn:
        return None
    if _is_wide([record.result[fact] for record in records]):
        for axes in all_axes:
            axes.set_xscale("log")
    label = _FACTS.get(fact, fact.replace("_", " "))
    share_limits(all_axes[0].yaxis, view.metric)
    outer_labels(all_axes, label, view.label(split))
    legend(figure, all_axes)
    title = f"{split} {view.metric} against {label}, {seeds_text(drawn)}: "
    if best_only:
        title += "mean, 95 % interval; dots: seeds"
        title += "; settings chosen on val" if view.tuned else ""
    else:
        title += "marks are settings, dots seeds"
    return save(figure, path, title[0].upper() + title[1:], marks)


def _is_wide(values: Iterable[float]) -> bool:
    """Whether values are positive and span a factor of 30: drawn logarithmically."""
    values = list(values)
    return min(values) > 0 and max(values) / min(values) >= 30


def _draw_marks(
    axes: Axes,
    view: SweepView,
    groups: Iterable[Sequence[Record]],
    quantities: tuple[str, str, bool],
    look: tuple[str, Mapping[str, Any]],
) -> list[tuple[list[Record], Mark]]:
    """Draws settings at their means, with their seeds as dots.

    Args:
      axes: of the panel.
      view: of the sweep.
      groups: the records of each setting.
      quantities: (number on the x axis, split of the metric, whether intervals are
        drawn).
      look: (name of the line, its style).

    Returns:
      the settings that were measured, with their marks.
    """
    (fact, split, intervals), (name, style) = quantities, look
    style = {**style, "linestyle": "none", "markersize": 6}
    drawn: list[tuple[list[Record], Mark]] = []
    for setting in groups:
        measured = [r for r in setting if is_finite_number(r.value(split, view.metric))]
        if not measured:
            continue
        x = np.array([r.result[fact] for r in measured], float)
        y = view.factor * np.array([r.value(split, view.metric) for r in measured])
        if len(measured) > 1:
            axes.plot(x, y, ".", color=style["color"], alpha=0.35, markersize=4)
        middle = float(x.mean()), float(y.mean())
        axes.plot(*middle, label="" if drawn else name, **style)
        mark = Mark(axes, *middle, name)
        arms = view.arms(view.estimate(measured, split)) if intervals else None
        if arms:
            lengths = [[arms[0]], [arms[1]]]
            bar = {"fmt": "none", "capsize": 3, "ecolor": style["color"]}
            axes.errorbar(*middle, yerr=lengths, **bar)
            low, high = middle[1] - arms[0], middle[1] + arms[1]
            mark = mark._replace(low=low, high=high)
        drawn.append((measured, mark))
    return drawn
