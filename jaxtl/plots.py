"""Pictures: results of a study with their intervals, contact sheets of examples."""

import pathlib
import textwrap

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from jaxtl import metrics, report

# Okabe & Ito's palette: told apart by readers who don't see all colours.
COLOURS = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#D55E00",
    "#0072B2",
    "#CC79A7",
    "#999999",
)
MARKERS = "osD^vP*X"


def study(rows: list[report.Row], path: pathlib.Path, *, title: str = "") -> None:
    """Draws the test metric with 95 % intervals: a grid as lines, else as dots."""
    metric = report.shared_metric(rows)
    grid = report.pivoted(rows)
    figure = _dots(rows, metric) if grid is None else _lines(*grid, metric)
    # Over the whole figure: long names of runs leave the axes narrow.
    figure.suptitle(textwrap.fill(title, 90), x=0.01, ha="left", fontsize=11)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _point(row: report.Row, metric: str):
    values = row.values("test", metric) or row.values("val", metric)
    if not values:
        return np.nan, 0.0
    mean, half, _ = metrics.interval(values)
    scale = 100.0 if metric in report.SHARES else 1.0
    return scale * mean, scale * (half or 0.0)


def _label(metric: str) -> str:
    return f"test {metric}" + (" (%)" if metric in report.SHARES else "")


def _lines(lines, columns, cells, metric):
    figure, axis = plt.subplots(figsize=(8.5, 5), layout="constrained")
    for i, line in enumerate(lines):
        there = [j for j, c in enumerate(columns) if (line, c) in cells]
        points = [_point(cells[line, columns[j]], metric) for j in there]
        # Side by side, so that intervals can be read where lines cross.
        shift = (i - (len(lines) - 1) / 2) * 0.025
        axis.errorbar(
            np.array(there) + shift,
            [p[0] for p in points],
            yerr=[p[1] for p in points],
            label=line,
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            capsize=3,
            linewidth=1.4,
            markersize=5,
        )
    axis.set_xticks(range(len(columns)), columns)
    axis.set_xlim(-0.4, len(columns) - 0.6)
    axis.set_ylabel(_label(metric))
    axis.grid(axis="y", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    seeds = max(len(row.results) for row in cells.values())
    title = f"95 % interval, {seeds} seeds" if seeds > 1 else "one seed"
    figure.legend(loc="outside right upper", frameon=False, title=title, fontsize=9)
    return figure


def _dots(rows, metric):
    height = 1.2 + 0.35 * len(rows)
    figure, axis = plt.subplots(figsize=(8, height), layout="constrained")
    for i, row in enumerate(rows):
        mean, half = _point(row, metric)
        axis.errorbar(
            mean, i, xerr=half, fmt="o", color=COLOURS[5], capsize=3, markersize=5
        )
    axis.set_yticks(range(len(rows)), [f"{r.name} (n={len(r.results)})" for r in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlabel(f"{_label(metric)}, mean and 95 % interval")
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def contact_sheet(
    images: np.ndarray, labels: list[str], path: pathlib.Path, *, title: str = ""
) -> None:
    """Writes a PNG of examples, a row per label.

    Args:
      images: (n, height, width, channels) in any units; each sheet is scaled by its
        own smallest and largest value.
      labels: name of each image's class, in the order of `images`.
      path: where to write.
      title: above the sheet.
    """
    images = np.asarray(images, np.float32)
    low, high = images.min(), images.max()
    images = (images - low) / max(high - low, 1e-9)
    names = list(dict.fromkeys(labels))
    per_row = max(labels.count(name) for name in names)
    figure, axes = plt.subplots(
        len(names),
        per_row,
        figsize=(0.7 * per_row + 1.6, 0.7 * len(names) + 0.5),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for r, name in enumerate(names):
        mine = [i for i, label in enumerate(labels) if label == name]
        for c, i in enumerate(mine):
            grey = images.shape[-1] == 1
            picture = images[i, :, :, 0] if grey else images[i]
            axes[r, c].imshow(picture, cmap="gray" if grey else None, vmin=0, vmax=1)
        axes[r, 0].text(
            -0.25, 0.5, name, ha="right", va="center", transform=axes[r, 0].transAxes
        )
    figure.suptitle(title, x=0.02, ha="left", fontsize=10)
    figure.savefig(path, dpi=120)
    plt.close(figure)
