"""What can be wrong with a data set, each told in one sentence."""

from __future__ import annotations

import collections
import dataclasses
import typing

import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.data import images, lazy_array

TASKS = ("classification", "multilabel", "regression", "language")
SPLITS = ("train", "val", "test")


def check_options(data) -> None:
    """Checks the options that every data set has.

    Raises:
      UserError: the first option that can't be.
    """
    if data.labels_per_class is not None and data.labels is not None:
        raise UserError(
            "labels_per_class and labels exclude each other; "
            f"got {data.labels_per_class} and {data.labels}."
        )
    for name, least in (("labels_per_class", 0), ("labels", 0), ("limit", 1)):
        value = getattr(data, name)
        if value is not None and not (_whole(value) and value >= least):
            raise UserError(
                f"data.{name} must be a whole number ≥ {least}; got {value!r}."
            )
    if not (_number(data.label_noise) and 0 <= data.label_noise <= 1):
        raise UserError(
            "data.label_noise must be a fraction from 0 to 1; "
            f"got {data.label_noise!r}."
        )
    for name in ("val", "test"):
        share(name, getattr(data, name))
    seed = data.split_seed
    if seed is not None and not (_whole(seed) and seed >= 0):
        raise UserError(f"data.split_seed must be a whole number ≥ 0; got {seed!r}.")
    if data.classes is not None and len(set(data.classes)) < len(data.classes):
        raise UserError(f"data.classes names a class twice: {data.classes}.")
    images.as_size(data.size)
    images.check_shortest(data.shortest, data.size)
    images.check_channels(data.channels)


def share(name: str, value) -> None:
    """Raises UserError unless value is 0, a count ≥ 1 or a fraction inside (0, 1)."""
    count = _whole(value) and value >= 0
    fraction = _number(value) and not _whole(value) and 0 < value < 1
    if not (count or fraction):
        raise UserError(
            f"data.{name} must be a fraction between 0 and 1, a count of examples, "
            f"or 0 for no {name} split; got {value!r}."
        )


def _whole(value) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _number(value) -> bool:
    return isinstance(value, (float, np.floating)) or _whole(value)


def checked_table(value, name: str) -> typing.Any:
    """Checks what a source has read and brings y to its standard form.

    Args:
      value: a `Table`.
      name: the source, for messages.

    Returns:
      The table with y as int32 (classification), float32 (otherwise), class names as a
      tuple of strings and splits as int32 rows.

    Raises:
      UserError: x and y of unequal length, NaN or infinity, labels that are negative,
        not whole or beyond the classes, splits that overlap or lie outside.
    """
    if value.task not in TASKS:
        raise UserError(
            f"{name}: there is no task {value.task!r}{nearest(value.task, TASKS)}; "
            f"the tasks are {', '.join(TASKS)}."
        )
    y = np.asarray(value.y)
    count = lazy_array.length(value.x)
    if count < 0:
        lengths = {k: len(v) for k, v in value.x.items()}
        raise UserError(f"{name}: the parts of x differ in length: {lengths}.")
    if count != len(y):
        raise UserError(f"{name}: x has {count} examples, but y has {len(y)}.")
    if count == 0:
        raise UserError(f"{name}: there are no examples.")
    finite(y, f"{name}: y")
    for part, array in (
        value.x.items() if isinstance(value.x, dict) else [("", value.x)]
    ):
        finite(array, f"{name}: x" + (f"[{part!r}]" if part else ""))
    y = _LABELS[value.task](y, value.class_names, name)
    names = _class_names(y, value.class_names, value.task, name)
    rows = _split_rows(value.splits, count, name)
    return dataclasses.replace(value, y=y, class_names=names, splits=rows)


def finite(values, name: str, chunk: int = 4096) -> None:
    """Raises UserError with the count and first row of NaN or infinite values."""
    if lazy_array.is_lazy(values) or not np.issubdtype(values.dtype, np.floating):
        return
    bad, first = 0, None
    for start in range(0, len(values), chunk):
        part = ~np.isfinite(values[start : start + chunk])
        if part.any():
            bad += int(part.sum())
            row = np.flatnonzero(part.reshape(len(part), -1).any(1))[0]
            first = start + int(row) if first is None else first
    if bad:
        raise UserError(
            f"{name} has {bad} NaN or infinite values, the first in row {first}."
        )


def _whole_labels(y, class_names, name):
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.number):
        raise UserError(
            f"{name}: classification needs y as one whole number per example; "
            f"got {y.dtype} of shape {y.shape}."
        )
    _reject(y != np.round(y), y, f"{name}: labels must be whole numbers")
    _reject(y < 0, y, f"{name}: labels must not be negative")
    if class_names is not None:
        top = len(class_names)
        _reject(y >= top, y, f"{name}: labels must be below {top}, the class count")
    return y.astype(np.int32)


def _zero_one(y, class_names, name):
    if y.ndim != 2:
        raise UserError(
            f"{name}: multilabel needs y of shape (n, labels); got {y.shape}."
        )
    _reject(((y != 0) & (y != 1)).any(1), y, f"{name}: multilabel y must be 0 or 1")
    if class_names is not None and len(class_names) != y.shape[1]:
        raise UserError(
            f"{name}: y has {y.shape[1]} labels, "
            f"but there are {len(class_names)} class names."
        )
    return y.astype(np.float32)


def _targets(y, class_names, name):
    if y.ndim not in (1, 2) or not np.issubdtype(y.dtype, np.number):
        raise UserError(
            f"{name}: regression needs y as numbers of shape (n,) or (n, targets); "
            f"got {y.dtype} of shape {y.shape}."
        )
    return y.astype(np.float32)


_LABELS = {
    "classification": _whole_labels,
    "multilabel": _zero_one,
    "regression": _targets,
    "language": lambda y, class_names, name: y,  # the tokens are their own labels
}


def _reject(bad, y, rule):
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UserError(
            f"{rule}; {int(bad.sum())} rows are otherwise, "
            f"the first is row {row} with {y[row]}."
        )


def _class_names(y, class_names, task, name):
    if task in ("regression", "language"):
        return ()
    if class_names is None:
        count = y.shape[1] if task == "multilabel" else int(y.max()) + 1
        if task == "classification" and count > max(1000, len(y)):
            raise UserError(
                f"{name}: the largest label is {count - 1} in {len(y)} examples; "
                'is it a number to predict (task="regression")? Else name the classes.'
            )
        class_names = range(count)
    names = tuple(str(c) for c in class_names)
    common = collections.Counter(names).most_common(1)
    if common and common[0][1] > 1:
        raise UserError(f"{name}: the class name {common[0][0]!r} comes twice.")
    return names


def _split_rows(given, count, name):
    out, seen = {}, np.zeros(count, bool)
    for split, rows in given.items():
        if split not in SPLITS:
            raise UserError(
                f"{name}: there is no split {split!r}{nearest(split, SPLITS)}; "
                f"the splits are {', '.join(SPLITS)}."
            )
        rows = np.asarray(rows)
        if len(rows) and (rows.min() < 0 or rows.max() >= count):
            raise UserError(f"{name}: {split} rows must lie in 0..{count - 1}.")
        if seen[rows].any() or len(np.unique(rows)) < len(rows):
            raise UserError(f"{name}: the given splits share rows.")
        seen[rows] = True
        out[split] = rows.astype(np.int32)
    return out
