"""The style that all plots share: colors, markers, axes, intervals, files."""

import math
import pathlib
import textwrap
import warnings
from collections.abc import Iterable
from typing import Any

from matplotlib import font_manager, ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text

from jaxtl.core import atomic
from jaxtl.results.format_number import metric_bounds, metric_factor
from jaxtl.results.statistics import Estimate

# Okabe and Ito's palette, which readers with color blindness can tell apart; the colors
# with the most contrast on white come first.
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, GRAY = "#E69F00", "#56B4E9", "#000000", "#999999"
COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, GRAY)
MARKERS = "osD^vP*X"
# Text on a color that is the same on a light and on a dark page: the page replaces pure
# black and white by its own colors.
DARK_TEXT, LIGHT_TEXT = "#000001", "#fffffe"
_DASHES = ("-", "--", ":", "-.")
# Fonts for scripts that matplotlib's own font lacks, where they are installed.
_SCRIPTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "PingFang SC",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "WenQuanYi Zen Hei",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
    "Arial Unicode MS",
)
_INSTALLED = set(font_manager.get_font_names())
# For `matplotlib.rc_context` around every function that draws: names that users choose
# are no formulas, and an SVG holds text rather than outlines of glyphs.
SETTINGS: dict[str, Any] = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans", *(name for name in _SCRIPTS if name in _INSTALLED)],
}
_LEAST_SEEDS = 3  # for an interval: Student's t of two seeds is 12.7 deviations wide


def line_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Assigns a color, a marker and dashes to names; those of 32 are all different.

    The names are sorted, so that equal sets of names have equal styles in every plot.
    """
    styles = {}
    for index, name in enumerate(sorted(set(names))):
        turn = index // len(COLORS)
        styles[name] = {
            "color": COLORS[index % len(COLORS)],
            "marker": MARKERS[(index + turn) % len(MARKERS)],
            "linestyle": _DASHES[turn % len(_DASHES)],
        }
    return styles


def interval_arms(estimate: Estimate, metric: str) -> tuple[float, float] | None:
    """The lengths of an interval below and above its mean, in the units of a plot.

    It is cut at the bounds of the metric.

    Returns:
      (below, above); None where there is nothing to draw: fewer than three seeds, or
      seeds that all agree.
    """
    if estimate.n < _LEAST_SEEDS or estimate.low is None or estimate.high is None:
        return None
    factor, (least, most) = metric_factor(metric), metric_bounds(metric)
    low, high = max(estimate.low, least), min(estimate.high, most)
    if not high > low:
        return None
    return factor * (estimate.mean - low), factor * (high - estimate.mean)


def share_limits(axis: Axis, metric: str) -> None:
    """Ends an axis of shares at 0 and 100 %, with a margin for marks."""
    low, high = axis.get_view_interval()
    if metric_factor(metric) == 100.0:
        axis.axes.set(**{f"{axis.axis_name}lim": (max(low, -2.0), min(high, 102.0))})


def text_color(rgb: tuple[float, float, float]) -> str:
    """Dark or light text, whichever has the larger contrast on a color.

    One of both has a contrast of at least √21 = 4.58 by WCAG 2.2's ratio
    (L₁ + 0.05) / (L₂ + 0.05) of relative luminances.
    """
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return DARK_TEXT if (luminance + 0.05) ** 2 > 0.05 * 1.05 else LIGHT_TEXT


def open_axes(axes: Axes, grid: str = "both") -> None:
    """Draws a light grid and removes the upper and right border.

    Args:
      axes: to change.
      grid: lines of "x", "y" or "both".
    """
    axes.grid(axis=grid, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def tick_texts(axes: Axes) -> None:
    """Writes ticks without formulas, thousands separated: "12,000", "0.001"."""
    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        plain = isinstance(axis.get_major_formatter(), ticker.ScalarFormatter)
        if axis.get_scale() == "log":
            decades = abs(math.log10(limits[1] / limits[0]))
            subs = (1.0,) if decades > 2 else (1.0, 2.0, 5.0)
            axis.set_major_locator(ticker.LogLocator(subs=subs, numticks=9))
            axis.set_major_formatter(ticker.FuncFormatter(_tick_text))
            axis.set_minor_formatter(ticker.NullFormatter())
        elif plain and 1_000 <= max(map(abs, limits)) < 1e9:
            axis.set_major_formatter(ticker.FuncFormatter(_tick_text))


def _tick_text(value: float, _: Any) -> str:
    text = f"{value:,.10g}" if 1e-4 <= abs(value) < 1e9 or not value else f"{value:.3g}"
    return text.replace("-", "−")


def set_title(figure: Figure, title: str) -> Text:
    """Writes a title above a figure, wrapped to its width.

    The title is the figure's rather than the axes', as long labels leave these narrow.
    """
    text = textwrap.fill(title, int(11.5 * figure.get_figwidth()))
    return figure.suptitle(text, x=0.01, ha="left", fontsize=11)


def save_png(figure: Figure, path: pathlib.Path, title: str = "") -> None:
    """Writes a figure as a PNG under a title, which wraps."""
    if title:
        set_title(figure, title)
    for axes in figure.axes:
        tick_texts(axes)
    with warnings.catch_warnings():
        # Scripts that no installed font has are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        save_figure(figure, path, dpi=150)


def save_figure(figure: Figure, path: pathlib.Path, **settings: Any) -> None:
    """Writes a figure whole or not at all; settings as of `Figure.savefig`."""
    with atomic.file(path) as draft:
        figure.savefig(draft, **settings)
