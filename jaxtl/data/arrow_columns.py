"""Columns of Arrow tables, as Parquet, Feather and `datasets` store them."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.data import cells, columns, origins
from jaxtl.data.columns import Column, Columns

if TYPE_CHECKING:
    import pyarrow

FEATURES = b"huggingface"  # where a schema holds the types of `datasets`, as JSON


def library(owner: str) -> types.ModuleType:
    """The module `pyarrow`, with its functions (`pyarrow.compute`).

    Args:
      owner: the source that needs it, for the message.

    Raises:
      UserError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.compute
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
    classes, tags = class_names(table.schema), tag_names(table.schema)

    def read(name: str, values: pyarrow.ChunkedArray) -> Column:
        where = f"{owner}: column {name!r}"
        if name in classes:
            return _class_column(values, classes[name], where)
        if name in tags:
            return _class_lists(values, tags[name], where)
        return column(values, missing, where)

    readers = {n: functools.partial(read, n, v) for n, v in zip(names, table.columns)}
    rows = origins.of_elements([(place, table.num_rows)])
    return Columns(columns.DeferredColumns(readers), rows, [])


def features(schema: pyarrow.Schema) -> dict[str, Any]:
    """Column name -> its type as the library `datasets` declares it; {} for none."""
    text = (schema.metadata or {}).get(FEATURES)
    if text is None:
        return {}
    try:
        declared = json.loads(text)["info"]["features"]
        named = {cells.normalized(name): kind for name, kind in declared.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # another program's entry
    # Earlier versions declare a list as [kind].
    named = {
        name: {"feature": kind[0]} if isinstance(kind, list) and kind else kind
        for name, kind in named.items()
    }
    return {name: kind for name, kind in named.items() if isinstance(kind, dict)}


def class_names(schema: pyarrow.Schema) -> dict[str, tuple[str, ...]]:
    """Column name -> names of the classes that `datasets` declares, in label order."""
    return {
        name: tuple(cells.normalized(str(c)) for c in kind["names"])
        for name, kind in features(schema).items()
        if kind.get("_type") == "ClassLabel" and kind.get("names")
    }


def tag_names(schema: pyarrow.Schema) -> dict[str, tuple[str, ...]]:
    """Column name -> names of the classes in lists of these, as `class_names`."""
    lists = {
        name: kind["feature"]
        for name, kind in features(schema).items()
        if isinstance(kind.get("feature"), dict)
    }
    return {
        name: tuple(cells.normalized(str(c)) for c in kind["names"])
        for name, kind in lists.items()
        if kind.get("_type") == "ClassLabel" and kind.get("names")
    }


def is_list(kind: pyarrow.DataType) -> bool:
    """Whether cells are lists."""
    kinds = library("a column of lists").types
    is_fixed = kinds.is_fixed_size_list(kind)
    return is_fixed or kinds.is_list(kind) or kinds.is_large_list(kind)


def holds_answers(kind: pyarrow.DataType) -> bool:
    """Whether cells are answers of questions, {"text", "answer_start"}."""
    is_struct = library("a column of answers").types.is_struct(kind)
    return is_struct and kind.get_field_index("answer_start") >= 0


def picture_columns(schema: pyarrow.Schema) -> list[str]:
    """The columns that `datasets` declares to hold pictures."""
    return [n for n, kind in features(schema).items() if kind.get("_type") == "Image"]


def is_encoded(kind: pyarrow.DataType) -> bool:
    """Whether cells are bytes, or `{"bytes", "path"}` as those of `datasets.Image`."""
    pa = library("a column of pictures")
    if pa.types.is_struct(kind):
        return {field.name for field in kind.fields} >= {"bytes", "path"}
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def outside_paths(values: pyarrow.ChunkedArray) -> list[str]:
    """The paths of the pictures of a column that does not hold their bytes."""
    pa = library("a column of pictures")
    if not pa.types.is_struct(values.type):
        return []
    is_outside = pa.compute.is_null(pa.compute.struct_field(values, "bytes"))
    return pa.compute.struct_field(values.filter(is_outside), "path").to_pylist()


def _class_column(
    values: pyarrow.ChunkedArray, names: tuple[str, ...], where: str
) -> Column:
    """A column of class numbers, whose names the file declares; −1 is no class."""
    pa = library("a column of Arrow")
    if not pa.types.is_integer(values.type):
        raise UserError(
            f"{where} declares the classes {', '.join(names[:10])}, but is of the type "
            f"{values.type}; expected whole numbers."
        )
    numbers = np.asarray(values.fill_null(-1).to_numpy(), np.int64)
    if (is_bad := (numbers < -1) | (numbers >= len(names))).any():
        row = int(np.flatnonzero(is_bad)[0])
        raise UserError(
            f"{where} has the class number {numbers[row]} in row {row}; expected 0 to "
            f"{len(names) - 1}, or −1 for no class."
        )
    texts = np.array([*names, ""], object)[numbers].tolist()
    return Column(texts, None, numbers == -1, names=names)


def _class_lists(
    values: pyarrow.ChunkedArray, names: tuple[str, ...], where: str
) -> Column:
    """A column of lists of class numbers, whose names the file declares."""
    if not is_list(values.type):
        raise UserError(
            f"{where} declares lists of the classes {', '.join(names[:10])}, but is of "
            f"the type {values.type}."
        )
    rows = values.to_pylist()
    for row, numbers in enumerate(rows):
        bad = [n for n in numbers or () if n is None or not 0 <= n < len(names)]
        if bad:
            raise UserError(
                f"{where} has the class number {bad[0]} in row {row}; expected 0 to "
                f"{len(names) - 1}."
            )
    lists = [tuple(names[n] for n in numbers or ()) for numbers in rows]
    is_missing = np.asarray([numbers is None for numbers in rows], bool)
    return Column(None, None, is_missing, names=names, lists=lists)


def _ordered_names(values: pyarrow.ChunkedArray) -> tuple[str, ...]:
    """The categories of an ordered dictionary (of pandas, an Enum of polars)."""
    if hasattr(values, "chunks"):
        values = values.unify_dictionaries().combine_chunks()
    if hasattr(values, "chunks"):  # none, or too many for one
        values = values.chunk(0)
    return tuple(cells.normalized(str(v)) for v in values.dictionary.to_pylist())


def column(values: pyarrow.ChunkedArray, missing: Sequence[str], where: str) -> Column:
    """One column with its type: numbers, texts, booleans, or a dictionary of texts,
    whose order, if it has one, is that of the classes; lists of labels.

    Raises:
      UserError: another type: dates, structures, bytes.
    """
    pa = library("a column of Arrow")
    kind = values.type
    if pa.types.is_dictionary(kind):
        plain = column(values.cast(kind.value_type), missing, where)
        names = _ordered_names(values) if kind.ordered else None
        return dataclasses.replace(plain, names=names)
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if is_number and values.null_count == 0:
        return columns.of_values(values.to_numpy(), missing, where)
    if pa.types.is_floating(kind):
        is_null = np.asarray(values.is_null())
        numbers = np.asarray(values.fill_null(0).to_numpy(), np.float64)
        return columns.of_values(np.where(is_null, np.nan, numbers), missing, where)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_plain = is_text or is_number or pa.types.is_boolean(kind)
    if is_list(kind):
        is_plain = True  # what the lists hold decides
    if not (is_plain or pa.types.is_decimal(kind) or pa.types.is_null(kind)):
        raise UserError(
            f"{where} is of the type {kind}; a column needs to be all numbers, all "
            "texts or all booleans: convert it, or name features= without it."
        )
    return columns.of_objects(values.to_pylist(), missing, where)
