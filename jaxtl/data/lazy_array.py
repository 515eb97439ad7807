"""Arrays that stay where they are until rows are asked for.

Each has `shape`, `dtype`, `len` and gathers by an integer row array, as numpy arrays
do, and pickles as a description, not as values, so worker processes can have one.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib

import numpy as np

from jaxtl.data.preprocess import decode, recolour, resize


class Lazy:
    """Base: a subclass gives `shape`, `dtype` and `rows(indices) -> ndarray`."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, index):
        if isinstance(index, slice):
            index = np.arange(len(self))[index]
        index = np.asarray(index)
        if index.dtype == bool:
            index = np.flatnonzero(index)
        flat = self.rows(index.reshape(-1))
        return flat.reshape(*index.shape, *self.shape[1:])


@dataclasses.dataclass(frozen=True, eq=False)
class View(Lazy):
    """Some rows of another lazy array."""

    base: Lazy
    keep: np.ndarray

    @property
    def shape(self):
        return (len(self.keep), *self.base.shape[1:])

    @property
    def dtype(self):
        return self.base.dtype

    def rows(self, index):
        return self.base[self.keep[index]]


@dataclasses.dataclass(frozen=True, eq=False)
class Mapped(Lazy):
    """A memory-mapped `.npy` file; `image` says that a channel axis is missing."""

    path: str
    image: bool = False

    @functools.cached_property
    def _map(self):
        return np.load(self.path, mmap_mode="r")

    @property
    def shape(self):
        return self._map.shape + ((1,) if self.image else ())

    @property
    def dtype(self):
        return self._map.dtype

    def rows(self, index):
        return np.asarray(self._map[index])

    def __reduce__(self):
        return Mapped, (self.path, self.image)


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFiles(Lazy):
    """Image files, decoded each time they are asked for."""

    root: str
    names: tuple[str, ...]
    size: tuple[int, int]
    channels: int
    shortest: int | None = None

    @property
    def dtype(self):
        return np.dtype(np.uint8)

    @property
    def shape(self):
        return (len(self.names), *self.size, self.channels)

    def rows(self, index):
        out = np.empty((len(index), *self.shape[1:]), np.uint8)
        root = pathlib.Path(self.root)
        how = self.size, self.channels, self.shortest
        for place, row in enumerate(index):
            out[place] = decode(root / self.names[row], *how)
        return out


@dataclasses.dataclass(frozen=True, eq=False)
class Reshaped(Lazy):
    """Lazy images brought to a size and a number of channels as they are read."""

    base: Lazy
    size: tuple[int, int]
    channels: int
    shortest: int | None = None

    @property
    def shape(self):
        return (len(self.base), *self.size, self.channels)

    @property
    def dtype(self):
        return self.base.dtype

    def rows(self, index):
        return recolour(
            resize(self.base[index], self.size, self.shortest), self.channels
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Chain(Lazy):
    """Lazy arrays one behind the other."""

    parts: tuple[Lazy, ...]

    @property
    def shape(self):
        return (sum(map(len, self.parts)), *self.parts[0].shape[1:])

    @property
    def dtype(self):
        return self.parts[0].dtype

    def rows(self, index):
        ends = np.cumsum([len(part) for part in self.parts])
        owner = np.searchsorted(ends, index, side="right")
        out = np.empty((len(index), *self.shape[1:]), self.dtype)
        for i, part in enumerate(self.parts):
            mine = owner == i
            if mine.any():
                out[mine] = part[index[mine] - (ends[i] - len(part))]
        return out


def gather(x, rows):
    """Returns x[rows]; for a dict of arrays, of each of them."""
    if isinstance(x, dict):
        return {name: values[rows] for name, values in x.items()}
    return x[rows]


def select(x, rows):
    """Keeps some rows: a copy of a plain array, a view of what is lazy."""
    if isinstance(x, dict):
        return {name: select(values, rows) for name, values in x.items()}
    return View(x, np.asarray(rows)) if isinstance(x, Lazy) else x[rows]


def is_lazy(x) -> bool:
    """Whether any part of x is not held in memory."""
    if isinstance(x, dict):
        return any(is_lazy(values) for values in x.values())
    return isinstance(x, Lazy)


def length(x) -> int:
    """Number of examples; -1 for a dict of arrays of unequal lengths."""
    if isinstance(x, dict):
        lengths = {len(values) for values in x.values()}
        return lengths.pop() if len(lengths) == 1 else -1
    return len(x)
