"""Digits drawn with a pen: a source domain near to handwriting that needs no download.

A digit is a few strokes through control points, in one of its writing styles. The
points are jittered, a smooth warp, a slant and a width are shared by all strokes, and
the pen has some thickness. The drawing is then prepared as the UCI digits were (see
`rendered_digits`).
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from jaxtl.core import progress
from jaxtl.core.errors import UserError
from jaxtl.data.dataset import Data, Table
from jaxtl.data.preprocess import Preprocess
from jaxtl.data.sources.rendered_digits import affine, block_counts, fit_bitmap

# Control points (x, y) of strokes, x to the right and y down, in a box of side 1; a
# point that stands twice is a corner. Per digit its styles, per style its strokes.
_Stroke = tuple[tuple[float, float], ...]
STYLES: dict[int, tuple[tuple[_Stroke, ...], ...]] = {
    0: (
        (((0.55, 0), (0.2, 0.15), (0.08, 0.5), (0.22, 0.87), (0.5, 1), (0.8, 0.85),
          (0.92, 0.5), (0.8, 0.13), (0.5, 0)),),
        (((0.5, 0), (0.32, 0.15), (0.25, 0.5), (0.32, 0.85), (0.5, 1), (0.68, 0.85),
          (0.75, 0.5), (0.68, 0.15), (0.5, 0)),),
        (((0.7, 0.08), (0.35, 0.05), (0.12, 0.4), (0.2, 0.85), (0.5, 1), (0.8, 0.8),
          (0.88, 0.4), (0.7, 0.08), (0.45, 0.1)),),
    ),
    1: (
        (((0.5, 0), (0.5, 0.5), (0.5, 1)),),
        (((0.25, 0.3), (0.55, 0), (0.55, 0), (0.55, 0.5), (0.55, 1)),),
        (((0.3, 0.25), (0.5, 0), (0.5, 0), (0.5, 1)), ((0.2, 1), (0.8, 1))),
        (((0.65, 0), (0.5, 0.5), (0.4, 1)),),
        (((0.15, 0.45), (0.6, 0), (0.6, 0), (0.55, 1)),),
    ),
    2: (
        (((0.1, 0.25), (0.3, 0.03), (0.65, 0.03), (0.83, 0.25), (0.6, 0.6), (0.1, 1),
          (0.1, 1), (0.9, 1)),),
        (((0.12, 0.2), (0.45, 0), (0.8, 0.2), (0.65, 0.55), (0.25, 0.95), (0.08, 0.85),
          (0.3, 0.8), (0.92, 1)),),
        (((0.15, 0.08), (0.6, 0.02), (0.8, 0.3), (0.5, 0.65), (0.1, 0.97), (0.1, 0.97),
          (0.5, 0.9), (0.9, 0.98)),),
    ),
    3: (
        (((0.1, 0.12), (0.5, 0), (0.8, 0.2), (0.65, 0.42), (0.4, 0.48), (0.4, 0.48),
          (0.75, 0.58), (0.85, 0.8), (0.5, 1), (0.1, 0.9)),),
        (((0.1, 0), (0.1, 0), (0.8, 0), (0.8, 0), (0.45, 0.4), (0.45, 0.4),
          (0.85, 0.65), (0.7, 0.95), (0.35, 1), (0.1, 0.88)),),
        (((0.15, 0.05), (0.6, 0.02), (0.75, 0.2), (0.5, 0.45), (0.8, 0.6), (0.8, 0.85),
          (0.5, 1), (0.1, 0.95)),),
    ),
    4: (
        (((0.35, 0), (0.1, 0.6), (0.1, 0.6), (0.9, 0.6)), ((0.7, 0.25), (0.65, 1))),
        (((0.7, 0), (0.08, 0.65), (0.08, 0.65), (0.95, 0.65)), ((0.7, 0), (0.7, 1))),
        (((0.15, 0), (0.12, 0.45), (0.12, 0.45), (0.45, 0.52), (0.85, 0.45)),
         ((0.85, 0), (0.8, 0.5), (0.8, 1))),
        (((0.5, 0), (0.1, 0.62), (0.1, 0.62), (0.9, 0.58)), ((0.55, 0.35), (0.5, 1))),
    ),
    5: (
        (((0.85, 0), (0.25, 0), (0.25, 0), (0.2, 0.42), (0.2, 0.42), (0.55, 0.36),
          (0.85, 0.6), (0.7, 0.93), (0.35, 1), (0.1, 0.9)),),
        (((0.85, 0.05), (0.35, 0.03), (0.22, 0.35), (0.6, 0.45), (0.85, 0.7),
          (0.6, 0.97), (0.1, 0.95)),),
        (((0.3, 0.05), (0.22, 0.45), (0.22, 0.45), (0.6, 0.42), (0.8, 0.7),
          (0.55, 0.98), (0.1, 0.95)), ((0.3, 0.05), (0.9, 0.02))),
    ),
    6: (
        (((0.75, 0.02), (0.35, 0.3), (0.12, 0.65), (0.3, 0.97), (0.65, 0.97),
          (0.85, 0.75), (0.6, 0.52), (0.2, 0.65)),),
        (((0.5, 0), (0.2, 0.45), (0.15, 0.8), (0.45, 1), (0.8, 0.85), (0.7, 0.6),
          (0.4, 0.58), (0.17, 0.78)),),
        (((0.45, 0), (0.2, 0.5), (0.25, 0.9), (0.55, 1), (0.75, 0.8), (0.6, 0.65),
          (0.25, 0.85)),),
    ),
    7: (
        (((0.1, 0.05), (0.1, 0.05), (0.9, 0.05), (0.9, 0.05), (0.55, 0.5), (0.4, 1)),),
        (((0.1, 0.05), (0.1, 0.05), (0.85, 0.02), (0.85, 0.02), (0.55, 0.5), (0.4, 1)),
         ((0.2, 0.52), (0.85, 0.48))),
        (((0.08, 0.2), (0.12, 0.03), (0.12, 0.03), (0.85, 0.05), (0.85, 0.05),
          (0.6, 0.5), (0.45, 1)),),
        (((0.1, 0.18), (0.2, 0.02), (0.8, 0.05), (0.8, 0.05), (0.55, 0.5), (0.4, 1)),
         ((0.15, 0.55), (0.9, 0.45))),
    ),
    8: (
        (((0.8, 0.15), (0.5, 0), (0.2, 0.2), (0.5, 0.47), (0.8, 0.75), (0.5, 1),
          (0.2, 0.77), (0.5, 0.47), (0.8, 0.15)),),
        (((0.5, 0.45), (0.25, 0.22), (0.5, 0), (0.75, 0.22), (0.5, 0.45), (0.2, 0.73),
          (0.5, 1), (0.8, 0.73), (0.5, 0.45)),),
    ),
    9: (
        (((0.8, 0.25), (0.5, 0), (0.15, 0.25), (0.42, 0.5), (0.8, 0.25), (0.8, 0.25),
          (0.75, 0.6), (0.6, 1)),),
        (((0.82, 0.25), (0.5, 0), (0.17, 0.25), (0.45, 0.5), (0.82, 0.25), (0.85, 0.65),
          (0.6, 0.97), (0.15, 0.95)),),
        (((0.75, 0.15), (0.4, 0.02), (0.2, 0.3), (0.5, 0.48), (0.75, 0.2), (0.75, 0.2),
          (0.75, 0.6), (0.75, 1)),),
    ),
}  # fmt: skip
# Pixels: side of the canvas, side of the digit's box on it.
_CANVAS, _BOX = 160, 80
POINTS_PER_PIECE = 8  # points of the curve between two control points


class Hand(NamedTuple):
    """How the strokes of one digit are drawn.

    Attributes:
      jitter: standard deviation of the control points, in units of the box.
      warp: amplitude of the smooth warp, in units of the box.
      matrix: (2, 2), rotation, slant and width.
      thickness: of the pen, in units of the box.
    """

    jitter: float
    warp: float
    matrix: np.ndarray
    thickness: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class PenDigits(Data):
    """Digits drawn with a pen in several writing styles, (8, 8, 1), values 0 to 16.

    A small CNN trained on the default 4,000 classifies 86 % of the handwritten test
    digits correctly (`experiments/quickstart.py`, zero-shot). The ranges were chosen on
    other rows, the quickstart's validation split.

    Attributes:
      per_class: examples per digit; each is drawn in one of its digit's `STYLES`.
      seed: of the styles and distortions; equal seeds give equal digits.
      jitter: standard deviation of each control point, as a share of the digit's box.
      warp: largest amplitude of a smooth warp that all strokes share, likewise.
      rotate: largest rotation, degrees.
      shear: largest slant to either side, as a horizontal shift per unit of height.
      scale: (low, high) of the factor by which the width changes.
      pen: (low, high) of the pen's thickness, as a share of the digit's box.
    """

    per_class: int = 400
    seed: int = 0
    jitter: float = 0.04
    warp: float = 0.1
    rotate: float = 10.0
    shear: float = 0.35
    scale: tuple[float, float] = (0.6, 1.1)
    pen: tuple[float, float] = (0.14, 0.26)

    def __post_init__(self):
        super().__post_init__()
        for field, least in (("per_class", 1), ("seed", 0)):
            value = getattr(self, field)
            if value < least:
                raise UserError(
                    f"PenDigits.{field} must be at least {least}; got {value}."
                )
        for field in ("jitter", "warp", "rotate", "shear"):
            value = getattr(self, field)
            if not value >= 0:
                raise UserError(f"PenDigits.{field} must be at least 0; got {value}.")
        for field in ("scale", "pen"):
            pair = tuple(getattr(self, field))
            object.__setattr__(self, field, pair)
            if len(pair) != 2 or not 0 < pair[0] <= pair[1]:
                raise UserError(
                    f"PenDigits.{field} must be (low, high) with 0 < low ≤ high; "
                    f"got {pair}."
                )

    def read(self) -> Table:
        """Draws every example; they are ordered by digit."""
        rng = np.random.default_rng(self.seed)
        labels = np.repeat(np.arange(10), self.per_class)
        bitmaps = np.stack(
            [
                self._draw(int(digit), rng)
                for digit in progress.track(labels, "drawing digits")
            ]
        )
        return Table(
            x=block_counts(bitmaps)[..., None],
            y=labels,
            class_names=tuple("0123456789"),
            preprocess=Preprocess(scale=16.0),
        )

    def _draw(self, digit: int, rng: np.random.Generator) -> np.ndarray:
        """One example's bitmap, bool (32, 32)."""
        styles = STYLES[digit]
        strokes = styles[rng.integers(len(styles))]
        angle = np.deg2rad(rng.uniform(-self.rotate, self.rotate))
        slant = rng.uniform(-self.shear, self.shear)
        matrix = affine(angle, slant, rng.uniform(*self.scale))
        hand = Hand(self.jitter, self.warp, matrix, rng.uniform(*self.pen))
        return draw(strokes, hand, rng)


def draw(
    strokes: tuple[_Stroke, ...], hand: Hand, rng: np.random.Generator
) -> np.ndarray:
    """Draws strokes with a round pen and fits them into a bitmap, bool (32, 32).

    Disks at the control points round off corners and ends.
    """
    import PIL.Image
    import PIL.ImageDraw

    warp = _random_warp(hand.warp, rng)
    image = PIL.Image.new("L", (_CANVAS, _CANVAS))
    pen = PIL.ImageDraw.Draw(image)
    radius = max(hand.thickness * _BOX / 2, 0.5)
    for stroke in strokes:
        points = jittered(np.asarray(stroke), hand.jitter, rng)
        curve = (warp(spline(points)) - 0.5) @ hand.matrix.T * _BOX + _CANVAS / 2
        line = [tuple(point) for point in curve]
        pen.line(line, fill=255, width=max(round(2 * radius), 1))
        for x, y in line[::POINTS_PER_PIECE]:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return fit_bitmap(image)


def jittered(points: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    """Moves control points at random; the two of a corner stay together."""
    moved = points + rng.normal(size=points.shape) * size
    repeated = np.all(points[1:] == points[:-1], axis=1)
    moved[1:][repeated] = moved[:-1][repeated]
    return moved


def _random_warp(amplitude: float, rng: np.random.Generator):
    """A map of points (n, 2) that shifts each by slow sines of its place."""
    frequency = rng.uniform(0.5, 1.5, (2, 2)) * rng.choice([-1, 1], (2, 2))
    phase = rng.uniform(0, 2 * np.pi, 2)
    size = amplitude * rng.uniform(-1, 1, 2)

    def warp(points: np.ndarray) -> np.ndarray:
        return points + size * np.sin(np.pi * points @ frequency + phase)

    return warp


def spline(points: np.ndarray) -> np.ndarray:
    """Points of the (uniform) Catmull-Rom curve through control points.

    Args:
      points: (n, 2); two equal neighbors make a corner.

    Returns:
      (m, 2): `POINTS_PER_PIECE` points for each piece between two different neighbors,
      the first of them its control point, then the last control point.

    References:
      Catmull & Rom, A Class of Local Interpolating Splines, 1974.
    """
    before = np.concatenate([points[:1], points[:-2]])
    start, end = points[:-1], points[1:]
    after = np.concatenate([points[2:], points[-1:]])
    t = np.arange(POINTS_PER_PIECE)[:, None, None] / POINTS_PER_PIECE
    pieces = 0.5 * (
        2 * start
        + (end - before) * t
        + (2 * before - 5 * start + 4 * end - after) * t**2
        + (3 * start - before - 3 * end + after) * t**3
    )
    moves = np.any(start != end, axis=1)
    curve = pieces[:, moves].transpose(1, 0, 2).reshape(-1, 2)
    return np.concatenate([curve, points[-1:]])
