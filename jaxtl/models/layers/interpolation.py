"""Position vectors and tables of relative positions for another grid of patches."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxtl.core.errors import UserError


def cubic_matrix(old: int, new: int, antialias: bool = False) -> np.ndarray:
    """The (new, old) matrix of cubic convolution of a row of numbers.

    Keys, IEEE TASSP 29 (1981); pixel centers at halves: the same as torch's
    interpolate(mode="bicubic", align_corners=False). Without `antialias` a = −0.75 and
    borders are repeated; with it a = −0.5, the kernel is as wide as a new pixel where
    that is wider than an old one, and weights beyond the border are left out.
    """
    a = -0.5 if antialias else -0.75

    def weight(t: np.ndarray) -> np.ndarray:
        inner = (a + 2) * t**3 - (a + 3) * t**2 + 1
        outer = a * (t**3 - 5 * t**2 + 8 * t - 4)
        return np.where(t <= 1, inner, np.where(t < 2, outer, 0.0))

    return _matrix(old, new, weight, 2, antialias)


def linear_matrix(old: int, new: int) -> np.ndarray:
    """The same for torch's interpolate(mode="bilinear", align_corners=False)."""
    return _matrix(old, new, lambda t: np.maximum(1 - t, 0.0), 1, False)


def _matrix(
    old: int, new: int, weight: Callable, reach: int, antialias: bool
) -> np.ndarray:
    """The matrix of a kernel: `weight` of a distance, 0 from `reach` on."""
    matrix = np.zeros((new, old))
    spread = max(old / new, 1.0) if antialias else 1.0
    for i in range(new):
        center = (i + 0.5) * old / new - 0.5
        if reach == 1:  # as torch: a linear kernel never looks beyond the border
            center = max(center, 0.0)
        first = int(np.floor(center - reach * spread))
        for tap in range(first, int(np.ceil(center + reach * spread)) + 1):
            if antialias and not 0 <= tap < old:
                continue
            value = float(weight(np.abs(np.float64(center - tap) / spread)))
            matrix[i, np.clip(tap, 0, old - 1)] += value
    return matrix / matrix.sum(1, keepdims=True)


def with_rows_before(position: Any, extra: int) -> Any:
    """Position vectors with zeros for the tokens before the patches, if they lack them.

    Files of timm may have vectors of the patches alone (`no_embed_class`: DINOv2 with
    registers, DeiT III), to which the tokens before them are joined behind the sum.

    Args:
      position: (1, extra + rows², width), or (1, rows², width).
      extra: tokens before the patches, of which those numbers are never the same.

    Returns:
      (1, extra + rows², width).
    """
    places = position.shape[1]
    if not extra or math.isqrt(places) ** 2 != places:
        return position
    position = np.asarray(position)
    zeros = np.zeros((1, extra, position.shape[2]), position.dtype)
    return np.concatenate([zeros, position], 1)


def resize_positions(
    position: Any, side: int, extra: int = 1, antialias: bool = False
) -> np.ndarray:
    """Resizes position vectors, bicubically, to another grid of patches.

    Args:
      position: (1, extra + rows · columns, width) of a square grid.
      side: rows and columns of the new grid.
      extra: tokens before the patches.
      antialias: as of `cubic_matrix`.

    Returns:
      (1, extra + side², width); the input itself where the grid is the same.
    """
    position = np.asarray(position)
    old = _side(position.shape[1] - extra, "position vectors")
    if old == side:
        return position
    patches = position[:, extra:].reshape(old, old, -1)
    matrix = cubic_matrix(old, side, antialias)
    patches = np.einsum("ij,kl,jlc->ikc", matrix, matrix, patches)
    patches = patches.reshape(1, side**2, -1).astype(position.dtype)
    return np.concatenate([position[:, :extra], patches], 1)


def resize_relative(table: Any, side: int, extra: int) -> np.ndarray:
    """Resizes a table of relative positions, bilinearly, to another grid of patches.

    Args:
      table: ((2 · rows − 1)² + extra, heads).
      side: rows and columns of the new grid.
      extra: rows behind those of the distances.
    """
    table = np.asarray(table)
    distances = table.shape[0] - extra
    old, new = _side(distances, "relative positions"), 2 * side - 1
    if old == new:
        return table
    matrix = linear_matrix(old, new)
    grid = table[:distances].reshape(old, old, -1)
    grid = np.einsum("ij,kl,jlc->ikc", matrix, matrix, grid)
    grid = grid.reshape(new**2, -1).astype(table.dtype)
    return np.concatenate([grid, table[distances:]])


def _side(count: int, what: str) -> int:
    """The side of a square of `count` places."""
    side = round(max(count, 0) ** 0.5)
    if side**2 != count or not side:
        raise UserError(
            f"the {what} of {count} patches are of no square grid, so they can't be "
            "interpolated to another image size."
        )
    return side
