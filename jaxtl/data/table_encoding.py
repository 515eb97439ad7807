"""How the columns of a table become numbers, fitted on the train rows alone.

A table keeps its holes (NaN) and a one-hot column for each category of its file. What
is put in their place is decided by the train rows and kept in the data set's
preprocessing, so that training, evaluation, `predict` and exports compute the same.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.data import cells
from jaxtl.data.origins import Origins
from jaxtl.data.preprocess import Preprocess

MISSING = ("refuse", "impute")
UNSEEN = ("bucket", "refuse")


class ColumnCode(NamedTuple):
    """A column of a table: its name, and its categories, None for numbers."""

    name: str
    categories: tuple[str, ...] | None

    @property
    def width(self) -> int:
        """Number of columns of x."""
        return 1 if self.categories is None else len(self.categories)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableEncoding:
    """The columns of a table, and what happens to cells that have no code.

    Attributes:
      columns: in the order of the columns of x.
      missing: "refuse" or "impute", for cells without a value.
      missing_values: lower-case cells that hold no value.
      unseen: "bucket", the code of zeros, or "refuse", for categories that no train row
        has.
    """

    columns: tuple[ColumnCode, ...]
    missing: str = "refuse"
    missing_values: tuple[str, ...] = cells.MISSING
    unseen: str = "refuse"

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns of x in order, "color=red" for a one-hot one."""
        return tuple(
            name
            for column in self.columns
            for name in (
                [column.name]
                if column.categories is None
                else [f"{column.name}={category}" for category in column.categories]
            )
        )

    def slices(self) -> Iterator[tuple[ColumnCode, slice]]:
        """Yields each column with its columns of x."""
        start = 0
        for column in self.columns:
            yield column, slice(start, start + column.width)
            start += column.width

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {
            **dataclasses.asdict(self),
            "columns": [c._asdict() for c in self.columns],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TableEncoding:
        """Rebuilds an encoding from `to_json`."""
        columns = tuple(
            ColumnCode(
                c["name"], None if c["categories"] is None else tuple(c["categories"])
            )
            for c in values["columns"]
        )
        options = {name: value for name, value in values.items() if name != "columns"}
        if "missing_values" in options:
            options["missing_values"] = tuple(options["missing_values"])
        return cls(columns=columns, **options)


class Fit(NamedTuple):
    """A preprocessing fitted on train rows, and what was decided."""

    preprocess: Preprocess
    notes: list[str]


def fit(
    encoding: TableEncoding,
    x: np.ndarray,
    rows: Mapping[str, np.ndarray],
    origins: Origins,
    pre: Preprocess,
) -> Fit:
    """Decides what fills holes, and which categories no train row has.

    A hole of a column of numbers gets the median, one of categories the most frequent
    one (the first in sorted order of several), both of the train rows; a column with
    holes among these gets an indicator as well. These are the numbers of scikit-learn's
    `SimpleImputer(add_indicator=True)`.

    Args:
      encoding: of x.
      x: (n, width) stored values, NaN in holes.
      rows: of the splits; those of "train" and "unlabelled" are fitted on.
      origins: of the rows, for messages.
      pre: the preprocessing to extend.

    Raises:
      UserError: a column without a value in any train row; an unseen category, where
        `unseen` is "refuse".
    """
    train = np.concatenate([rows["train"], rows.get("unlabelled", rows["train"][:0])])
    held_out = {split: rows[split] for split in ("val", "test") if split in rows}
    offset = np.zeros(x.shape[1]) if pre.offset is None else np.asarray(pre.offset)
    fill, indicators, unseen, notes = np.zeros(x.shape[1]), [], [], []
    for column, place in encoding.slices():
        if column.categories is None and encoding.missing != "impute":
            continue
        values = x[:, place].astype(np.float64) + offset[place]
        is_hole = np.isnan(values[:, 0])
        present = train[~is_hole[train]]
        if encoding.missing == "impute":
            fill[place] = _fill(column, values[present])
            indicators += [place.start] if is_hole[train].any() else []
            if is_hole.any():
                notes.append(_fill_note(column, is_hole, train, fill[place]))
        if column.categories is None:
            continue
        is_absent = ~(values[present] == 1).any(0)
        unseen += (place.start + np.flatnonzero(is_absent)).tolist()
        notes += _unseen_notes(encoding, column, values, is_absent, held_out, origins)
    fields: dict[str, Any] = {"unseen": tuple(unseen)}
    if encoding.missing == "impute":
        fields |= {"fill": tuple(fill.tolist()), "indicators": tuple(indicators)}
    return Fit(dataclasses.replace(pre, **fields), notes)


def _fill(column: ColumnCode, values: np.ndarray) -> np.ndarray:
    """The values (width,) that fill the holes of a column, from its present rows."""
    if len(values) == 0:
        raise UserError(
            f"column {column.name!r} has no value in any train row; leave it out of "
            "features."
        )
    if column.categories is None:
        return np.median(values, axis=0)
    return np.eye(column.width)[np.argmax(values.sum(0))]


def _fill_note(
    column: ColumnCode, is_hole: np.ndarray, train: np.ndarray, fill: np.ndarray
) -> str:
    if column.categories is None:
        filled = f"{fill[0]:.6g}, the median of the train rows"
    else:
        category = column.categories[int(np.argmax(fill))]
        filled = f"{category!r}, the most frequent one of the train rows"
    count, in_train = int(is_hole.sum()), int(is_hole[train].sum())
    marked = (
        "and marked in a column of their own"
        if in_train
        else "not marked, since no train row lacks it"
    )
    return (
        f"column {column.name!r}: {count} of {len(is_hole)} cells are missing, filled "
        f"with {filled}, {marked}"
    )


def _unseen_notes(
    encoding: TableEncoding,
    column: ColumnCode,
    values: np.ndarray,
    is_absent: np.ndarray,
    held_out: Mapping[str, np.ndarray],
    origins: Origins,
) -> list[str]:
    """Says how many held-out rows have a category that no train row has.

    Raises:
      UserError: there are some, and `unseen` is "refuse".
    """
    is_unseen = (values[:, is_absent] == 1).any(1)
    counts = {split: int(is_unseen[rows].sum()) for split, rows in held_out.items()}
    if not any(counts.values()):
        return []
    affected = np.concatenate([rows[is_unseen[rows]] for rows in held_out.values()])
    codes = values[affected][:, is_absent].argmax(1)
    absent = [c for c, a in zip(column.categories, is_absent) if a]
    names = [repr(absent[i]) for i in dict.fromkeys(codes.tolist())]
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    where = " and ".join(f"{n} {split}" for split, n in counts.items() if n)
    text = (
        f"column {column.name!r}: no train row has the category {shown} of {where} rows"
    )
    if encoding.unseen == "refuse":
        raise UserError(
            f"{text}, the first in {origins[int(affected.min())]}; pass "
            'unseen="bucket", or move such rows into the train split.'
        )
    return [f"{text}, which get the code of no category (zeros)"]


def _seen_categories(
    encoding: TableEncoding, pre: Preprocess
) -> dict[str, tuple[str, ...]]:
    """The categories of each column that some train row had."""
    return {
        column.name: tuple(
            category
            for i, category in enumerate(column.categories or ())
            if place.start + i not in pre.unseen
        )
        for column, place in encoding.slices()
    }


def _by_number(categories: Sequence[str]) -> dict[float | None, str]:
    """The categories that are numbers by these, where no two are one number.

    A file with types has 1.0 for the category "1" where another cell is missing.
    """
    numbers = [cells.number(category) for category in categories]
    counts = collections.Counter(numbers)
    return {
        number: category
        for number, category in zip(numbers, categories)
        if number is not None and counts[number] == 1
    }


class Encoder:
    """Brings rows that are not in the data set into its stored form, and counts.

    Attributes:
      unseen: column -> cells with a category that no train row had.
      filled: column -> number of missing cells.
    """

    def __init__(self, encoding: TableEncoding, pre: Preprocess):
        """Takes an encoding, and the preprocessing that was fitted with it."""
        self._encoding = encoding
        self._categories = _seen_categories(encoding, pre)
        self._missing = cells.missing_numbers(encoding.missing_values)
        self._by_number = {n: _by_number(c) for n, c in self._categories.items()}
        self.unseen: dict[str, list[str]] = {}
        self.filled: dict[str, int] = {}

    def row(self, row: Sequence[str | None], where: str) -> list[float]:
        """The stored values of one row.

        Args:
          row: a normalized cell for each column, None for one without a value.
          where: of the row, for messages.

        Raises:
          UserError: a cell that the encoding refuses.
        """
        columns = self._encoding.columns
        codes = [self._cell(c, cell, where) for c, cell in zip(columns, row)]
        return [value for code in codes for value in code]

    def _cell(self, column: ColumnCode, cell: str | None, where: str) -> list[float]:
        where = f"{where}, column {column.name}"
        if cell is None or cell.lower() in self._encoding.missing_values:
            return self._hole(column, cell, where)
        if self._missing and cells.is_one_of(cell, self._missing):
            return self._hole(column, cell, where)
        if column.categories is None:
            if (value := cells.number(cell)) is None:
                raise UserError(f"{where}: {cell!r} is no finite number.")
            return [value]
        if cell not in self._categories[column.name]:
            cell = self._by_number[column.name].get(cells.number(cell), cell)
        if cell not in self._categories[column.name]:
            if self._encoding.unseen == "refuse":
                categories = self._categories[column.name]
                raise UserError(
                    f"{where}: {cell!r} is no category of the training data"
                    f"{nearest(cell, categories)} (categories: "
                    f"{', '.join(categories)})."
                )
            self.unseen.setdefault(column.name, []).append(cell)
        return [float(cell == category) for category in column.categories]

    def _hole(self, column: ColumnCode, cell: str | None, where: str) -> list[float]:
        if self._encoding.missing == "refuse":
            raise UserError(
                f"{where}: {cell!r} is a missing value, and the model was trained "
                'without any; fill it in, or train with missing="impute".'
            )
        self.filled[column.name] = self.filled.get(column.name, 0) + 1
        return [np.nan] * column.width

    def notes(self) -> list[str]:
        """One sentence per column in which cells were filled or had no category."""
        notes = [
            f"column {name!r}: {count} cells without a value, filled as in training"
            for name, count in self.filled.items()
        ]
        for name, texts in self.unseen.items():
            first = f"{texts[0]!r}{nearest(texts[0], self._categories[name])}"
            notes.append(
                f"column {name!r}: {len(texts)} cells of a category that no train row "
                f"had get the code of no category (zeros), such as {first}"
            )
        return notes
