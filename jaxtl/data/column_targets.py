"""Columns of tables as labels: classes, numbers, or labels of which a row has any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.data import cells, task_outputs
from jaxtl.data.columns import Column, Columns
from jaxtl.data.dataset import MULTITASK
from jaxtl.data.origins import Origins


class Target(NamedTuple):
    """Target columns as labels: y, class names and task as those of a `Table`.

    `notes` says what about them may surprise.
    """

    y: np.ndarray
    class_names: tuple[str, ...] | None
    task: str
    notes: tuple[str, ...] = ()


def target(
    table: Columns,
    names: Sequence[str],
    task: str | None,
    owner: str,
) -> Target:
    """y, class names and task of one or several target columns without holes.

    Args:
      table: that has the columns.
      names: of the targets.
      task: None infers it.
      owner: the option that names them, "CSV.target", for messages.

    Raises:
      UserError: texts where numbers are needed, or labels that may be quantities.
    """
    columns = table.columns
    lists = [name for name in names if columns[name].lists is not None]
    if lists and (len(names) > 1 or task not in (None, "multilabel")):
        problem = "is one of several targets" if len(names) > 1 else f"task={task!r}"
        raise UserError(
            f"{owner}: column {lists[0]!r} holds lists of labels, which are the task "
            f"'multilabel' of one target; {problem}."
        )
    if lists:
        column = columns[lists[0]]
        return label_lists(
            column.lists, column.names, table.train, table.origins, owner
        )
    if len(names) > 1 or task == "multilabel":
        return _numeric_targets(columns, names, task, owner)
    [name] = names
    column = columns[name]
    if column.names is not None and task in (None, "classification"):
        return _declared_classes(column)
    if task is None:
        labels = column.labels
        if (doubt := cells.doubtful_labels(labels)) is not None:
            raise UserError(f"{owner}: in column {name!r} {doubt}.")
        task = "regression" if cells.is_quantity(labels) else "classification"
    if task == "classification":
        notes = tuple(cells.joined_labels(column.labels))
        return Target(*cells.classes(column.labels), task, notes)
    if column.values is None:
        wrong = cells.first_text(column.labels)
        raise UserError(
            f"{owner}: {name!r} holds texts, not numbers, such as {wrong!r}."
        )
    return Target(column.values, None, task)


def several(
    table: Columns,
    tasks: Mapping[str, Sequence[str]],
    kinds: Mapping[str, str],
    owner: str,
) -> Target:
    """The labels of several tasks, of which a row may lack some.

    Args:
      table: that has the columns.
      tasks: task -> names of its columns.
      kinds: task -> its kind, of those that the columns do not tell.
      owner: the option that names them, for messages.

    Raises:
      UserError: as `target` of each, a row with some of a task's columns alone, or a
        task without any label.
    """
    labels, of_train = {}, np.zeros(len(table.origins), bool)
    of_train[slice(None) if table.train is None else table.train] = True
    for task, names in tasks.items():
        where = f"{owner}[{task!r}]"
        missing = np.stack([table.columns[name].is_missing for name in names])
        partial = np.flatnonzero(missing.any(0) & ~missing.all(0))
        if len(partial):
            raise UserError(
                f"{where}: {table.place(int(partial[0]))} has some of the columns "
                f"{', '.join(names)} and lacks others; fill them in, or make them "
                "tasks of their own."
            )
        labelled = ~missing.all(0)
        rows = np.flatnonzero(labelled)
        if not len(rows):
            raise UserError(f"{where}: the task has no label at all.")
        part = Columns(
            {name: table.columns[name].select(rows) for name in names},
            table.origins.select(rows),
            [],
            None if table.train is None else np.flatnonzero(of_train[rows]),
        )
        y, classes, kind, notes = target(part, names, kinds.get(task), where)
        names = names if kind == "regression" else classes
        labels[task] = task_outputs.spread(y, labelled, kind, names, notes)
    y, outputs, notes = task_outputs.packed(labels, owner)
    return Target(y, outputs, MULTITASK, notes)


def _declared_classes(column: Column) -> Target:
    """Labels of a column whose file names its classes in order."""
    index = {name: i for i, name in enumerate(column.names)}
    y = np.asarray([index[label] for label in column.labels], np.int32)
    return Target(y, column.names, "classification")


def label_lists(
    lists: Sequence[tuple[str, ...]],
    known: tuple[str, ...] | None,
    train: np.ndarray | None,
    rows: Origins,
    owner: str,
) -> Target:
    """Lists of labels as 0 and 1, (n, labels); an empty list has none.

    The labels are those that the file declares, else those of the train rows, in the
    order of `cells.classes`.

    Args:
      lists: (n,) the labels of each row, normalized.
      known: the labels that the file declares, in order; None for none.
      train: rows of the train split; None for all, where splits are drawn later.
      rows: where each row was read.
      owner: the option that names the column, for messages.

    Raises:
      UserError: a label that no train row has, or no label at all.
    """
    index = {name: i for i, name in enumerate(known or ())}
    if known is None:
        of_train = lists if train is None else [lists[row] for row in train]
        labels = [label for row in of_train for label in row]
        if not labels:
            raise UserError(f"{owner}: the lists of all train rows are empty.")
        numbers, known = cells.classes(labels)
        index = dict(zip(labels, numbers.tolist()))
    unknown = {
        label: i
        for i in reversed(range(len(lists)))
        for label in lists[i]
        if label not in index
    }
    if unknown:
        shown = ", ".join(
            f"{label!r} ({rows[i]})" for label, i in list(unknown.items())[::-1][:5]
        )
        raise UserError(
            f"{owner}: {len(unknown)} labels are in no train row: {shown}; a model has "
            "no output for them: add train rows with them, or take them out of the "
            "lists."
        )
    y = np.zeros((len(lists), len(known)), np.float32)
    for row, labels in enumerate(lists):
        y[row, [index[label] for label in labels]] = 1
    notes: tuple[str, ...] = ()
    if (y.sum(1) == 1).all():
        notes = (
            "each list has exactly one label, yet lists are read as task 'multilabel'; "
            "for classes write labels without brackets",
        )
    return Target(y, known, "multilabel", notes)


def _numeric_targets(
    columns: Mapping[str, Column], names: Sequence[str], task: str | None, owner: str
) -> Target:
    """y, class names and task of several target columns, which must be numbers."""
    values = {name: columns[name].values for name in names}
    for name in names if task == "multilabel" else ():
        labels = [label.lower() for label in columns[name].labels]
        if set(labels) <= {"true", "false"}:
            values[name] = np.asarray([float(label == "true") for label in labels])
    texts = [name for name, v in values.items() if v is None]
    if texts and task == "multilabel":
        cell = cells.first_text(columns[texts[0]].labels)
        raise UserError(
            f"{owner}: column {texts[0]!r} holds {cell!r}; expected 0 or 1 for each "
            "label of an example."
        )
    if texts:
        raise UserError(
            f"{owner}: of several targets each must be numbers; {texts[0]!r} is not."
        )
    y = np.stack(list(values.values()), axis=1)
    notes: tuple[str, ...] = ()
    if task == "multilabel":
        return Target(y, tuple(names), task)
    if task is None and np.isin(y, (0, 1)).all():
        notes = (
            f"the columns {', '.join(names)} hold 0 and 1 alone and are numbers to "
            "predict; as labels of which each example has any number they are "
            "task='multilabel'",
        )
    return Target(y, None, "regression", notes)
