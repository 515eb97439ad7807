"""The panels, legends and files that the plots of a sweep share.

They are read in a column of a page, 600 pixels wide.
"""

import math
import pathlib
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxtl.results.plots.style import open_axes

WIDTH = 7.0  # inches; at 600 pixels, 86 of them each
MAX_LINES = 16


def panels(titles: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Makes a figure with a panel per title, two in a row, with shared axes."""
    count = max(len(titles), 1)
    columns, rows = min(count, 2), math.ceil(count / 2)
    figure = Figure(figsize=(WIDTH, 1.4 + 3.0 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True)
    all_axes = list(grid.flat)
    for axes in all_axes[count:]:
        axes.set_axis_off()
    for axes, title in zip(all_axes, titles):
        axes.set_title(title, loc="left", fontsize=10)
        open_axes(axes)
    return figure, all_axes[:count]


def outer_labels(all_axes: Sequence[Axes], x: str, y: str) -> None:
    """Labels x below the lowest panels and y beside the left ones."""
    for i, axes in enumerate(all_axes):
        if i + 2 >= len(all_axes):
            axes.set_xlabel(x)
            axes.tick_params(labelbottom=True)
        if i % 2 == 0:
            axes.set_ylabel(y)


def legend(figure: Figure, all_axes: Sequence[Axes], title: str = "") -> None:
    """Draws one legend of all panels below them; none for a single unnamed line."""
    by_label: dict[str, Any] = {}
    for axes in all_axes:
        handles, labels = axes.get_legend_handles_labels()
        by_label.update(zip(labels, handles))
    by_label.pop("", None)
    if not by_label:
        return
    entries = {
        textwrap.shorten(label, 40, placeholder="…"): handle
        for label, handle in by_label.items()
    }
    columns = max(1, min(4, 84 // (max(map(len, entries)) + 7)))
    rows = math.ceil(len(entries) / columns)
    figure.set_figheight(figure.get_figheight() + 0.19 * max(rows - 2, 0))
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        fontsize=9,
        title=title or None,
        alignment="left",
    )


def save(figure: Figure, path: pathlib.Path, title: str) -> pathlib.Path:
    """Writes PNG and SVG under a title; returns the PNG's path.

    The SVG has no date and no random ids: the same results give the same bytes.
    """
    figure.suptitle(textwrap.fill(title, 78), x=0.01, ha="left", fontsize=11)
    path = pathlib.Path(path).with_suffix(".png")
    figure.savefig(path, dpi=150)
    metadata = {"Date": None, "Title": title}
    with matplotlib.rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path.with_suffix(".svg"), metadata=metadata)
    return path
