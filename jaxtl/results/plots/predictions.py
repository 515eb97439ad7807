"""Plots of a setting's predictions: its confusion matrix and its calibration."""

import math
import pathlib
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxtl.core.errors import UserError
from jaxtl.results.plots.panels import WIDTH, save
from jaxtl.results.plots.style import COLORS, open_axes
from jaxtl.results.records import Record


def pooled_details(records: Iterable[Record]) -> dict[str, Any]:
    """Pools the details of the seeds of one setting.

    Confusion matrices are added; the confidence and the accuracy of a bin are means
    weighted by its counts.

    Args:
      records: of the setting.

    Returns:
      {"split", "classes", "n": number of seeds, "confusion": (K, K), "reliability":
      {"count", "confidence", "accuracy"}, each (bins,)}; {} without details.

    Raises:
      UserError: the seeds have different classes.
    """
    details = [r.result["details"] for r in records if r.result.get("details")]
    if not details:
        return {}
    first = details[0]
    if any(d["classes"] != first["classes"] for d in details):
        raise UserError("the seeds of one setting don't have the same classes.")
    pooled = {
        "split": first["split"],
        "classes": first["classes"],
        "n": len(details),
        "confusion": np.sum([d["confusion"] for d in details], axis=0),
    }
    bins = [d["reliability"] for d in details if d.get("reliability")]
    if bins:
        pooled["reliability"] = _pooled_bins(bins)
    return pooled


def _pooled_bins(bins: Sequence[Mapping[str, Sequence[Any]]]) -> dict[str, np.ndarray]:
    counts = np.array([b["count"] for b in bins], float)
    total = counts.sum(0)
    pooled = {"count": total}
    for name in ("confidence", "accuracy"):
        means = [[0.0 if v is None else v for v in b[name]] for b in bins]
        sums = (counts * np.array(means, float)).sum(0)
        empty = np.full_like(sums, np.nan)
        pooled[name] = np.divide(sums, total, out=empty, where=total > 0)
    return pooled


def confusion(
    details: Mapping[str, Any], path: pathlib.Path, *, setting: str = ""
) -> pathlib.Path:
    """Draws a confusion matrix as shares of each true class, in figures where they fit.

    Args:
      details: of `pooled_details`.
      path: of the PNG.
      setting: in words, for the title.

    Returns:
      the PNG's path.
    """
    counts = np.asarray(details["confusion"], float)
    total = counts.sum(1, keepdims=True)
    shares = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    k = len(counts)
    size = min(WIDTH, max(4.5, 1.8 + 0.48 * k))
    figure = Figure(figsize=(WIDTH, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    if k <= 12:
        _write_shares(axes, counts, shares)
    names = [textwrap.shorten(str(name), 14) for name in details["classes"]]
    step = max(1, math.ceil(k / 25))
    rotation = 90 if max(map(len, names)) > 3 else 0
    ticks, labels = range(0, k, step), names[::step]
    axes.set_xticks(ticks, labels, rotation=rotation, fontsize=8)
    axes.set_yticks(ticks, labels, fontsize=8)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    figure.colorbar(image, ax=axes, label="share of the true class (%)", shrink=0.8)
    accuracy = 100 * counts.trace() / max(counts.sum(), 1)
    title = f"Confusion on {_split(details, setting)}: {accuracy:.1f} % of "
    title += f"{counts.sum():,.0f} right, {_seeds(details)} added up"
    return save(figure, path, title)


def _write_shares(axes: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    for i, j in np.ndindex(*counts.shape):
        if counts[i, j]:
            text = f"{100 * shares[i, j]:.0f}"
            color = "white" if shares[i, j] > 0.5 else "black"
            style = {"ha": "center", "va": "center", "fontsize": 8, "color": color}
            axes.text(j, i, "<1" if text == "0" else text, **style)


def _split(details: Mapping[str, Any], setting: str) -> str:
    return details["split"] + (f", {setting}" if setting else "")


def _seeds(details: Mapping[str, Any]) -> str:
    return f"{details['n']} seed{'s' if details['n'] > 1 else ''}"


def reliability(
    details: Mapping[str, Any], path: pathlib.Path, *, setting: str = ""
) -> pathlib.Path:
    """Draws accuracy against confidence by bins, above the number of examples in each.

    The ECE in the title is that of the pooled seeds,
    Σ_b n_b / N · |accuracy_b − confidence_b|.

    Args:
      details: of `pooled_details`.
      path: of the PNG.
      setting: in words, for the title.

    Returns:
      the PNG's path.
    """
    bins = {name: np.asarray(v) for name, v in details["reliability"].items()}
    counts, filled = bins["count"], bins["count"] > 0
    shares = 100 * counts / max(counts.sum(), 1)
    gaps = np.abs(bins["accuracy"] - bins["confidence"])
    error = float(np.sum((shares * gaps)[filled]))
    figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
    upper, lower = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1]}
    )
    upper.plot([0, 100], [0, 100], color=COLORS[7], linestyle="--", label="calibrated")
    x, y = 100 * bins["confidence"][filled], 100 * bins["accuracy"][filled]
    upper.plot(x, y, "o-", color=COLORS[5], label="bins", markersize=5)
    upper.vlines(x, np.minimum(x, y), np.maximum(x, y), color=COLORS[4], alpha=0.6)
    upper.set_ylabel("accuracy in the bin (%)")
    upper.set_ylim(0, 102)
    upper.legend(frameon=False, loc="upper left")
    edges = np.linspace(0, 100, len(counts) + 1)
    lower.bar(edges[:-1], shares, width=np.diff(edges), align="edge", color=COLORS[2])
    lower.set_ylabel("examples (%)")
    lower.set_xlabel("confidence: largest predicted probability (%)")
    lower.set_xlim(0, 101)
    for axes in (upper, lower):
        open_axes(axes)
    title = f"Reliability on {_split(details, setting)}: ECE {error:.1f} %, "
    return save(figure, path, f"{title}{_seeds(details)} pooled")
