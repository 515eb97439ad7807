"""The cells of a table as a trained model codes them: its columns, in its order."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.core.names import listing
from jaxtl.data import cells
from jaxtl.data.dataset import Dataset
from jaxtl.data.table_encoding import ColumnCode, TableEncoding
from jaxtl.data.trained_names import TrainedNames


def with_columns(
    dataset: Dataset, trained: TrainedNames, encoding: TableEncoding
) -> Dataset:
    """The data set with the columns of the model's table.

    Args:
      dataset: of a table.
      trained: the model.
      encoding: of the columns that the model reads.

    Raises:
      UserError: a column that the data lack, or cells that the model can't read.
    """
    assert dataset.encoding is not None
    columns = {code.name: (code, place) for code, place in dataset.encoding.slices()}
    for code in encoding.columns:
        if code.name not in columns:
            raise UserError(
                f"the data have no column {code.name!r}{nearest(code.name, columns)}, "
                f"which {trained.owner} reads (columns: {listing(list(columns))})."
            )
    read = {code.name for code in encoding.columns}
    unread = [name for name in columns if name not in read]
    notes = [f"columns that {trained.owner} does not read: {listing(unread)}"] * bool(
        unread
    )
    x = np.zeros((len(dataset.y), sum(c.width for c in encoding.columns)), np.float32)
    offset = np.zeros(x.shape[1])
    for code, place in encoding.slices():
        cells_of = _Cells(dataset, *columns[code.name], trained, encoding)
        x[:, place], offset[place] = cells_of.coded(code, place)
        notes += cells_of.notes
    pre = dataclasses.replace(
        dataset.preprocess, offset=tuple(offset.tolist()) if offset.any() else None
    )
    return dataclasses.replace(
        dataset,
        x=x,
        encoding=encoding,
        feature_names=encoding.feature_names,
        preprocess=pre,
        notes=tuple(dict.fromkeys((*dataset.notes, *notes))),
    )


class _Cells:
    """The cells of one column of a data set.

    Attributes:
      notes: what was decided in coding them.
    """

    def __init__(
        self,
        dataset: Dataset,
        own: ColumnCode,
        place: slice,
        trained: TrainedNames,
        encoding: TableEncoding,
    ):
        """Takes a column of a data set as it is coded there."""
        offset = dataset.preprocess.offset
        self._x = np.asarray(dataset.x[:, place])
        self._offset = 0.0 if offset is None else offset[place.start]
        self._own, self._dataset = own, dataset
        self._trained, self._encoding = trained, encoding
        self._is_hole = np.isnan(self._x[:, 0])
        self.notes: list[str] = []

    def coded(self, code: ColumnCode, place: slice) -> tuple[np.ndarray, float]:
        """(x, offset) of the cells as a model's column codes them.

        Args:
          code: the model's.
          place: of its columns in the model's input.
        """
        if self._is_hole.any() and self._encoding.missing == "refuse":
            raise UserError(
                f"column {code.name!r} has {int(self._is_hole.sum())} cells without a "
                f"value, the first in {self._first(self._is_hole)}, and "
                f"{self._trained.owner} was trained without any; fill them in."
            )
        if code.categories is None:
            return self._numbers(code), self._offset
        index = self._categories(code, place)
        x = np.zeros((len(index), code.width), np.float32)
        has_code = index >= 0
        x[np.flatnonzero(has_code), index[has_code]] = 1
        x[self._is_hole] = np.nan
        return x, 0.0

    def _numbers(self, code: ColumnCode) -> np.ndarray:
        if self._own.categories is None:
            return self._x
        numbers = cells.numbers(self._own.categories)
        if numbers is not None:  # stored as texts
            has_code = (self._x == 1).any(1)
            values = numbers[np.argmax(self._x == 1, axis=1)]
            return np.where(has_code, values, np.nan)[:, None].astype(np.float32)
        text = next(c for c in self._own.categories if cells.number(c) is None)
        row = self._x[:, self._own.categories.index(text)] == 1
        raise UserError(
            f"column {code.name!r}: {text!r} in {self._first(row)} is no number, and "
            f"{self._trained.owner} was trained on numbers there."
        )

    def _categories(self, code: ColumnCode, place: slice) -> np.ndarray:
        """The category of each cell, −1 for none; (n,)."""
        if self._own.categories is None:
            names, index_of_cell = self._as_texts(code)
        else:
            names = self._own.categories
            index_of_cell = np.argmax(self._x == 1, axis=1)
        # Of a category that no train row had the model knows nothing.
        trained = {
            name: i
            for i, name in enumerate(code.categories)
            if place.start + i not in self._trained.unseen
        }
        index = np.asarray([trained.get(name, -1) for name in names], np.int64)[
            index_of_cell
        ]
        is_unseen = (index < 0) & ~self._is_hole
        if self._own.categories is not None:  # rows of zeros have no category
            has_code = (self._x == 1).any(1)
            index, is_unseen = np.where(has_code, index, -1), is_unseen & has_code
        if is_unseen.any():
            self._tell_unseen(
                code, names[index_of_cell[np.flatnonzero(is_unseen)[0]]], is_unseen
            )
        return index

    def _as_texts(self, code: ColumnCode) -> tuple[list[str], np.ndarray]:
        """Numbers as categories: (texts, the one of each cell).

        A file whose cells are all numbers is read as numbers, though the model's
        categories, "1", "2", "3+", are texts.
        """
        values = np.nan_to_num(self._x[:, 0])
        distinct, index_of_cell = np.unique(values, return_inverse=True)
        texts: dict[float, str] = {}
        for category in code.categories:
            if (number := cells.number(category)) is not None:
                key = float(np.float32(number - self._offset))
                if key in texts:
                    raise UserError(
                        f"column {code.name!r} is read as numbers, and "
                        f"{self._trained.owner} has the categories {texts[key]!r} and "
                        f"{category!r} of one number; quote them as texts in a file "
                        "with types."
                    )
                texts[key] = category
        names = [texts.get(float(v), f"{v + self._offset:g}") for v in distinct]
        return names, index_of_cell

    def _tell_unseen(self, code: ColumnCode, text: str, is_unseen: np.ndarray) -> None:
        """Notes, or refuses, cells of a category that no train row had."""
        shown = f"{text!r}{nearest(text, code.categories)}"
        if self._encoding.unseen == "refuse":
            raise UserError(
                f"column {code.name!r}: {shown} in {self._first(is_unseen)} is no "
                f"category of {self._trained.owner} (categories: "
                f"{listing(code.categories)})."
            )
        self.notes.append(
            f"column {code.name!r}: {int(is_unseen.sum())} cells of a category that no "
            f"train row had get the code of no category (zeros), such as {shown}"
        )

    def _first(self, rows: np.ndarray) -> str:
        return self._dataset.origins[int(np.flatnonzero(rows)[0])]
