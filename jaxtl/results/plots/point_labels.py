"""Labels of marks that overlap, at free places beside them, with leader lines."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from jaxtl.results.plots.style import GRAY

_MARK = 8.0  # points: the width of a mark, and the distance of marks that overlap
_RADII = (13.0, 22.0, 34.0, 48.0, 64.0)  # points from the marks to a label's edge
_ANGLES = (0, 180, 45, -45, 135, -135, 90, -90)  # degrees; the sides are tried first
_NAMES = 3  # of a label, one below the other; more are counted
_LETTERS = 18  # of a name


class Mark(NamedTuple):
    """A mark of a scatter plot.

    Attributes:
      axes: of its panel.
      x: in the units of the axis.
      y: likewise.
      name: of the line that it belongs to.
      low: lower end of its interval, in the units of y; None where none is drawn.
      high: upper end.
    """

    axes: Axes
    x: float
    y: float
    name: str
    low: float | None = None
    high: float | None = None


class _Cluster(NamedTuple):
    """Overlapping marks.

    Attributes:
      box: around them, in pixels.
      names: of their lines, the upmost first.
    """

    box: Bbox
    names: list[str]


def draw(figure: Figure, marks: Sequence[Mark]) -> list[Annotation]:
    """Labels marks of different lines that overlap.

    A label names them from the upmost to the lowest. It overlaps no mark and no other
    label and stays inside its panel; where there is no such place, there is no label.

    Args:
      figure: whose layout is final.
      marks: all marks of its panels.

    Returns:
      the labels.
    """
    if not marks:
        return []
    FigureCanvasAgg(figure)  # measures texts
    labels: list[Annotation] = []
    for axes in dict.fromkeys(mark.axes for mark in marks):
        pixels = figure.dpi / 72
        own = [mark for mark in marks if mark.axes is axes]
        points = [tuple(axes.transData.transform((m.x, m.y))) for m in own]
        occupied = [_square(point, _MARK * pixels) for point in points]
        occupied += [_bar(mark, pixels) for mark in own if mark.low is not None]
        for cluster in _clusters(own, points, _MARK * pixels):
            label = _place(axes, cluster, occupied, pixels)
            if label is not None:
                labels.append(label)
                occupied.append(text_box(label))
    return labels


def text_box(label: Annotation) -> Bbox:
    """The box around a label's text in pixels, without its leader line."""
    label.update_positions(label.figure.canvas.get_renderer())
    return Text.get_window_extent(label)


def _bar(mark: Mark, pixels: float) -> Bbox:
    """The box around the bar of a mark's interval."""
    ends = mark.axes.transData.transform([(mark.x, mark.low), (mark.x, mark.high)])
    (x, y0), (_, y1) = ends
    return Bbox.from_extents(x - pixels, y0, x + pixels, y1)


def _square(point: tuple[float, float], width: float) -> Bbox:
    x, y = point
    return Bbox.from_bounds(x - width / 2, y - width / 2, width, width)


def _clusters(
    marks: Sequence[Mark], points: Sequence[tuple[float, float]], distance: float
) -> list[_Cluster]:
    """Groups the marks that overlap, directly or through others, of several lines."""
    groups: list[list[int]] = []
    for i, point in enumerate(points):
        near = [
            group
            for group in groups
            if any(math.dist(point, points[j]) < distance for j in group)
        ]
        groups = [group for group in groups if group not in near]
        groups.append([i, *(j for group in near for j in group)])
    clusters = []
    for group in groups:
        order = sorted(group, key=lambda i: (-points[i][1], points[i][0]))
        names = list(dict.fromkeys(marks[i].name for i in order))
        if len(names) > 1:
            box = Bbox.union([_square(points[i], distance) for i in group])
            clusters.append(_Cluster(box, names))
    return sorted(clusters, key=lambda cluster: -len(cluster.names))


def _text(names: Sequence[str]) -> str:
    texts = [n if len(n) <= _LETTERS else f"{n[: _LETTERS - 1]}…" for n in names]
    if len(texts) > _NAMES:
        texts = [*texts[: _NAMES - 1], f"and {len(texts) - _NAMES + 1} more"]
    return "\n".join(texts)


def _place(
    axes: Axes, cluster: _Cluster, occupied: Sequence[Bbox], pixels: float
) -> Annotation | None:
    """Draws a label at the first free place around a cluster, None without one."""
    half = 0.5 * (cluster.box.height / pixels - _MARK)
    middle = axes.transAxes.inverted().transform(cluster.box.min + cluster.box.size / 2)
    label = axes.annotate(
        _text(cluster.names),
        tuple(middle),
        xycoords="axes fraction",
        xytext=(0, 0),
        textcoords="offset points",
        fontsize=8,
        va="center",
        annotation_clip=False,
        arrowprops={"arrowstyle": "-", "color": GRAY, "lw": 0.7, "shrinkB": 3},
    )
    height = 0.5 * text_box(label).height / pixels + half
    frame = axes.get_window_extent()
    for radius, angle in itertools.product(_RADII, _ANGLES):
        dx, dy = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        side, up = round(dx), round(dy)
        label.set_horizontalalignment(("center", "left", "right")[side])
        label.xyann = (radius * dx, radius * dy + height * up)
        box = text_box(label).expanded(1.02, 1.05)
        inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
        inside &= frame.y0 <= box.y0 and box.y1 <= frame.y1
        if inside and not any(box.overlaps(other) for other in occupied):
            return label
    label.remove()
    return None
