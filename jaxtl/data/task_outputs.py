"""Several tasks over one row of outputs: which outputs and labels belong to which.

The outputs of a data set with several tasks are named by them: "digit=3" is a class of
the task "digit", "tags:indoor" a label of which an example has any number, and "age" or
"size.length" a number to predict. So the names alone tell the tasks, wherever they are
stored. Labels are columns of floats, NaN where an example has none of a task.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.data import label_arrays

_SEPARATORS = {"classification": "=", "multilabel": ":", "regression": "."}
_RESERVED = "=:./[]"
_PRECISION = 1e-5  # largest error of a target in float32, in standard deviations


class TaskOutputs(NamedTuple):
    """One of several tasks.

    Attributes:
      kind: "classification", "multilabel" or "regression".
      names: of its classes, labels or targets.
      outputs: its places among the outputs of a model.
      columns: its places among the columns of labels.
    """

    kind: str
    names: tuple[str, ...]
    outputs: slice
    columns: slice


class TaskLabels(NamedTuple):
    """The labels of one task: (n, columns) float64, NaN in rows without one."""

    y: np.ndarray
    kind: str
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def tasks_of(output_names: Sequence[str]) -> dict[str, TaskOutputs]:
    """Task -> its outputs and labels, read from the names of all outputs."""
    tasks, first_output, first_column = {}, 0, 0
    for (task, kind), group in itertools.groupby(map(_parsed, output_names), _task):
        names = tuple(name for _, _, name in group)
        columns = 1 if kind == "classification" else len(names)
        tasks[task] = TaskOutputs(
            kind,
            names,
            slice(first_output, first_output + len(names)),
            slice(first_column, first_column + columns),
        )
        first_output, first_column = first_output + len(names), first_column + columns
    return tasks


def check_heads(sizes: tuple[int, ...], output_names: Sequence[str], task: str) -> None:
    """Raises UserError unless the heads of a model have the sizes of the tasks.

    Args:
      sizes: number of outputs of each head.
      output_names: of the data.
      task: of the data, "multitask" where they have several.
    """
    if task != "multitask":
        raise UserError(
            f"model.task_heads are for several tasks, but the data have one ({task}); "
            "leave task_heads out."
        )
    tasks = {name: len(part.names) for name, part in tasks_of(output_names).items()}
    if tuple(sizes) != tuple(tasks.values()):
        shown = ", ".join(f"{name} {size}" for name, size in tasks.items())
        raise UserError(
            f"model.task_heads.outputs={tuple(sizes)}, but the tasks of the data have "
            f"{tuple(tasks.values())} outputs ({shown})."
        )


def _parsed(name: str) -> tuple[str, str, str]:
    """(task, kind, the output's own name) of the name of an output."""
    place = next((i for i, c in enumerate(name) if c in "=:."), None)
    if place is None:
        return name, "regression", name
    kinds = {separator: kind for kind, separator in _SEPARATORS.items()}
    return name[:place], kinds[name[place]], name[place + 1 :]


def _task(parsed: tuple[str, str, str]) -> tuple[str, str]:
    return parsed[:2]


def output_names(task: str, kind: str, names: Iterable[str]) -> tuple[str, ...]:
    """The names of a task's outputs among those of all."""
    names = tuple(names)
    if kind == "regression" and len(names) == 1:
        return (task,)
    return tuple(f"{task}{_SEPARATORS[kind]}{name}" for name in names)


def packed(
    labels: Mapping[str, TaskLabels], where: str
) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Joins the labels of several tasks.

    Args:
      labels: task -> its labels, of the same n rows.
      where: the option that names them, for messages.

    Returns:
      (y float32 (n, columns), names of all outputs, notes).

    Raises:
      UserError: a single task, a name with a reserved character, or numbers whose
        differences 32 bits lose.
    """
    check_names(tuple(labels), where)
    lengths = {task: len(part.y) for task, part in labels.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"{where}: the tasks differ in their examples: {lengths}.")
    for task, part in labels.items():
        if part.kind == "regression":
            _check_precision(part.y, f"{where}[{task!r}]")
    names = tuple(
        name
        for task, part in labels.items()
        for name in output_names(task, part.kind, part.names)
    )
    notes = [f"{t}: {note}" for t, part in labels.items() for note in part.notes]
    for task, part in labels.items():
        if absent := int(np.isnan(part.y).any(1).sum()):
            notes.append(f"{task}: {absent:,} of {len(part.y):,} rows have no label")
    y = np.concatenate([part.y for part in labels.values()], axis=1)
    return y.astype(np.float32), names, tuple(notes)


def check_names(tasks: Sequence[str], where: str) -> None:
    """Raises UserError for fewer than two tasks, or a name that no task can have."""
    if len(tasks) < 2:
        raise UserError(
            f"{where}: several tasks need two or more; got {', '.join(tasks) or 'none'}"
            ". A single one is given without a mapping."
        )
    for task in tasks:
        if not isinstance(task, str) or not task or set(_RESERVED) & set(task):
            raise UserError(
                f"{where}: {task!r} can't be the name of a task; expected a text "
                f"without any of {' '.join(_RESERVED)}."
            )


def _check_precision(y: np.ndarray, where: str) -> None:
    values = y[~np.isnan(y).any(1)]
    with np.errstate(over="ignore"):
        error = np.abs(values.astype(np.float32) - values).max(0)
    if not (error <= _PRECISION * values.std(0) + 1e-30).all():
        raise UserError(
            f"{where} has values from {values.min():.6g} to {values.max():.6g}, which "
            "32 bits can't tell apart; subtract an offset before they are read."
        )


def of_array(
    values: Any,
    kind: str | None,
    class_names: Sequence[str] | None,
    where: str,
) -> TaskLabels:
    """Labels of one task from an array, of which some may be missing.

    NaN, None and blank texts are missing, and −1 in an array of whole numbers.

    Args:
      values: (n,) or (n, k).
      kind: of the task; None infers it from the labels that there are.
      class_names: in label order; None for those that occur.
      where: the task, for messages.

    Raises:
      UserError: no label at all, or a row that has some of its numbers alone.
    """
    values = np.asarray(values)
    missing = _missing(values, where)
    if missing.all():
        raise UserError(f"{where}: the task has no label at all.")
    present = values[~missing]
    if present.dtype.kind == "O":
        present = np.asarray(present.tolist())
    if values.dtype.kind == "f" and kind in (None, "classification"):
        present = _whole(present, kind)
    labels = label_arrays.read(present, class_names, kind, where)
    return spread(labels.y, ~missing, labels.task, labels.class_names, labels.notes)


def spread(
    y: np.ndarray,
    labelled: np.ndarray,
    kind: str,
    names: Sequence[str] | None,
    notes: Sequence[str] = (),
) -> TaskLabels:
    """Puts the labels of some rows in their places, NaN in the others.

    Args:
      y: (labels,) or (labels, k) of the rows that have one.
      labelled: bool (n,), which rows these are.
      kind: of the task.
      names: of its classes or outputs; None numbers them.
      notes: what was decided in reading.
    """
    y = np.asarray(y, np.float64).reshape(int(labelled.sum()), -1)
    if names is None:
        is_class = kind == "classification"
        count = int(y.max()) + 1 if is_class else y.shape[1]
        names = map(str, range(count))
    columns = np.full((len(labelled), y.shape[1]), np.nan)
    columns[labelled] = y
    return TaskLabels(columns, kind, tuple(map(str, names)), tuple(notes))


def _whole(values: np.ndarray, kind: str | None) -> np.ndarray:
    """Whole floats of few values as integers: NaN made integer labels floats."""
    is_whole = (values == np.round(values)).all() and values.ndim == 1
    few = kind == "classification" or len(np.unique(values)) <= 20
    return values.astype(np.int64) if is_whole and few else values


def _missing(values: np.ndarray, where: str) -> np.ndarray:
    """Bool (n,): which rows have no label."""
    rows = values.reshape(len(values), -1)
    if values.dtype.kind == "f":
        absent = np.isnan(rows)
    elif values.dtype.kind == "O":
        absent = np.vectorize(_is_hole, otypes=[bool])(rows)
    elif values.dtype.kind in "US":
        absent = np.char.strip(rows) == rows.dtype.type()
    else:
        absent = rows == -1 if values.dtype.kind == "i" else np.zeros(rows.shape, bool)
        if absent.any() and np.isin(rows, (-1, 1)).all():
            raise UserError(
                f"{where}: the labels are −1 and 1, and −1 is a missing label of "
                "several tasks; write 0 and 1."
            )
    if (absent.any(1) & ~absent.all(1)).any():
        row = int(np.flatnonzero(absent.any(1) & ~absent.all(1))[0])
        raise UserError(
            f"{where}: row {row} has some of the task's numbers and lacks others; give "
            "all of them, none, or make them tasks of their own."
        )
    return absent.all(1)


def _is_hole(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and value != value)


def label_counts(y: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """How often each output of several tasks is a label, (outputs,).

    Of a number to predict it is how many rows have one.

    Args:
      y: (n, columns).
      names: of the outputs.
    """
    counts = []
    for task in tasks_of(names).values():
        values = y[:, task.columns]
        values = values[~np.isnan(values).any(1)]
        if task.kind == "classification":
            classes = values[:, 0].astype(np.int64)
            counts.append(np.bincount(classes, minlength=len(task.names)))
        elif task.kind == "multilabel":
            counts.append(values.sum(0))
        else:
            counts.append(np.full(len(task.names), len(values)))
    return np.concatenate(counts)


def labelled_rows(y: np.ndarray, names: Sequence[str]) -> dict[str, int]:
    """Task -> number of rows of y (n, columns) that have a label of it."""
    return {
        name: int((~np.isnan(y[:, task.columns]).any(1)).sum())
        for name, task in tasks_of(names).items()
    }


def check_labelled(y: np.ndarray, names: Sequence[str], where: str) -> None:
    """Raises UserError where labelled train rows have no label of some task.

    Args:
      y: (n, columns) of these rows.
      names: of the outputs.
      where: the data set, for the message.
    """
    counts = labelled_rows(y, names)
    empty = [task for task, count in counts.items() if not count]
    if len(y) and empty:
        raise UserError(
            f"{where}: no train row has a label of the task {empty[0]!r} (train labels:"
            f" {', '.join(f'{t} {n:,}' for t, n in counts.items())})."
        )
