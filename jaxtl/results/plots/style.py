"""The style that all plots share: colors, markers, axes, files."""

import pathlib
import textwrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, which readers with color blindness can tell apart.
COLORS = (
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
_DASHES = ("-", "--", ":", "-.")


def line_style(index: int) -> dict[str, Any]:
    """The color, marker and dashes of a line; those of 32 indices are all different."""
    turn = index // len(COLORS)
    return {
        "color": COLORS[index % len(COLORS)],
        "marker": MARKERS[(index + turn) % len(MARKERS)],
        "linestyle": _DASHES[turn % len(_DASHES)],
    }


def open_axes(axes: Axes, grid: str = "both") -> None:
    """Draws a light grid and removes the upper and right border.

    Args:
      axes: to change.
      grid: lines of "x", "y" or "both".
    """
    axes.grid(axis=grid, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def save_png(figure: Figure, path: pathlib.Path, title: str) -> None:
    """Writes a figure as a PNG under a title, which wraps.

    The title is the figure's rather than the axes', as long labels leave these narrow.
    """
    figure.suptitle(textwrap.fill(title, 90), x=0.01, ha="left", fontsize=11)
    figure.savefig(path, dpi=150)
