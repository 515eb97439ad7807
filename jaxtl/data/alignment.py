"""Data in the terms of a trained model: its classes and columns, in its order.

What a test file alone says of a table is not what the model was trained on: it may lack
categories and classes, or have others, in another order. Here rows are written as the
model reads them; what it can't read is refused by its name.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.core.names import are_names, difference, listing, match_names
from jaxtl.data.aligned_columns import with_columns
from jaxtl.data.dataset import TAG_TASKS, Dataset
from jaxtl.data.trained_names import TrainedNames


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
    return with_columns(dataset, trained, trained.encoding)


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
