"""Checks of the tables that sources read; each problem is reported in one sentence."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.data import cells, lazy_array, origins, task_outputs
from jaxtl.data.dataset import (
    CONTRASTIVE,
    MULTITASK,
    QUESTION_ANSWERING,
    TAG_TASKS,
    TASKS,
    Table,
)
from jaxtl.data.preprocess import IMAGE

_SPLITS = ("train", "val", "test")
_CHUNK = 4096  # rows that are tested for NaN at once


def checked_table(table: Table, name: str) -> Table:
    """Checks a table and brings y to its standard form.

    Args:
      table: as a source has read it.
      name: the source, for messages.

    Returns:
      The table with y as int32 (classification), float32 (multilabel) or as it is
      (otherwise), class names as a tuple of normalized strings, those that are easily
      confused in the notes, and splits as int32 rows.

    Raises:
      UserError: x and y of unequal length, NaN or infinity, labels that are negative,
        not whole or beyond the classes, splits that overlap or lie outside.
    """
    if table.task not in TASKS:
        raise UserError(
            f"{name}: there is no task {table.task!r}{nearest(table.task, TASKS)}; "
            f"the tasks are {', '.join(TASKS)}."
        )
    y = np.asarray(table.y)
    count = lazy_array.length(table.x)
    if table.origins is None:
        table = dataclasses.replace(
            table, origins=origins.of_elements([(name, max(count, 0))])
        )
    if count < 0:
        lengths = {k: len(v) for k, v in table.x.items()}
        raise UserError(f"{name}: the parts of x differ in length: {lengths}.")
    if count != len(y):
        raise UserError(f"{name}: x has {count} examples, but y has {len(y)}.")
    if count == 0:
        raise UserError(f"{name}: there are no examples.")
    if len(table.origins) != count:
        raise UserError(
            f"{name}: x has {count} examples, but origins are those of "
            f"{len(table.origins)}."
        )
    _check_finite(y, f"{name}: y", table.origins, table.task == MULTITASK)
    if isinstance(table.x, dict):
        for part, values in table.x.items():
            _check_finite(values, f"{name}: x[{part!r}]", table.origins)
    else:
        _check_finite(table.x, f"{name}: x", table.origins, _may_have_holes(table))
    _check_row_columns(table, count, name)
    y = _check_labels(y, table, name)
    class_names = _class_names(y, table.class_names, table.task, name)
    _check_name_counts(table, y, name)
    splits = _check_splits(table.splits, count, name)
    return dataclasses.replace(
        table,
        y=y,
        class_names=class_names,
        splits=splits,
        groups=None if table.groups is None else _groups(table, name),
        notes=(*table.notes, *cells.class_notes(class_names)),
    )


def _may_have_holes(table: Table) -> bool:
    """Whether NaN in x are missing values that are filled."""
    is_filled = table.preprocess is not None and table.preprocess.fill is not None
    encoding = table.encoding
    return is_filled or (encoding is not None and encoding.missing == "impute")


def _check_row_columns(table: Table, count: int, name: str) -> None:
    """Raises UserError for groups or weights of another length, or a bad weight."""
    for field, values in (
        ("split_by", table.groups),
        ("sample_weight", table.weights),
    ):
        if values is not None and np.shape(values) != (count,):
            raise UserError(
                f"{name}.{field} has the shape {np.shape(values)}; expected ({count},),"
                " one value for each example."
            )
    if table.weights is None:
        return
    weights = np.asarray(table.weights)
    if not np.issubdtype(weights.dtype, np.number):
        raise UserError(f"{name}.sample_weight must be numbers; got {weights.dtype}.")
    is_bad = ~(np.isfinite(weights) & (weights >= 0))
    if is_bad.any():
        row = int(np.flatnonzero(is_bad)[0])
        raise UserError(
            f"{name}.sample_weight: row {row} has {weights[row]} "
            f"({table.origins[row]}); expected a finite number of at least 0."
        )
    if not (weights > 0).any():
        raise UserError(f"{name}.sample_weight is 0 in every row.")


def _groups(table: Table, name: str) -> np.ndarray:
    """The groups of the rows, values of one kind that can be sorted.

    Raises:
      UserError: a row without a group, which would be in no split, or in any.
    """
    groups = np.asarray(table.groups)
    values = groups.tolist()
    is_missing = [
        v is None or v != v or (isinstance(v, str | bytes) and not v.strip())
        for v in values
    ]
    if any(is_missing):
        row = is_missing.index(True)
        raise UserError(
            f"{name}.split_by: {sum(is_missing)} rows have no group, the first is row "
            f"{row} with {values[row]!r} ({table.origins[row]}); give each a group of "
            "its own, or leave these rows out."
        )
    return np.asarray([*map(str, values)]) if len({*map(type, values)}) > 1 else groups


def _check_finite(
    values: np.ndarray | lazy_array.LazyArray,
    name: str,
    rows: origins.Origins,
    may_have_holes: bool = False,
) -> None:
    """Raises UserError with the count and first row of NaN or infinite values.

    Lazy arrays are not read for this; NaN may be allowed.
    """
    if lazy_array.is_lazy(values) or not np.issubdtype(values.dtype, np.floating):
        return
    count, first = 0, None
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        bad = np.isinf(chunk) if may_have_holes else ~np.isfinite(chunk)
        if bad.any():
            count += int(bad.sum())
            row = np.flatnonzero(bad.reshape(len(bad), -1).any(1))[0]
            first = start + int(row) if first is None else first
    if count:
        raise UserError(
            f"{name} has {count} NaN or infinite values, the first in row {first} "
            f"({rows[first]})."
        )


def _check_labels(y: np.ndarray, table: Table, name: str) -> np.ndarray:
    """The labels of a table in the standard form of its task."""
    assert table.origins is not None
    if table.task == "classification":
        return _integer_labels(y, table.class_names, name, table.origins)
    if table.task == "multilabel":
        return _binary_labels(y, table.class_names, name, table.origins)
    if table.task == "regression":
        return _targets(y, name)
    if table.task in TAG_TASKS:
        return _tags(y, table.class_names, name)
    if table.task == QUESTION_ANSWERING:
        return _places(y, name)
    if table.task == CONTRASTIVE:
        return _numbers_of_images(y, table, name)
    if table.task == MULTITASK:
        return _several_labels(y, table.class_names, name, table.origins)
    return y  # a language model's tokens are their own labels


def _integer_labels(
    y: np.ndarray,
    class_names: tuple[str, ...] | None,
    name: str,
    rows: origins.Origins,
) -> np.ndarray:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.number):
        raise UserError(
            f"{name}: classification needs y as one whole number per example; "
            f"got {y.dtype} of shape {y.shape}."
        )
    _reject(y != np.round(y), y, rows, f"{name}: labels must be whole numbers")
    _reject(y < 0, y, rows, f"{name}: labels must not be negative")
    if class_names is not None:
        count = len(class_names)
        rule = f"{name}: labels must be below {count}, the class count"
        _reject(y >= count, y, rows, rule)
    return y.astype(np.int32)


def _binary_labels(
    y: np.ndarray,
    class_names: tuple[str, ...] | None,
    name: str,
    rows: origins.Origins,
) -> np.ndarray:
    if y.ndim != 2:
        raise UserError(
            f"{name}: multilabel needs y of shape (n, labels); got {y.shape}."
        )
    is_other = ((y != 0) & (y != 1)).any(1)
    _reject(is_other, y, rows, f"{name}: multilabel y must be 0 or 1")
    if class_names is not None and len(class_names) != y.shape[1]:
        raise UserError(
            f"{name}: y has {y.shape[1]} labels, "
            f"but there are {len(class_names)} class names."
        )
    return y.astype(np.float32)


def _tags(y: np.ndarray, class_names: tuple[str, ...] | None, name: str) -> np.ndarray:
    if class_names is None or y.ndim != 2 or not np.issubdtype(y.dtype, np.integer):
        raise UserError(
            f"{name}: tags need y as whole numbers of shape (n, words) and class_names;"
            f" got {y.dtype} of shape {y.shape}."
        )
    if y.min() < -1 or y.max() >= len(class_names):
        raise UserError(
            f"{name}: tags must be below {len(class_names)}, their number, and −1 "
            f"behind the last word; got {y.min()} to {y.max()}."
        )
    return y.astype(np.int32)


def _places(y: np.ndarray, name: str) -> np.ndarray:
    if y.ndim != 2 or y.shape[1] != 2 or not np.issubdtype(y.dtype, np.integer):
        raise UserError(
            f"{name}: answers need y as whole numbers of shape (n, 2), their first "
            "character in the context and the one behind their last; got "
            f"{y.dtype} of shape {y.shape}."
        )
    return y.astype(np.int32)


def _numbers_of_images(y: np.ndarray, table: Table, name: str) -> np.ndarray:
    parts = sorted(table.x) if isinstance(table.x, dict) else []
    if IMAGE not in parts or len(parts) < 2:
        raise UserError(
            f"{name}: the task {CONTRASTIVE!r} needs x as a dict of {IMAGE!r} and the "
            f"inputs of a text; got {', '.join(parts) or 'one array'}."
        )
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise UserError(
            f"{name}: the task {CONTRASTIVE!r} needs y as the number of each example's "
            f"image, (n,); got {y.dtype} of shape {y.shape}."
        )
    return y.astype(np.int32)


def _several_labels(
    y: np.ndarray,
    output_names: tuple[str, ...] | None,
    name: str,
    rows: origins.Origins,
) -> np.ndarray:
    tasks = task_outputs.tasks_of(output_names or ())
    task_outputs.check_names(tuple(tasks), name)
    columns = max(task.columns.stop for task in tasks.values())
    if y.ndim != 2 or y.shape[1] != columns:
        raise UserError(
            f"{name}: the tasks {', '.join(tasks)} need y of shape (n, {columns}); got "
            f"{y.shape}."
        )
    for label, task in tasks.items():
        if task.kind == "regression":
            continue
        values, count = y[:, task.columns], len(task.names)
        classes, rule = np.arange(count), f"whole numbers from 0 to {count - 1}"
        if task.kind == "multilabel":
            classes, rule = np.arange(2), "0 or 1"
        is_other = ~(np.isin(values, classes) | np.isnan(values)).all(1)
        _reject(is_other, values, rows, f"{name}: labels of {label!r} must be {rule}")
    return y.astype(np.float32)


def _targets(y: np.ndarray, name: str) -> np.ndarray:
    if y.ndim not in (1, 2) or not np.issubdtype(y.dtype, np.number):
        raise UserError(
            f"{name}: regression needs y as numbers of shape (n,) or (n, targets); "
            f"got {y.dtype} of shape {y.shape}."
        )
    return y


def _reject(bad: np.ndarray, y: np.ndarray, rows: origins.Origins, rule: str) -> None:
    """Raises UserError where any row is bad, with the rule that it breaks."""
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UserError(
            f"{rule}; {int(bad.sum())} rows are not, the first is row {row} with "
            f"{y[row]} ({rows[row]})."
        )


def _class_names(
    y: np.ndarray, class_names: tuple[str, ...] | None, task: str, name: str
) -> tuple[str, ...]:
    """The class names as strings; "0", "1", … where there are none."""
    if task in ("regression", "language", QUESTION_ANSWERING, CONTRASTIVE):
        return ()
    if class_names is None:
        count = y.shape[1] if task == "multilabel" else int(y.max()) + 1
        if task == "classification" and count > max(1000, len(y)):
            raise UserError(
                f"{name}: the largest label is {count - 1} in {len(y)} examples; pass "
                'task="regression" if y is a number to predict, else class_names.'
            )
        class_names = range(count)
    names = tuple(cells.normalized(str(c)) for c in class_names)
    common = collections.Counter(names).most_common(1)
    if common and common[0][1] > 1:
        raise UserError(f"{name}: the class name {common[0][0]!r} comes twice.")
    return names


def _check_name_counts(table: Table, y: np.ndarray, name: str) -> None:
    """Raises UserError for names of targets or columns that do not fit their number."""
    width = 0 if isinstance(table.x, dict) else table.x.shape[-1]
    targets = 1 if y.ndim == 1 else y.shape[-1]
    for field, names, count in (
        ("feature_names", table.feature_names, width),
        ("target_names", table.target_names, targets),
    ):
        if names and len(names) != count:
            raise UserError(
                f"{name}: there are {len(names)} {field} for {count} columns."
            )
        if len(set(names)) < len(names):
            repeated = next(n for n in names if names.count(n) > 1)
            raise UserError(f"{name}: {field} has {repeated!r} twice.")


def _check_splits(
    splits: Mapping[str, np.ndarray], count: int, name: str
) -> dict[str, np.ndarray]:
    """The splits as int32 rows, which must be disjoint and lie in 0 … count − 1."""
    checked, used = {}, np.zeros(count, bool)
    for split, rows in splits.items():
        if split not in _SPLITS:
            raise UserError(
                f"{name}: there is no split {split!r}{nearest(split, _SPLITS)}; "
                f"the splits are {', '.join(_SPLITS)}."
            )
        rows = np.asarray(rows)
        if len(rows) and (rows.min() < 0 or rows.max() >= count):
            raise UserError(f"{name}: {split} rows must lie in 0..{count - 1}.")
        if used[rows].any() or len(np.unique(rows)) < len(rows):
            raise UserError(f"{name}: the data's own splits share rows.")
        used[rows] = True
        checked[split] = rows.astype(np.int32)
    return checked
