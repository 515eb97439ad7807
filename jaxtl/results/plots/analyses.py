"""Plots of analyses: linear probes, the learning-rate finder, WiSE-FT."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from jaxtl.results.format_number import SHARES, metric_factor
from jaxtl.results.plots.style import (
    BLACK,
    BLUE,
    GRAY,
    GREEN,
    MARKERS,
    ORANGE,
    SETTINGS,
    VERMILION,
    open_axes,
    save_png,
)


def _unit(metric: str) -> str:
    return " (%)" if metric in SHARES else ""


@matplotlib.rc_context(SETTINGS)
def probes(probes: Mapping[str, Any], path: pathlib.Path, *, title: str = "") -> None:
    """Draws linear probes: of one stage over strengths, of several over stages.

    Args:
      probes: stage -> `linear_probe.Probe`.
      path: of the PNG.
      title: above the axes.
    """
    first, *remaining = probes.values()
    if remaining:
        # The leave-one-out metric chooses the strength, but the task's own metric is
        # what stages are compared by.
        tested = first.metric in first.test or not first.test
        metric = first.metric if tested else next(iter(first.test))
        figure = _probes_over_stages([first, *remaining], metric)
    else:
        figure = _probe_over_strengths(first)
    save_png(figure, path, title)


def _probes_over_stages(probes: Sequence[Any], metric: str) -> Figure:
    size = (max(6, 0.7 * len(probes) + 3), 4.5)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    positions = range(len(probes))
    scores = {
        "val, of the chosen strength": [p.scores[p.best] for p in probes],
        "test": [p.test for p in probes],
    }
    colors = (GRAY, BLUE)
    for color, marker, (name, rows) in zip(colors, MARKERS, scores.items()):
        if all(metric in row for row in rows):
            values = [metric_factor(metric) * row[metric] for row in rows]
            axes.plot(positions, values, label=name, color=color, marker=marker)
    labels = [f"{probe.stage}\n{probe.width:,}" for probe in probes]
    axes.set_xticks(positions, labels, fontsize=8)
    axes.set_xlabel("stage, width of its features")
    axes.set_ylabel(metric + _unit(metric))
    open_axes(axes, "y")
    axes.legend(frameon=False)
    return figure


def _probe_over_strengths(probe: Any) -> Figure:
    metric, order = probe.metric, np.argsort(probe.path.strengths)
    factor, unit = metric_factor(metric), _unit(metric)
    strengths = probe.path.strengths[order]
    values = factor * np.array([probe.scores[i][metric] for i in order])
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(strengths, values, marker="o", color=BLUE, label=probe.stage)
    best = factor * probe.scores[probe.best][metric]
    label = f"chosen, {probe.strength:.2g}"
    if metric in probe.test:
        label += f": test {factor * probe.test[metric]:.4g}{unit}"
    axes.plot(probe.strength, best, "*", color=ORANGE, ms=15, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("strength of the penalty ½·strength·‖W‖²")
    split = "train" if metric in ("loo", "gcv") else "val"
    axes.set_ylabel(f"{split} {metric}{unit}")
    open_axes(axes)
    axes.legend(frameon=False)
    return figure


@matplotlib.rc_context(SETTINGS)
def learning_rates(curve: Any, path: pathlib.Path, *, title: str = "") -> None:
    """Draws losses over rising learning rates, with the rates that they suggest.

    Args:
      curve: a `lr_finder.LearningRateCurve`.
      path: of the PNG.
      title: above the axes.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.rates, curve.raw, color=GRAY, linewidth=0.8, alpha=0.6)
    axes.plot(curve.rates, curve.losses, color=BLUE, linewidth=2)
    suggestion = curve.suggestion
    marks = [(curve.steepest, "steepest fall", VERMILION, "o")]
    marks += [(curve.tenth, "lowest loss / 10", GREEN, "D")]
    for rate, name, color, marker in marks if suggestion is not None else ():
        loss = np.interp(np.log(rate), np.log(curve.rates), curve.losses)
        label = f"{name}: {rate:.1e}"
        axes.axvline(rate, color=color, linewidth=1, linestyle=":")
        axes.plot(rate, loss, marker, color=color, markersize=7, label=label)
    # Without the divergence at the end, which would flatten everything before it.
    low, high = curve.raw.min(), curve.losses[: np.argmin(curve.losses) + 1].max()
    margin = max(high - low, 1e-3 * abs(high), 1e-9)
    axes.set_ylim(low - 0.05 * margin, high + 0.25 * margin)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss (gray: batches, blue: smoothed)")
    open_axes(axes)
    if suggestion is None:
        axes.text(0.02, 0.04, "the loss never falls", transform=axes.transAxes)
    else:
        head = f"to begin with: {suggestion:.1e}"
        axes.legend(loc="lower left", frameon=False, title=head, alignment="left")
    save_png(figure, path, title)


@matplotlib.rc_context(SETTINGS)
def wise_ft(curve: Any, path: pathlib.Path, *, title: str = "") -> None:
    """Draws a metric against α, with θ₀, the fine-tuned and the chosen weights marked.

    Args:
      curve: a `weight_space.Curve`.
      path: of the PNG.
      title: above the axes.
    """
    name = curve.monitor
    values = metric_factor(name) * np.array([m[name] for m in curve.metrics])
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.alphas, values, "-", color=BLUE, linewidth=1.6)
    axes.plot(curve.alphas, values, ".", color=BLUE, markersize=6)
    start = "θ₀" + (", fine-tuned " + ", ".join(curve.fresh) if curve.fresh else "")
    best = f"chosen on val, α = {curve.best:g}"
    marks = [(0.0, start, "s", GRAY, 8, "full")]
    marks += [(1.0, "fine-tuned", "D", VERMILION, 8, "full")]
    # A ring, which leaves either end visible where that is the chosen one.
    marks += [(curve.best, best, "o", BLACK, 17, "none")]
    for alpha, label, marker, color, size, fill in marks:
        if alpha in curve.alphas:
            value = values[curve.alphas.index(alpha)]
            style = {"markersize": size, "fillstyle": fill, "linestyle": "none"}
            axes.plot(alpha, value, marker, color=color, label=label, **style)
    axes.set_xlabel("α, weights (1 − α)·θ₀ + α·θ")
    axes.set_ylabel(f"{curve.split} {name}{_unit(name)}")
    if curve.distance > 0:
        scale = (lambda alpha: alpha * curve.distance, lambda d: d / curve.distance)
        axes.secondary_xaxis("top", functions=scale).set_xlabel("‖θ − θ₀‖")
    axes.grid(alpha=0.3)
    axes.spines["right"].set_visible(False)
    axes.legend(loc="best", frameon=False, markerscale=0.7)
    save_png(figure, path, title)
