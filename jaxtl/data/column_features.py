"""Columns of tables as features: numbers, or categories as one-hot columns."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.data import cells
from jaxtl.data.columns import Column, Columns

# Names of the index that pandas stores in Parquet; nothing else is called so.
_STORED_INDEX = re.compile(r"__index_level_\d+__")
# Names that pandas gives to columns without one, and among them to the first.
_NAMELESS = re.compile(r"|Unnamed: \d+(\.\d+)*")
_FIRST_NAMELESS = re.compile(r"Unnamed: 0(\.\d+)*")


class Feature(NamedTuple):
    """A column as features.

    Attributes:
      x: float64 (n, 1) numbers, or one-hot (n, categories); NaN where missing.
      categories: in the order of the columns of x; None for numbers.
      notes: what was decided.
    """

    x: np.ndarray
    categories: tuple[str, ...] | None
    notes: list[str]


def feature(name: str, column: Column, table: Columns, owner: str) -> Feature:
    """Brings a column into the form of features.

    Args:
      name: of the column.
      column: with a value in at least one row.
      table: that it belongs to.
      owner: the source, for messages.

    Raises:
      UserError: a column without a value, texts that are too many for categories,
        numbers that float64 can't tell apart or that are infinite.
    """
    if column.is_missing.all():
        raise UserError(
            f"{owner}.features: column {name!r} has no value in any row; leave it out "
            "of features."
        )
    if column.values is not None:
        _check_numbers(name, column, table, owner)
        notes = _notes(name, column, table, is_numeric=True)
        return Feature(column.values[:, None], None, notes)
    categories, index = np.unique(column.present, return_inverse=True)
    if len(categories) > max(cells.MAX_CLASSES, len(column.present) // 2):
        raise UserError(_too_many(name, column, len(categories), owner))
    x = np.full((len(column.is_missing), len(categories)), np.nan)
    x[~column.is_missing] = np.eye(len(categories))[index]
    notes = _notes(name, column, table, is_numeric=False)
    notes += cells.class_notes(categories.tolist(), f"the categories of {name!r}:")
    return Feature(x, tuple(categories.tolist()), notes)


def index_columns(table: Columns, names: Iterable[str]) -> list[str]:
    """The columns that number or name the rows, and were not meant to be inputs.

    They are the index of a frame that was written with its rows: rows in the order of
    their classes could be told apart by it, and new ones not at all. A column without a
    name and without a value, as commas at the ends of lines make it, is among them.

    Args:
      table: that has the columns.
      names: of those to look at.
    """
    first = next(iter(table.columns), None)
    return [
        name
        for name in names
        if _STORED_INDEX.fullmatch(name)
        or (
            _NAMELESS.fullmatch(name)
            and _is_index(
                table.columns[name],
                may_number=name == first or bool(_FIRST_NAMELESS.fullmatch(name)),
            )
        )
    ]


def _is_index(column: Column, may_number: bool) -> bool:
    """Whether all cells are missing, or may number the rows: all differ and are whole.

    Args:
      column: without a name.
      may_number: whether it stands where an index does.
    """
    if column.is_missing.any() or not may_number:
        return bool(column.is_missing.all())
    if column.lists is not None:
        return False
    labels = column.labels
    if len(set(labels)) < len(labels):
        return False
    return column.values is None or bool((column.values % 1 == 0).all())


def _check_numbers(name: str, column: Column, table: Columns, owner: str) -> None:
    is_bad = np.isinf(column.values)
    if is_bad.any():
        row = int(np.flatnonzero(is_bad)[0])
        raise UserError(
            f"{owner}.features: column {name!r} has {int(is_bad.sum())} infinite "
            f"values, the first in {table.place(row)}; mend them or leave the column "
            "out."
        )
    is_large = np.abs(column.values[~column.is_missing]) >= 2.0**53
    if not is_large.any():
        return
    if (merged := cells.merged_numbers(column.present)) is not None:
        raise UserError(
            f"{owner}.features: column {name!r} holds {merged[0]} and {merged[1]}, "
            "which are one number in 64 bits; subtract an offset, or leave the "
            "column out of features."
        )


def _too_many(name: str, column: Column, count: int, owner: str) -> str:
    total = len(column.present)
    wrong = [text for text in column.present if cells.number(text) is None]
    reason = (
        f"and {wrong[0]!r} is no number; mend such cells"
        if wrong
        else "stored as texts although all are numbers; store them as numbers"
    )
    return (
        f"{owner}.features: column {name!r} has {count} different texts in {total} "
        f"rows, too many to be categories, {reason} or leave the column out of "
        "features."
    )


def _notes(name: str, column: Column, table: Columns, is_numeric: bool) -> list[str]:
    """What a reader should know about how a column was read; [] for nothing odd."""
    if column.texts is None:
        values = column.values[~column.is_missing]
        is_constant = bool((values == values[0]).all())
        return [f"column {name!r} is constant ({values[0]:g})"] if is_constant else []
    is_text = column.values is None
    if is_text and all(cells.number(text) is not None for text in column.present):
        return [f"column {name!r} is read as categories: numbers, stored as texts"]
    rows = np.flatnonzero(~column.is_missing)
    return cells.column_notes(
        name, column.present, is_numeric, lambda i: table.place(int(rows[i]))
    )
