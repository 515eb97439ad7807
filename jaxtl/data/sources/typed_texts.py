"""Texts and their labels from columns of JSON, Parquet and Arrow files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.data import cells
from jaxtl.data.columns import Column, Columns
from jaxtl.data.origins import Origins
from jaxtl.data.sources import table_files


class Texts(NamedTuple):
    """The columns of one split, of equal length; `second` is "" without pairs.

    `labels` are tuples where several columns are labels, or where the file has lists of
    labels (`has_lists`); `rows` says where each text was read, `notes` what was decided
    in reading them, and `names` the classes that the file declares.
    """

    first: list[str]
    second: list[str]
    labels: list[str] | list[tuple[str, ...]]
    rows: Origins
    notes: Sequence[str] = ()
    has_lists: bool = False
    names: tuple[str, ...] | None = None


def read_texts(
    path: str,
    text: str | int,
    pair: str | int | None,
    label: str | int | tuple[str, ...],
    encoding: str | None,
) -> Texts:
    """Reads the columns of one split; arguments are those of `Text`."""
    table = table_files.read_columns(path, "Text", encoding=encoding, missing=())
    first = _text_column("text", text, table, path)
    second = [""] * len(first)
    if pair is not None:
        second = _text_column("pair", pair, table, path)
    names = label if isinstance(label, tuple) else (label,)
    marks = [_label_column(name, table, path) for name in names]
    if isinstance(label, tuple):
        lists = [name for name, c in zip(names, marks) if c.lists is not None]
        if lists:
            raise UserError(
                f"Text.label: column {lists[0]!r} holds lists of labels; name it "
                f"alone, label={lists[0]!r}."
            )
        labels = [*zip(*(column.labels for column in marks))]
        return Texts(first, second, labels, table.origins)
    [column] = marks
    has_lists = column.lists is not None
    labels = column.lists if has_lists else column.labels
    return Texts(first, second, labels, table.origins, (), has_lists, column.names)


def _text_column(
    field: str, name: str | int, table: Columns, path: str
) -> Sequence[str]:
    """The texts of a column as they are written."""
    column = _column(field, name, table, path)
    if column.written is None or column.names is not None:
        raise UserError(
            f"Text.{field}: column {name!r} of {path} holds no texts; expected a text "
            "in each row."
        )
    return column.written


def _label_column(name: str | int, table: Columns, path: str) -> Column:
    """A column of labels, none of which is blank."""
    column = _column("label", name, table, path)
    blank = [row for row, text in enumerate(column.texts or ()) if not text]
    if blank:
        raise UserError(
            f"Text.label: column {name!r} of {path} has {len(blank)} rows without a "
            f"label, the first in {table.place(blank[0])}; fill them in or leave the "
            "rows out."
        )
    return column


def _column(field: str, name: str | int, table: Columns, path: str) -> Column:
    """A column with a value in each row."""
    names = ", ".join(table.columns)
    if isinstance(name, int):
        raise UserError(
            f"Text.{field}={name}: columns of {path} have names, not numbers; give "
            f"text= and label= by name (columns: {names})."
        )
    key = cells.normalized(name)
    if key not in table.columns:
        raise UserError(
            f"Text.{field}: {path} has no column {key!r}{nearest(key, table.columns)} "
            f"(columns: {names})."
        )
    column = table.columns[key]
    if column.is_missing.any():
        row = int(np.flatnonzero(column.is_missing)[0])
        raise UserError(
            f"Text.{field}: column {key!r} of {path} has "
            f"{int(column.is_missing.sum())} rows without a value, the first in "
            f"{table.place(row)}; fill them in or leave the rows out."
        )
    return column
