"""Arrays whose rows are read from disk when they are indexed.

Each has `shape`, `dtype`, `len` and is indexed by integers, slices and masks along its
first axis, as numpy arrays are. It pickles as a description, not as values, so worker
processes can have a copy.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from jaxtl.core import progress
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.data import images
from jaxtl.data.image_stores import ImageStore


class LazyArray:
    """Base class: a subclass gives `shape`, `dtype` and `rows`."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def rows(self, index: np.ndarray) -> np.ndarray:
        """Reads rows, (len(index), *shape[1:]), by their numbers, int (n,)."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, slice):
            index = np.arange(len(self))[index]
        index = np.asarray(index)
        if index.dtype == bool:
            index = np.flatnonzero(index)
        flat = self.rows(index.reshape(-1))
        return flat.reshape(*index.shape, *self.shape[1:])


@dataclasses.dataclass(frozen=True, eq=False)
class RowSelection(LazyArray):
    """Some rows of another lazy array, by their numbers."""

    base: LazyArray
    selected: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.selected), *self.base.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        return self.base.dtype

    def rows(self, index: np.ndarray) -> np.ndarray:
        return self.base[self.selected[index]]


@dataclasses.dataclass(frozen=True, eq=False)
class MemoryMapped(LazyArray):
    """A memory-mapped `.npy` file; 64-bit integers are read as float32.

    Attributes:
      path: the file.
      image: whether to append the channel axis that gray images lack.
    """

    path: str
    image: bool = False

    @functools.cached_property
    def _array(self) -> np.ndarray:
        return np.load(self.path, mmap_mode="r")

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape + ((1,) if self.image else ())

    @property
    def dtype(self) -> np.dtype:
        dtype = self._array.dtype
        return np.dtype(np.float32) if _is_wide(dtype) else dtype

    def rows(self, index: np.ndarray) -> np.ndarray:
        x = np.asarray(self._array[index])
        if not _is_wide(x.dtype):
            return x
        if x.size and max(abs(int(x.min())), abs(int(x.max()))) > 2**24:
            raise UserError(
                f"{self.path} holds integers up to {x.max()}, beyond the 24 bits of "
                "float32; raise memory_limit, so that they are read whole and given an "
                "offset, or subtract one."
            )
        return x.astype(np.float32)

    def __reduce__(self):
        return MemoryMapped, (self.path, self.image)


def _is_wide(dtype: np.dtype) -> bool:
    """Whether integers of a type may go beyond those of 32 bits, which JAX takes."""
    return dtype.kind in "iu" and (dtype.itemsize > 4 or dtype == np.uint32)


@dataclasses.dataclass(frozen=True, eq=False)
class LazyImages(LazyArray):
    """Encoded images, uint8, decoded each time they are indexed.

    Attributes:
      store: of the images.
      numbers: (n,) which of them.
      size: (height, width) to decode to.
      channels: 1 or 3.
      shortest, resample: as in `preprocess.Preprocess`.
    """

    store: ImageStore
    numbers: np.ndarray
    size: tuple[int, int]
    channels: int
    shortest: int | tuple[int, int] | None = None
    resample: str | None = None

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.numbers), *self.size, self.channels)

    def rows(self, index: np.ndarray) -> np.ndarray:
        x = np.empty((len(index), *self.shape[1:]), np.uint8)
        for i, row in enumerate(progress.track(index, "decoding images")):
            source = self.store.open(int(self.numbers[row]))
            x[i] = images.decode(
                source, self.size, self.channels, self.shortest, self.resample
            )
        return x


@dataclasses.dataclass(frozen=True, eq=False)
class ResizedImages(LazyArray):
    """Lazy images brought to a size and a number of channels as they are read."""

    base: LazyArray
    size: tuple[int, int]
    channels: int
    shortest: int | tuple[int, int] | None = None
    resample: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.base), *self.size, self.channels)

    @property
    def dtype(self) -> np.dtype:
        return self.base.dtype

    def rows(self, index: np.ndarray) -> np.ndarray:
        x = self.base[index]
        resized = images.resize(x, self.size, self.shortest, self.resample)
        return images.convert_channels(resized, self.channels)


@dataclasses.dataclass(frozen=True, eq=False)
class Concatenation(LazyArray):
    """Lazy arrays concatenated along their first axis."""

    parts: tuple[LazyArray, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(map(len, self.parts)), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> np.dtype:
        return self.parts[0].dtype

    def rows(self, index: np.ndarray) -> np.ndarray:
        ends = np.cumsum([len(part) for part in self.parts])
        part_of_row = np.searchsorted(ends, index, side="right")
        x = np.empty((len(index), *self.shape[1:]), self.dtype)
        for i, part in enumerate(self.parts):
            inside = part_of_row == i
            if inside.any():
                x[inside] = part[index[inside] - (ends[i] - len(part))]
        return x


def gather(x: PyTree, rows: Any) -> PyTree:
    """Computes x[rows]; for a dict of arrays, of each of them."""
    if isinstance(x, dict):
        return {name: values[rows] for name, values in x.items()}
    return x[rows]


def select(x: PyTree, rows: np.ndarray) -> PyTree:
    """Keeps some rows: a copy of an array in memory, a `RowSelection` of a lazy one."""
    if isinstance(x, dict):
        return {name: select(values, rows) for name, values in x.items()}
    if isinstance(x, LazyArray):
        return RowSelection(x, np.asarray(rows))
    return x[rows]


def is_lazy(x: PyTree) -> bool:
    """Whether any part of x is not held in memory."""
    if isinstance(x, dict):
        return any(is_lazy(values) for values in x.values())
    return isinstance(x, LazyArray)


def length(x: PyTree) -> int:
    """Number of examples; -1 for a dict of arrays of unequal lengths."""
    if isinstance(x, dict):
        lengths = {len(values) for values in x.values()}
        return lengths.pop() if len(lengths) == 1 else -1
    return len(x)
