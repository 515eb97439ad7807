"""Plots of a setting's predictions: its confusion matrix and its calibration."""

import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from jaxtl.core.errors import UserError
from jaxtl.results.plots.panels import WIDTH, save, shortened
from jaxtl.results.plots.style import (
    BLACK,
    GRAY,
    LIGHT_TEXT,
    SETTINGS,
    VERMILION,
    open_axes,
)
from jaxtl.results.records import Record

# Shares from 0 to 100 % as the opacity of one blue, so that 0 has the color of a light
# and of a dark page. Above _OPAQUE white text has the larger contrast on both of them.
_SHARES = LinearSegmentedColormap.from_list("shares", ["#08519c00", "#08519cff"])
_OPAQUE = 77.0


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


@matplotlib.rc_context(SETTINGS)
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
    size = min(WIDTH, max(3.6, 1.4 + 0.4 * k))
    figure = Figure(figsize=(WIDTH, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(100 * shares, cmap=_SHARES, vmin=0, vmax=100)
    if k <= 12:
        _write_shares(axes, 100 * shares)
    names = [shortened(str(name), 14) for name in details["classes"]]
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
    title += f"{counts.sum():,.0f} right{_seeds(details, 'added up')}"
    return save(figure, path, title)


def _write_shares(axes: Axes, shares: np.ndarray) -> None:
    for i, j in np.ndindex(*shares.shape):
        if shares[i, j]:
            text = f"{shares[i, j]:.0f}"
            color = LIGHT_TEXT if shares[i, j] > _OPAQUE else BLACK
            style = {"ha": "center", "va": "center", "fontsize": 8, "color": color}
            axes.text(j, i, "<1" if text == "0" else text, **style)


def _split(details: Mapping[str, Any], setting: str) -> str:
    return details["split"] + (f", {setting}" if setting else "")


def _seeds(details: Mapping[str, Any], what: str) -> str:
    """ ", 5 seeds added up"; "" for one."""
    return f", {details['n']} seeds {what}" if details["n"] > 1 else ""


@matplotlib.rc_context(SETTINGS)
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
    figure = Figure(figsize=(WIDTH, 5.0), layout="constrained")
    upper, lower = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [2.4, 1]}
    )
    upper.plot([0, 100], [0, 100], color=GRAY, linestyle="--", label="calibrated")
    x, y = 100 * bins["confidence"][filled], 100 * bins["accuracy"][filled]
    upper.plot(x, y, "o-", color=BLACK, label="bins", markersize=5)
    upper.vlines(x, np.minimum(x, y), np.maximum(x, y), color=VERMILION, alpha=0.6)
    upper.set_ylabel("accuracy in the bin (%)")
    upper.set_ylim(0, 102)
    upper.legend(frameon=False, loc="upper left")
    edges = np.linspace(0, 100, len(counts) + 1)
    bars = lower.bar(edges[:-1], shares, np.diff(edges), align="edge", color=GRAY)
    _write_counts(lower, bars, counts)
    lower.set_ylabel("examples (%)")
    lower.set_xlabel("confidence: largest predicted probability (%)")
    lower.set_xlim(0, 101)
    open_axes(upper)
    open_axes(lower, "x")
    title = f"Reliability on {_split(details, setting)}: ECE {error:.1f} %"
    return save(figure, path, title + _seeds(details, "pooled"))


def _write_counts(axes: Axes, bars: BarContainer, counts: np.ndarray) -> None:
    """Writes the number of examples above each bar, and makes room for it."""
    texts = [f"{count:,.0f}" if count else "" for count in counts]
    # Upright, as neighboring numbers of 20 bins would touch each other.
    upright = max(map(len, texts)) * len(texts) > 60
    style = {"fontsize": 8, "padding": 2, "rotation": 90 if upright else 0}
    axes.bar_label(bars, texts, **style)
    axes.set_ylim(0, axes.get_ylim()[1] * (1.6 if upright else 1.3))
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= 100])
