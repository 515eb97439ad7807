"""Columns of tables: cells as numbers, texts or lists of labels.

Every source of tables (CSV, JSON, Parquet, frames in memory) reads its file into
`Column`s; what follows is the same for all: `column_features` and `column_targets`. In
text files a column is numeric if every cell that has a value is a decimal number; files
with types keep theirs.
"""

from __future__ import annotations

import dataclasses
import decimal
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.data import cells
from jaxtl.data.origins import Origins


@dataclasses.dataclass(frozen=True, eq=False)
class Column:
    """One column of a table.

    Attributes:
      texts: (n,) normalized cells; None for a column that was stored as numbers, or as
        lists.
      values: (n,) float64 with NaN where a cell is missing; None for texts.
      is_missing: (n,) bool.
      names: the classes that the file declares, in their order; None for none.
      integers: (n,) the whole numbers as they were stored, of which `values` may have
        lost digits; None for others.
      written: (n,) the texts of a typed file as they stand there, "" for none; None for
        other columns.
      lists: (n,) the labels of each row, normalized, in the order of the file; None for
        columns that are not lists.
    """

    texts: Sequence[str] | None
    values: np.ndarray | None
    is_missing: np.ndarray
    names: tuple[str, ...] | None = None
    integers: np.ndarray | None = None
    written: Sequence[str] | None = None
    lists: Sequence[tuple[str, ...]] | None = None

    def select(self, rows: np.ndarray) -> Column:
        """The column of some rows, by their numbers."""

        def chosen(cells: Sequence[Any] | None) -> list[Any] | None:
            return None if cells is None else [cells[row] for row in rows]

        return dataclasses.replace(
            self,
            texts=chosen(self.texts),
            values=None if self.values is None else self.values[rows],
            is_missing=self.is_missing[rows],
            integers=None if self.integers is None else self.integers[rows],
            written=chosen(self.written),
            lists=chosen(self.lists),
        )

    @functools.cached_property
    def labels(self) -> list[str]:
        """The cells as texts, numbers as a program writes them."""
        if self.texts is not None:
            return list(self.texts)
        if self.lists is not None:
            return [", ".join(labels) for labels in self.lists]
        if self.integers is not None:
            return [str(int(value)) for value in self.integers]
        return [repr(float(value)) for value in self.values]

    @functools.cached_property
    def present(self) -> list[str]:
        """The cells that are not missing, as texts."""
        if not self.is_missing.any():
            return self.labels
        return [text for text, m in zip(self.labels, self.is_missing) if not m]


class DeferredColumns(Mapping[str, Column]):
    """Columns by name, each read when it is looked up: a column that nobody uses may
    hold anything.
    """

    def __init__(self, readers: Mapping[str, Callable[[], Column]]):
        """Takes a function for each column that reads it."""
        self._readers, self._columns = readers, {}

    def __getitem__(self, name: str) -> Column:
        if name not in self._columns:
            self._columns[name] = self._readers[name]()
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


class Columns(NamedTuple):
    """The columns of a table by name.

    Attributes:
      columns: name -> column, all of equal length.
      origins: where each row was read.
      notes: what was decided in reading.
      train: rows of the train split, where the file has splits itself; None without.
    """

    columns: Mapping[str, Column]
    origins: Origins
    notes: list[str]
    train: np.ndarray | None = None

    def place(self, row: int) -> str:
        """Where a row is: "line 3" of a file, or "row 3" counted from 0."""
        number = row if self.origins.number is None else int(self.origins.number[row])
        return f"{'line' if self.origins.counts_lines else 'row'} {number}"


def of_texts(column: Sequence[str], missing: Collection[str]) -> Column:
    """A column of normalized cells: numbers if all that are not missing are.

    Args:
      column: (n,) cells.
      missing: lower-case cells that hold no value.
    """
    if not any(cells.number(text) is not None for text in missing):
        numbers = cells.numbers(column)
        if numbers is not None and len(numbers):
            return Column(column, numbers, np.zeros(len(column), bool))
    is_missing = cells.holds_none(column, missing)
    present = column
    if is_missing.any():
        present = [cell for cell, m in zip(column, is_missing) if not m]
    numbers = cells.numbers(present) if present else None
    values = None
    if numbers is not None:
        values = np.full(len(column), np.nan)
        values[~is_missing] = numbers
    return Column(column, values, is_missing)


def of_values(values: Any, missing: Collection[str], where: str) -> Column:
    """A column that its file or program stored with a type.

    Booleans are the texts "False" and "True", texts stay texts even where they are
    written as numbers, and None and NaN are missing.

    Args:
      values: (n,) array, of objects where types differ or values are None.
      missing: lower-case texts that hold no value, nor do the numbers written so.
      where: the column, for messages.

    Raises:
      UserError: values of another kind: dates, bytes, lists of numbers with a fraction,
        or several kinds.
    """
    if isinstance(values, list | tuple):
        kinds = set(map(type, values))
        # numpy would make one type of texts or booleans beside others, of NaN as well.
        is_mixed = len(kinds) > 1 and any(map(_is_text_or_boolean, kinds))
        if is_mixed or any(map(_is_list, kinds)):
            return of_objects(list(values), missing, where)
    values = np.asarray(values)
    if values.ndim == 1 and values.dtype.kind in "iu":
        return _of_numbers(values.astype(np.float64), missing, values)
    if values.ndim == 1 and values.dtype.kind == "f":
        return _of_numbers(values.astype(np.float64), missing)
    if values.ndim != 1 or values.dtype.kind not in "ObUT":
        raise UserError(f"{where} {_kind_problem(_kind(values))}.")
    return of_objects(values.tolist(), missing, where)


def of_objects(values: list, missing: Collection[str], where: str) -> Column:
    """A column of Python objects; see `of_values`."""
    is_missing = np.zeros(len(values), bool)
    if any(map(_may_be_missing, set(map(type, values)))):
        is_missing = np.fromiter(map(_is_missing, values), bool, len(values))
    present = values
    if is_missing.any():
        present = [v for v, m in zip(values, is_missing) if not m]
    if present and all(map(_is_list, set(map(type, present)))):
        return _of_lists(values, is_missing, where)
    kinds = set(map(_object_kind, set(map(type, present))))
    if kinds == {"integer"}:
        integers = np.array([0 if m else v for v, m in zip(values, is_missing)], object)
        floats = np.where(is_missing, np.nan, integers.astype(np.float64))
        return _of_numbers(floats, missing, integers)
    if kinds and kinds <= {"integer", "number"}:
        floats = [np.nan if m else float(v) for v, m in zip(values, is_missing)]
        return _of_numbers(np.asarray(floats), missing)
    if kinds - {"text", "boolean"} or len(kinds) > 1:
        raise UserError(f"{where} {_kind_problem(' and '.join(sorted(kinds)))}.")
    written = ["" if m else str(v) for v, m in zip(values, is_missing)]
    texts = cells.all_normalized(written)
    is_missing |= cells.holds_none(texts, missing)
    return Column(
        texts, None, is_missing, written=None if "boolean" in kinds else written
    )


def _is_text_or_boolean(kind: type) -> bool:
    return issubclass(kind, str | bool | np.bool_)


def _is_list(kind: type) -> bool:
    return issubclass(kind, list | tuple | np.ndarray)


def _of_lists(values: list, is_missing: np.ndarray, where: str) -> Column:
    """A column of lists of labels, which are texts or whole numbers."""
    rows = [() if m else tuple(v) for v, m in zip(values, is_missing)]
    kinds = {_object_kind(kind) for row in rows for kind in set(map(type, row))}
    if kinds - {"text", "integer"} or len(kinds) > 1:
        raise UserError(
            f"{where} holds lists of {' and '.join(sorted(kinds))}; lists are read as "
            "labels, all of them texts or all whole numbers: convert it, or name "
            "features= without it."
        )
    lists = [tuple(cells.all_normalized([*map(str, row)])) for row in rows]
    if (
        blank := next((i for i, row in enumerate(lists) if "" in row), None)
    ) is not None:
        raise UserError(f"{where} has an empty label in row {blank}: {rows[blank]!r}.")
    return Column(None, None, is_missing, lists=lists)


def _of_numbers(
    values: np.ndarray, missing: Collection[str], integers: np.ndarray | None = None
) -> Column:
    """A column of float64 numbers; NaN and the numbers among `missing` are holes."""
    codes = cells.missing_numbers(missing)
    is_missing = np.isnan(values) | np.isin(values, [*codes])
    values = np.where(is_missing, np.nan, values)
    return Column(None, values, is_missing, integers=integers)


def _may_be_missing(kind: type) -> bool:
    """Whether values of a type may be None, NaN, or what pandas has for "no value"."""
    # Those of pandas compare as no other objects do.
    is_empty = kind is type(None) or kind.__name__ in ("NAType", "NaTType")
    return is_empty or issubclass(kind, float | np.floating)


def _is_missing(value: Any) -> bool:
    if isinstance(value, float | np.floating):
        return bool(value != value)  # NaN
    return value is None or _may_be_missing(type(value))


def _object_kind(kind: type) -> str:
    if issubclass(kind, bool | np.bool_):
        return "boolean"
    if issubclass(kind, int | np.integer):
        return "integer"
    if issubclass(kind, float | np.floating | decimal.Decimal):
        return "number"
    return "text" if issubclass(kind, str) else kind.__name__


def _kind(values: np.ndarray) -> str:
    shape = f"arrays of shape {values.shape[1:]}"
    return shape if values.ndim != 1 else str(values.dtype)


def _kind_problem(kinds: str) -> str:
    return (
        f"holds {kinds}; a column needs to be all numbers, all texts or all booleans: "
        "convert it, or name features= without it"
    )
