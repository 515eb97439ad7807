"""Where each example of a data set was read: a file and a line, a picture, an index.

Rows are renumbered by every filter, so a row's number means nothing to whoever holds
the file. An origin stays with its row.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Origins:
    """The origins of n rows; `origins[row]` is one of them, in words.

    "table.csv:12" is line 12 of a file, counted from 1 with its header and blank lines;
    "cat/3.png" a picture; "mnist.npz[12]" index 12, counted from 0, of arrays.

    Attributes:
      places: files, or names of arrays.
      place: (n,) int32, index of each row's place.
      number: (n,) int64, line or index in that place; None where a place is one row.
      counts_lines: whether numbers are of lines, else of array elements.
      source_row: (n,) int64, each row's number among all rows that the source read,
        from 0, before any filter.
    """

    places: tuple[str, ...]
    place: np.ndarray
    number: np.ndarray | None
    counts_lines: bool
    source_row: np.ndarray

    def __len__(self) -> int:
        return len(self.place)

    def __getitem__(self, row: int) -> str:
        place = self.places[self.place[row]]
        if self.number is None:
            return place
        number = int(self.number[row])
        return f"{place}:{number}" if self.counts_lines else f"{place}[{number}]"

    def select(self, rows: np.ndarray) -> Origins:
        """The origins of some rows, by their numbers or a mask."""
        return dataclasses.replace(
            self,
            place=self.place[rows],
            number=None if self.number is None else self.number[rows],
            source_row=self.source_row[rows],
        )


def of_lines(files: Iterable[tuple[str | os.PathLike, Sequence[int]]]) -> Origins:
    """Origins of lines: (file, numbers of its lines from 1), one file after the other.

    A file may come several times.
    """
    return _numbered([(os.fspath(f), n) for f, n in files], counts_lines=True)


def concatenated(parts: Sequence[Origins]) -> Origins:
    """The origins of several sources' rows, one source after the other."""
    if len({(part.counts_lines, part.number is None) for part in parts}) > 1:
        return of_files([part[row] for part in parts for row in range(len(part))])
    first = np.cumsum([0, *(len(part.places) for part in parts)], dtype=np.int32)
    numbers = [part.number for part in parts if part.number is not None]
    return Origins(
        places=tuple(name for part in parts for name in part.places),
        place=np.concatenate([part.place + start for part, start in zip(parts, first)]),
        number=np.concatenate(numbers) if numbers else None,
        counts_lines=parts[0].counts_lines,
        source_row=np.arange(sum(map(len, parts))),
    )


def of_elements(arrays: Iterable[tuple[str, int | Sequence[int]]]) -> Origins:
    """Origins of array elements: (name of an array, its length or some indices)."""
    parts = [
        (name, range(n) if isinstance(n, (int, np.integer)) else n)
        for name, n in arrays
    ]
    return _numbered(parts, counts_lines=False)


def of_files(files: Sequence[str | os.PathLike]) -> Origins:
    """Origins of files that hold one example each."""
    rows = np.arange(len(files))
    places = tuple(map(os.fspath, files))
    return Origins(places, rows.astype(np.int32), None, False, rows)


def _numbered(parts: list[tuple[str, Sequence[int]]], counts_lines: bool) -> Origins:
    lengths = [len(numbers) for _, numbers in parts]
    return Origins(
        places=tuple(name for name, _ in parts),
        place=np.repeat(np.arange(len(parts), dtype=np.int32), lengths),
        number=np.concatenate([np.asarray(n, np.int64) for _, n in parts]),
        counts_lines=counts_lines,
        source_row=np.arange(sum(lengths)),
    )
