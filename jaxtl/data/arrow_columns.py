"""Columns of Arrow tables, as Parquet, Feather and `datasets` store them."""

from __future__ import annotations

import functools
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.data import cells, columns, origins
from jaxtl.data.columns import Column, Columns

if TYPE_CHECKING:
    import pyarrow


def library(owner: str) -> types.ModuleType:
    """The module `pyarrow`.

    Args:
      owner: the source that needs it, for the message.

    Raises:
      UserError: it is not installed.
    """
    try:
        import pyarrow
    except ImportError:
        raise UserError(f"{owner} needs pyarrow: pip install 'jaxtl[arrow]'.") from None
    return pyarrow


def table_columns(
    table: pyarrow.Table, place: str, missing: Sequence[str], owner: str
) -> Columns:
    """All columns of a table.

    Args:
      table: at least one row.
      place: the file, for the origins of rows.
      missing: lower-case texts that hold no value.
      owner: of the table, for messages.

    Raises:
      UserError: no rows, or two columns of one name.
    """
    names = [cells.normalized(name) for name in table.column_names]
    if (repeated := cells.repeated(names)) is not None:
        raise UserError(f"{owner} has two columns called {repeated!r}.")
    if not names or table.num_rows == 0:
        raise UserError(f"{owner} has no rows.")
    readers = {
        name: functools.partial(column, values, missing, f"{owner}: column {name!r}")
        for name, values in zip(names, table.columns)
    }
    rows = origins.of_elements([(place, table.num_rows)])
    return Columns(columns.DeferredColumns(readers), rows, [])


def column(values: pyarrow.ChunkedArray, missing: Sequence[str], where: str) -> Column:
    """One column with its type: numbers, texts, booleans, or a dictionary of texts.

    Raises:
      UserError: another type: dates, lists, structures, bytes.
    """
    pa = library("a column of Arrow")
    kind = values.type
    if pa.types.is_dictionary(kind):
        return column(values.cast(kind.value_type), missing, where)
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if is_number and values.null_count == 0:
        return columns.of_values(values.to_numpy(), missing, where)
    if pa.types.is_floating(kind):
        is_null = np.asarray(values.is_null())
        numbers = np.asarray(values.fill_null(0).to_numpy(), np.float64)
        return columns.of_values(np.where(is_null, np.nan, numbers), missing, where)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_plain = is_text or is_number or pa.types.is_boolean(kind)
    if not (is_plain or pa.types.is_decimal(kind) or pa.types.is_null(kind)):
        raise UserError(
            f"{where} is of the type {kind}; a column needs to be all numbers, all "
            "texts or all booleans: convert it, or name features= without it."
        )
    return columns.of_objects(values.to_pylist(), missing, where)
