"""Labels that come as arrays: their task, and the classes they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.data import cells


class Labels(NamedTuple):
    """Labels in the form that a `Table` takes, and what to say about them."""

    y: np.ndarray
    class_names: tuple[str, ...] | None
    task: str
    notes: list[str]


def read(
    y: np.ndarray, class_names: Sequence[str] | None, task: str | None, where: str
) -> Labels:
    """Reads labels of any dtype.

    Texts are classes by name. Whole numbers are classes 0, 1, … of `class_names`;
    without these each number that occurs is a class, in numeric order. Floats are
    classes where they are whole and at most `cells.MAX_CLASSES` different ones. Below 0
    there is no class but −1 beside 1: −1 may stand for a missing label.

    Args:
      y: (n,) or (n, 1), or (n, k) for multilabel and several targets.
      class_names: names in label order; None for none.
      task: None infers it.
      where: the source, for messages.

    Raises:
      UserError: labels that are no texts, numbers or booleans alone, a text that is
        none of class_names, a missing label, or a class below 0.
    """
    y = _plain(np.asarray(y), where)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dtype.kind == "U":
        return _texts(y, class_names, task, where)
    if y.ndim > 1:
        return _matrix(y, class_names, task)
    is_float = np.issubdtype(y.dtype, np.floating)
    if task is None:
        is_quantity = is_float and not (
            np.isfinite(y).all() and cells.whole_float_classes(y)
        )
        task = "regression" if is_quantity and not class_names else "classification"
    names = None if class_names is None else tuple(class_names)
    if task != "classification":
        return Labels(y, names, task, [])
    _check_not_negative(y, where)
    if y.dtype == bool:
        names, y = names or ("False", "True"), y.astype(np.int32)
    has_classes = names is not None or not np.isfinite(y).all()
    if has_classes or (y != np.round(y)).any():
        return Labels(y, names, task, [])
    values, index = np.unique(y, return_inverse=True)
    if len(values) > max(1000, len(y) // 2):
        raise UserError(
            f"{where}: there are {len(values)} different labels in {len(y)} examples; "
            'pass task="regression" if y is a number to predict, else class_names.'
        )
    names = tuple(str(int(value)) for value in values)
    is_renumbered = bool((values != np.arange(len(values))).any())
    shown = f"{names[0]} … {names[-1]}" if len(names) > 2 else " and ".join(names)
    notes = [f"the labels {shown} are {len(names)} classes by these names"]
    if len(names) == 1:
        notes = [f"the label {shown} is the one class, by this name"]
    return Labels(index, names, task, notes if is_renumbered else [])


def _check_not_negative(y: np.ndarray, where: str) -> None:
    """Raises UserError for a label below 0, −1 and 1 as the two classes excepted."""
    is_negative = y < 0
    if is_negative.any() and not np.isin(y, (-1, 1)).all():
        row = int(np.argmax(is_negative))
        raise UserError(
            f"{where}: labels must not be negative; {int(is_negative.sum())} rows are, "
            f'the first is row {row} with {y[row]}: pass task="regression" if they are '
            "numbers to predict, y.astype(str) if they are classes, and leave out rows "
            "without a label."
        )


def _decoded(value: bytes, where: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(
            f"{where}: the label {value!r} is not in utf-8; give the labels as texts."
        ) from None


def _plain(y: np.ndarray, where: str) -> np.ndarray:
    """Bytes and objects as texts (normalized), or as numbers or booleans."""
    if y.dtype.kind == "O":
        values = y.reshape(-1).tolist()
        kinds = {type(v).__name__ for v in values}
        if all(isinstance(v, str | bytes) for v in values):
            texts = [_decoded(v, where) if isinstance(v, bytes) else v for v in values]
            y = np.asarray(texts, str).reshape(y.shape)
        elif all(isinstance(v, bool | np.bool_) for v in values):
            y = y.astype(bool)
        elif all(isinstance(v, int | float | np.number) for v in values):
            y = np.asarray(values).reshape(y.shape)
        else:
            raise UserError(
                f"{where}: labels must be all texts or all numbers; these are "
                f"{', '.join(sorted(kinds))}."
            )
    if y.dtype.kind == "S":
        texts = [_decoded(value, where) for value in y.reshape(-1).tolist()]
        y = np.asarray(texts, str).reshape(y.shape)
    if y.dtype.kind == "U":
        texts = [cells.normalized(text) for text in y.reshape(-1).tolist()]
        y = np.asarray(texts, str).reshape(y.shape)
    if y.dtype.kind not in "Ubiuf":
        raise UserError(f"{where}: labels of dtype {y.dtype} are no texts or numbers.")
    return y


def _texts(
    y: np.ndarray, class_names: Sequence[str] | None, task: str | None, where: str
) -> Labels:
    if y.ndim > 1 or task not in (None, "classification"):
        raise UserError(
            f"{where}: labels that are texts need task 'classification' and one label "
            f"per example; got task={task!r} and shape {y.shape}."
        )
    texts = y.tolist()
    if blank := sum(not text for text in texts):
        raise UserError(
            f"{where}: {blank} labels are blank, the first in row {texts.index('')}."
        )
    if class_names is None:
        return Labels(*cells.classes(texts), "classification", [])
    names = tuple(cells.normalized(str(name)) for name in class_names)
    unknown = next((text for text in texts if text not in names), None)
    if unknown is not None:
        raise UserError(
            f"{where}: the label {unknown!r} is none of class_names"
            f"{nearest(unknown, names)} ({', '.join(names[:20])})."
        )
    index = {name: i for i, name in enumerate(names)}
    labels = np.asarray([index[text] for text in texts], np.int32)
    return Labels(labels, names, "classification", [])


def _matrix(
    y: np.ndarray, class_names: Sequence[str] | None, task: str | None
) -> Labels:
    is_binary = bool(np.isin(y, (0, 1)).all())
    task = task or ("multilabel" if is_binary else "regression")
    notes = []
    if task == "multilabel" and is_binary and (y.sum(1) == 1).all():
        notes = [
            "each row of y has exactly one 1, yet is read as multilabel; for classes "
            "pass y.argmax(1)"
        ]
    names = None if class_names is None else tuple(class_names)
    if y.dtype == bool:
        y = y.astype(np.float32)
    return Labels(y, names, task, notes)


def stacked(labels: Sequence[Any], where: str) -> np.ndarray:
    """Labels of single examples as one array.

    Raises:
      UserError: examples with another number of labels each.
    """
    if len({np.shape(label) for label in labels}) > 1:
        raise UserError(
            f"{where}: examples have another number of labels each; one label, or a "
            "fixed number of them, is needed."
        )
    return np.asarray(labels)


def concatenated(parts: Sequence[np.ndarray], where: str) -> np.ndarray:
    """Labels of several files, which must be all texts or all numbers.

    Raises:
      UserError: some files have texts and others numbers, or another shape.
    """
    parts = [_plain(np.asarray(part), where) for part in parts]
    if len({part.dtype.kind == "U" for part in parts}) > 1:
        raise UserError(
            f"{where}: the labels of some files are texts, of others numbers; give "
            "all in one form."
        )
    if len({part.shape[1:] for part in parts}) > 1:
        shapes = ", ".join(str(part.shape) for part in parts)
        raise UserError(f"{where}: the labels of the files differ in shape: {shapes}.")
    return np.concatenate(parts)
