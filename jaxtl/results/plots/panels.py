"""The panels, legends and files that the plots of a sweep share.

They are read in a column of a page that is as wide as a phone, or 600 pixels.
"""

import math
import pathlib
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from jaxtl.results.plots import point_labels
from jaxtl.results.plots.point_labels import Mark
from jaxtl.results.plots.style import open_axes, save_figure, set_title, tick_texts

WIDTH = 5.6  # inches; text of 10 points has 9 pixels on a phone, which is 390 wide
MAX_LINES = 16
_PIXELS = 1050  # width of a PNG; a page or a notebook scales it down, never up


def panels(titles: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Makes a figure with a panel per title, two in a row, with shared axes."""
    count = max(len(titles), 1)
    columns, rows = min(count, 2), math.ceil(count / 2)
    size = (WIDTH, 1.4 + 2.6 * rows)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True)
    all_axes = list(grid.flat)
    for axes in all_axes[count:]:
        axes.set_axis_off()
    for axes, title in zip(all_axes, titles):
        text = textwrap.shorten(title, 60 // columns, placeholder="…")
        axes.set_title(text, loc="left", fontsize=10)
        open_axes(axes)
    return figure, all_axes[:count]


def outer_labels(all_axes: Sequence[Axes], x: str, y: str) -> None:
    """Labels x below the lowest panels and y beside the left ones."""
    for i, axes in enumerate(all_axes):
        if i + 2 >= len(all_axes):
            axes.set_xlabel(x if len(x) <= 30 else textwrap.fill(x, 30))
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
    names = [shortened(label, 40) for label in by_label]
    columns = max(1, min(4, 68 // (max(map(len, names)) + 7)))
    rows = math.ceil(len(names) / columns)
    figure.set_figheight(figure.get_figheight() + 0.19 * max(rows - 2, 0))
    figure.legend(
        by_label.values(),
        names,
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        fontsize=9,
        title=title or None,
        alignment="left",
    )


def shortened(text: str, most: int) -> str:
    """A text of at most `most` characters, in one line; one without spaces is cut."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def save(
    figure: Figure, path: pathlib.Path, title: str, marks: Sequence[Mark] = ()
) -> pathlib.Path:
    """Writes PNG and SVG under a title; returns the PNG's path.

    The SVG holds the title as metadata only, as a page or a paper writes it in its own
    text. It has no date and no random ids: the same results give the same bytes.

    Args:
      figure: to write.
      path: of the PNG.
      title: wraps.
      marks: those that overlap get a label, see `point_labels.draw`.
    """
    path = pathlib.Path(path).with_suffix(".png")
    heading = set_title(figure, title)
    for axes in figure.axes:
        tick_texts(axes)
    metadata = {"Date": None, "Title": title}
    with warnings.catch_warnings():
        # Scripts that no installed font has are boxes in the PNG.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # labels are placed for this layout
        point_labels.draw(figure, marks)
        top = heading.get_window_extent().y0 / figure.dpi
        box = Bbox([[0, 0], [figure.get_figwidth(), top]])
        save_figure(figure, path, dpi=_PIXELS / figure.get_figwidth())
        heading.set_visible(False)
        with matplotlib.rc_context({"svg.hashsalt": path.stem}):
            svg = path.with_suffix(".svg")
            save_figure(figure, svg, metadata=metadata, bbox_inches=box)
    return path
