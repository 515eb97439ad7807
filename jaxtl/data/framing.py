"""The size that images are brought to where the options name none."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxtl.data import images
from jaxtl.data.dataset import Data, Table

# Sides of squares that images of several sizes are brought to: the largest that is at
# most the median of their shorter sides, or the first.
SIDES = (32, 64, 128, 224)


class Framing(NamedTuple):
    """How images get one size.

    Attributes:
      size: (height, width).
      shortest: as in `preprocess.Preprocess`.
      notes: what was decided for the user.
    """

    size: tuple[int, int]
    shortest: int | tuple[int, int] | None
    notes: tuple[str, ...]


def choose(sizes: Sequence[tuple[int, int]], data: Data) -> Framing:
    """The size of the options, or the one that all images have, or a square.

    Images of several sizes become squares of a side of `SIDES`: the shorter side is
    resized to it, the rest of the longer one cut off.

    Args:
      sizes: (height, width) of each image.
      data: gives `size` and `shortest`.
    """
    counts = collections.Counter(sizes).most_common()
    if data.size is not None:
        height, width = size = images.as_size(data.size)
        several = f"pictures of {len(counts)} sizes are brought to {height}×{width}"
        return Framing(size, data.shortest, (several,) if len(counts) > 1 else ())
    if len(counts) == 1:
        return Framing(counts[0][0], None, ())
    median = np.median([min(size) for size in sizes])
    side = max([s for s in SIDES if s <= median], default=SIDES[0])
    (height, width), count = counts[0]
    note = (
        f"pictures of {len(counts)} sizes, {count} of {len(sizes)} of them "
        f"{height}×{width}, are brought to {side}×{side}, the shorter side resized and "
        "the middle cut out; size= and shortest= choose otherwise"
    )
    return Framing((side, side), side, (note,))


def shortest_of(table: Table, data: Data) -> int | tuple[int, int] | None:
    """`shortest` of the options, or where these name no size that of the source."""
    if data.size is not None or table.preprocess is None:
        return data.shortest
    return table.preprocess.shortest
