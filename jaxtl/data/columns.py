"""Columns of tables: cells as numbers or texts, as features, and as labels.

Every source of tables (CSV, JSON, Parquet, frames in memory) reads its file into
`Column`s; what follows is the same for all. In text files a column is numeric if every
cell that has a value is a decimal number; files with types keep theirs.
"""

from __future__ import annotations

import dataclasses
import decimal
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.data import cells
from jaxtl.data.origins import Origins


@dataclasses.dataclass(frozen=True, eq=False)
class Column:
    """One column of a table.

    Attributes:
      texts: (n,) normalized cells; None for a column that was stored as numbers, or as
        lists.
      values: (n,) float64 with NaN where a cell is missing; None for texts.
      is_missing: (n,) bool.
      names: the classes that the file declares, in their order; None for none.
      integers: (n,) the whole numbers as they were stored, of which `values` may have
        lost digits; None for others.
      written: (n,) the texts of a typed file as they stand there, "" for none; None for
        other columns.
      lists: (n,) the labels of each row, normalized, in the order of the file; None for
        columns that are not lists.
    """

    texts: Sequence[str] | None
    values: np.ndarray | None
    is_missing: np.ndarray
    names: tuple[str, ...] | None = None
    integers: np.ndarray | None = None
    written: Sequence[str] | None = None
    lists: Sequence[tuple[str, ...]] | None = None

    @functools.cached_property
    def labels(self) -> list[str]:
        """The cells as texts, numbers as a program writes them."""
        if self.texts is not None:
            return list(self.texts)
        if self.lists is not None:
            return [", ".join(labels) for labels in self.lists]
        if self.integers is not None:
            return [str(int(value)) for value in self.integers]
        return [repr(float(value)) for value in self.values]

    @functools.cached_property
    def present(self) -> list[str]:
        """The cells that are not missing, as texts."""
        if not self.is_missing.any():
            return self.labels
        return [text for text, m in zip(self.labels, self.is_missing) if not m]


class DeferredColumns(Mapping[str, Column]):
    """Columns by name, each read when it is looked up: a column that nobody uses may
    hold anything.
    """

    def __init__(self, readers: Mapping[str, Callable[[], Column]]):
        """Takes a function for each column that reads it."""
        self._readers, self._columns = readers, {}

    def __getitem__(self, name: str) -> Column:
        if name not in self._columns:
            self._columns[name] = self._readers[name]()
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


class Columns(NamedTuple):
    """The columns of a table by name.

    Attributes:
      columns: name -> column, all of equal length.
      origins: where each row was read.
      notes: what was decided in reading.
      train: rows of the train split, where the file has splits itself; None without.
    """

    columns: Mapping[str, Column]
    origins: Origins
    notes: list[str]
    train: np.ndarray | None = None

    def place(self, row: int) -> str:
        """Where a row is: "line 3" of a file, or "row 3" counted from 0."""
        number = row if self.origins.number is None else int(self.origins.number[row])
        return f"{'line' if self.origins.counts_lines else 'row'} {number}"


def of_texts(column: Sequence[str], missing: Collection[str]) -> Column:
    """A column of normalized cells: numbers if all that are not missing are.

    Args:
      column: (n,) cells.
      missing: lower-case cells that hold no value.
    """
    if not any(cells.number(text) is not None for text in missing):
        numbers = cells.numbers(column)
        if numbers is not None and len(numbers):
            return Column(column, numbers, np.zeros(len(column), bool))
    holds_none = map(frozenset(missing).__contains__, map(str.lower, column))
    is_missing = np.fromiter(holds_none, bool, len(column))
    present = column
    if is_missing.any():
        present = [cell for cell, m in zip(column, is_missing) if not m]
    numbers = cells.numbers(present) if present else None
    values = None
    if numbers is not None:
        values = np.full(len(column), np.nan)
        values[~is_missing] = numbers
    return Column(column, values, is_missing)


def of_values(values: Any, missing: Collection[str], where: str) -> Column:
    """A column that its file or program stored with a type.

    Booleans are the texts "False" and "True", texts stay texts even where they are
    written as numbers, and None and NaN are missing.

    Args:
      values: (n,) array, of objects where types differ or values are None.
      missing: lower-case texts that hold no value, nor do the numbers written so.
      where: the column, for messages.

    Raises:
      UserError: values of another kind: dates, bytes, lists of numbers with a fraction,
        or several kinds.
    """
    if isinstance(values, list | tuple) and any(map(_is_list, set(map(type, values)))):
        return of_objects(list(values), missing, where)
    values = np.asarray(values)
    if values.ndim == 1 and values.dtype.kind in "iu":
        return _of_numbers(values.astype(np.float64), missing, values)
    if values.ndim == 1 and values.dtype.kind == "f":
        return _of_numbers(values.astype(np.float64), missing)
    if values.ndim != 1 or values.dtype.kind not in "ObUT":
        raise UserError(f"{where} {_kind_problem(_kind(values))}.")
    return of_objects(values.tolist(), missing, where)


def of_objects(values: list, missing: Collection[str], where: str) -> Column:
    """A column of Python objects; see `of_values`."""
    is_missing = np.zeros(len(values), bool)
    if any(map(_may_be_missing, set(map(type, values)))):
        is_missing = np.fromiter(map(_is_missing, values), bool, len(values))
    present = values
    if is_missing.any():
        present = [v for v, m in zip(values, is_missing) if not m]
    if present and all(map(_is_list, set(map(type, present)))):
        return _of_lists(values, is_missing, where)
    kinds = set(map(_object_kind, set(map(type, present))))
    if kinds == {"integer"}:
        integers = np.array([0 if m else v for v, m in zip(values, is_missing)], object)
        floats = np.where(is_missing, np.nan, integers.astype(np.float64))
        return _of_numbers(floats, missing, integers)
    if kinds and kinds <= {"integer", "number"}:
        floats = [np.nan if m else float(v) for v, m in zip(values, is_missing)]
        return _of_numbers(np.asarray(floats), missing)
    if kinds - {"text", "boolean"} or len(kinds) > 1:
        raise UserError(f"{where} {_kind_problem(' and '.join(sorted(kinds)))}.")
    written = ["" if m else str(v) for v, m in zip(values, is_missing)]
    texts = cells.all_normalized(written)
    holds_none = map(frozenset(missing).__contains__, map(str.lower, texts))
    is_missing |= np.fromiter(holds_none, bool, len(texts))
    return Column(
        texts, None, is_missing, written=None if "boolean" in kinds else written
    )


def _is_list(kind: type) -> bool:
    return issubclass(kind, list | tuple | np.ndarray)


def _of_lists(values: list, is_missing: np.ndarray, where: str) -> Column:
    """A column of lists of labels, which are texts or whole numbers."""
    rows = [() if m else tuple(v) for v, m in zip(values, is_missing)]
    kinds = {_object_kind(kind) for row in rows for kind in set(map(type, row))}
    if kinds - {"text", "integer"} or len(kinds) > 1:
        raise UserError(
            f"{where} holds lists of {' and '.join(sorted(kinds))}; lists are read as "
            "labels, all of them texts or all whole numbers: convert it, or name "
            "features= without it."
        )
    lists = [tuple(cells.all_normalized([*map(str, row)])) for row in rows]
    if (
        blank := next((i for i, row in enumerate(lists) if "" in row), None)
    ) is not None:
        raise UserError(f"{where} has an empty label in row {blank}: {rows[blank]!r}.")
    return Column(None, None, is_missing, lists=lists)


def _of_numbers(
    values: np.ndarray, missing: Collection[str], integers: np.ndarray | None = None
) -> Column:
    """A column of float64 numbers; NaN and the numbers among `missing` are holes."""
    codes = [v for text in missing if (v := cells.number(text)) is not None]
    is_missing = np.isnan(values) | np.isin(values, codes)
    values = np.where(is_missing, np.nan, values)
    return Column(None, values, is_missing, integers=integers)


def _may_be_missing(kind: type) -> bool:
    """Whether values of a type may be None, NaN, or what pandas has for "no value"."""
    # Those of pandas compare as no other objects do.
    is_empty = kind is type(None) or kind.__name__ in ("NAType", "NaTType")
    return is_empty or issubclass(kind, float | np.floating)


def _is_missing(value: Any) -> bool:
    if isinstance(value, float | np.floating):
        return bool(value != value)  # NaN
    return value is None or _may_be_missing(type(value))


def _object_kind(kind: type) -> str:
    if issubclass(kind, bool | np.bool_):
        return "boolean"
    if issubclass(kind, int | np.integer):
        return "integer"
    if issubclass(kind, float | np.floating | decimal.Decimal):
        return "number"
    return "text" if issubclass(kind, str) else kind.__name__


def _kind(values: np.ndarray) -> str:
    shape = f"arrays of shape {values.shape[1:]}"
    return shape if values.ndim != 1 else str(values.dtype)


def _kind_problem(kinds: str) -> str:
    return (
        f"holds {kinds}; a column needs to be all numbers, all texts or all booleans: "
        "convert it, or name features= without it"
    )


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
