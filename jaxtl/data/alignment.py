"""Data in the terms of a trained model: its classes and columns, in its order.

What a test file alone says of a table is not what the model was trained on: it may lack
categories and classes, or have others, in another order. Here rows are written as the
model reads them; what it can't read is refused by its name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.core.names import are_names, difference, listing, match_names
from jaxtl.data import cells
from jaxtl.data.dataset import TAG_TASKS, Dataset
from jaxtl.data.preprocess import from_json
from jaxtl.data.table_encoding import ColumnCode, TableEncoding


@dataclasses.dataclass(frozen=True)
class TrainedNames:
    """What a trained model calls its outputs and columns.

    Attributes:
      owner: the model in messages, such as "runs/a".
      output_names: of its classes, labels or targets in order; () for none.
      task: that it was trained for; None where the weights do not say.
      encoding: of the columns of its table; None for other data.
      unseen: columns of the encoding that no train row had.
      target_offset: what its regression targets are differences from.
    """

    owner: str
    output_names: tuple[str, ...] = ()
    task: str | None = None
    encoding: TableEncoding | None = None
    unseen: tuple[int, ...] = ()
    target_offset: tuple[float, ...] | None = None

    @classmethod
    def from_meta(
        cls, owner: str, meta: Mapping[str, Any], output_names: Sequence[str]
    ) -> TrainedNames:
        """The names that the meta data of weights hold.

        Args:
          owner: as the attribute.
          meta: of a checkpoint; {} of weights without any.
          output_names: of the model's outputs.
        """
        encoding = meta.get("encoding")
        stored = from_json(meta.get("preprocess") or {})
        return cls(
            owner,
            tuple(output_names),
            meta.get("task"),
            TableEncoding.from_json(encoding) if encoding else None,
            stored.unseen,
            stored.target_offset,
        )


def align(dataset: Dataset, trained: TrainedNames) -> Dataset:
    """Writes labels and columns of a data set as a trained model has them.

    Data that are aligned already, and those without names, stay as they are.

    Raises:
      UserError: another task, a class that the model has not got, a column that the
        data have not got, or cells that the model can't read.
    """
    dataset = _with_offset(_with_outputs(dataset, trained), trained)
    if trained.encoding is None or dataset.encoding is None:
        return dataset
    return _with_columns(dataset, trained, trained.encoding)


def _with_offset(dataset: Dataset, trained: TrainedNames) -> Dataset:
    """Regression targets as differences from the model's offset."""
    fitted, offset = dataset.preprocess.target_offset, trained.target_offset
    if dataset.task != "regression" or trained.task is None or fitted == offset:
        return dataset
    shift = np.subtract(
        0.0 if fitted is None else fitted, 0.0 if offset is None else offset
    )
    shift = shift if dataset.y.ndim == 2 else shift.item()
    y, y_clean = (
        np.float32(y.astype(np.float64) + shift) for y in (dataset.y, dataset.y_clean)
    )
    pre = dataclasses.replace(dataset.preprocess, target_offset=offset)
    return dataclasses.replace(dataset, y=y, y_clean=y_clean, preprocess=pre)


def _with_outputs(dataset: Dataset, trained: TrainedNames) -> Dataset:
    """The data set with the model's outputs as its classes, labels or targets."""
    if dataset.task in TAG_TASKS and trained.task in TAG_TASKS:
        dataset = dataclasses.replace(dataset, task=trained.task)
    if trained.task not in (None, dataset.task):
        raise UserError(
            f"{trained.owner} was trained for the task {trained.task}, but the data "
            f"are read as {dataset.task}; give them task={trained.task!r}, or its "
            "labels."
        )
    stored, names = trained.output_names, dataset.output_names
    if not stored or not names or stored == names:
        return dataset
    if dataset.task == "regression" and len(stored) == len(names) == 1:
        return _renamed(dataset, stored, _place_note(dataset, stored))
    match = match_names(stored, names)
    if match is None:
        raise UserError(
            f"the data have the {_kind(dataset)} {listing(names)}, but {trained.owner} "
            f"predicts {listing(stored)}{difference(stored, names)}; leave rows of "
            "others out, as data.classes does, or name them as the model does."
        )
    if match.kind == "place" and len(stored) != len(names):
        raise UserError(
            f"{trained.owner} has the outputs {listing(stored)}, and the data the "
            f"{_kind(dataset)} {listing(names)}: without names on both sides they "
            "can't be matched; name them by output_names= of the weights or "
            "class_names= of the data."
        )
    if match.kind == "place":
        if not are_names(stored):
            return dataset
        return _renamed(dataset, stored, _place_note(dataset, stored))
    places = np.asarray(match.places[: len(names)])
    absent = [name for i, name in enumerate(stored) if i not in set(places.tolist())]
    note = f"{_kind(dataset)} in the order of {trained.owner}: {listing(stored)}"
    if absent and dataset.task in ("multilabel", "regression"):
        raise UserError(
            f"the data have no {_kind(dataset)} {listing(absent)}, which "
            f"{trained.owner} predicts; every one is needed to measure it."
        )
    if absent:
        note += f"; no example has the class {listing(absent)}"
    y, y_clean = (_moved(y, places, dataset.task) for y in (dataset.y, dataset.y_clean))
    pre = dataset.preprocess
    if pre.target_offset is not None:
        offset = tuple(_moved(np.asarray([pre.target_offset]), places, "regression")[0])
        pre = dataclasses.replace(pre, target_offset=offset)
    moved = dataclasses.replace(dataset, y=y, y_clean=y_clean, preprocess=pre)
    return _renamed(moved, stored, note)


def _place_note(dataset: Dataset, stored: tuple[str, ...]) -> str:
    names = dataset.output_names
    return f"{_kind(dataset)} taken by place: {listing(names)} as {listing(stored)}"


def _kind(dataset: Dataset) -> str:
    if dataset.task == "regression":
        return "targets"
    return "labels" if dataset.task == "multilabel" else "classes"


def _renamed(dataset: Dataset, names: tuple[str, ...], note: str) -> Dataset:
    field = "target_names" if dataset.task == "regression" else "class_names"
    notes = (*dataset.notes, note)
    return dataclasses.replace(dataset, notes=notes, **{field: names})


def _moved(y: np.ndarray, places: np.ndarray, task: str) -> np.ndarray:
    """Labels whose class or column i is now places[i].

    Args:
      y: as in `Dataset`.
      places: (n,) int.
      task: what y means.
    """
    if task in ("multilabel", "regression"):
        moved = np.empty_like(y)
        moved[:, places] = y
        return moved
    if task == "classification":
        return places[y].astype(y.dtype)
    # Pieces of tagged words: −2 − tag where they are trained on but not counted.
    tags = np.where(y >= 0, places[np.maximum(y, 0)], y)
    return np.where(y < -1, -2 - places[np.maximum(-2 - y, 0)], tags).astype(y.dtype)


def _with_columns(
    dataset: Dataset, trained: TrainedNames, encoding: TableEncoding
) -> Dataset:
    """The data set with the columns of the model's table."""
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
