"""Tables in memory: a dict of arrays, or a frame of pandas, polars or pyarrow."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtl.core.array_digests import array_digest
from jaxtl.core.errors import UserError
from jaxtl.data import arrow_columns, cells, columns, origins
from jaxtl.data.columns import Column, Columns
from jaxtl.data.tabular import Tabular


@dataclasses.dataclass(frozen=True, eq=False)
class _InMemoryTable:
    """A table in memory, compared by identity so that `Frame` can be hashed."""

    value: Any

    def __repr__(self) -> str:
        names = ", ".join(map(str, _names(self.value)))
        return f"<{type(self.value).__name__} of {names}>"

    def content_digest(self) -> str:
        """Hash of the values as they are now: who holds the table may change it."""
        sha = hashlib.sha256()
        for name in _names(self.value):
            values = np.asarray(_without_mask(self.value[name]))
            text = f"{name}{values.dtype}{values.shape}{array_digest(values)}"
            sha.update(text.encode("utf-8", "surrogatepass"))
        return sha.hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame(Tabular):
    """A dict of arrays, or a frame of pandas, polars or pyarrow, in memory.

    `Frame({"age": ages, "city": cities, "y": y}, target="y")`;
    `Frame(pandas.read_excel("table.xlsx"), target="y")`. Numbers are numbers, texts and
    booleans are categories, a categorical column of pandas, and an ordered one of
    others, keeps the order of its categories as classes; None, NaN and masked values
    are missing. The index of a frame is no column. The other options are those of
    `CSV`.

    Attributes:
      table: the columns by name.
    """

    table: Any = dataclasses.field(kw_only=False)

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.table, _InMemoryTable):
            _check(self.table)
            object.__setattr__(self, "table", _InMemoryTable(self.table))

    def read_columns(self) -> Columns:
        """Column name -> column."""
        value, missing = self.table.value, self.missing_values
        names = [cells.normalized(str(name)) for name in _names(value)]
        if (repeated := cells.repeated(names)) is not None:
            raise UserError(f"Frame.table has two columns called {repeated!r}.")
        lengths = {name: len(value[key]) for name, key in zip(names, _names(value))}
        if len(set(lengths.values())) > 1:
            raise UserError(f"Frame.table: the columns differ in length: {lengths}.")
        count = next(iter(lengths.values()))
        if count == 0:
            raise UserError("Frame.table has no rows.")
        readers = {
            name: functools.partial(
                _column, value[key], missing, f"Frame.table: column {name!r}"
            )
            for name, key in zip(names, _names(value))
        }
        rows = origins.of_elements([("Frame", count)])
        return Columns(columns.DeferredColumns(readers), rows, [])


def _names(value: Any) -> list[Any]:
    names = getattr(value, "column_names", None)  # of pyarrow
    if names is None:
        names = value if isinstance(value, Mapping) else value.columns
    return list(names)


def _check(value: Any) -> None:
    """Raises UserError for a value that has no columns by name."""
    is_frame = hasattr(value, "columns") and hasattr(value, "__getitem__")
    if not (isinstance(value, Mapping) or is_frame) or not _names(value):
        raise UserError(
            "Frame.table must be a dict of arrays, or a frame of pandas, polars or "
            f"pyarrow, with at least one column; got {type(value).__name__}."
        )


def _without_mask(values: Any) -> Any:
    """The values of a masked array of numpy as objects, None where they are masked."""
    return np.array(values.tolist(), object) if np.ma.is_masked(values) else values


def _column(values: Any, missing: tuple[str, ...], where: str) -> Column:
    """A column of any of the libraries, its categories in their own order."""
    values = _without_mask(values)
    if hasattr(values, "to_arrow"):  # polars
        values = values.to_arrow()
    if hasattr(values, "chunks") or hasattr(values, "buffers"):  # pyarrow
        return arrow_columns.column(values, missing, where)
    categories = getattr(values, "cat", None) if hasattr(values, "iloc") else None
    if categories is not None:  # of pandas
        column = columns.of_objects(values.astype(object).tolist(), missing, where)
        names = tuple(cells.normalized(str(name)) for name in categories.categories)
        return dataclasses.replace(column, names=names)
    if hasattr(values, "iloc") and not isinstance(values.dtype, np.dtype):
        return columns.of_objects(values.tolist(), missing, where)  # of pandas itself
    return columns.of_values(values, missing, where)
