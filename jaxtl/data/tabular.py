"""What all sources of tables share: columns to predict from, labels, holes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.data import (
    cells,
    column_features,
    column_targets,
    table_encoding,
    task_outputs,
)
from jaxtl.data.columns import Columns
from jaxtl.data.dataset import Data, Table
from jaxtl.data.table_encoding import ColumnCode, TableEncoding


class RowLabels(NamedTuple):
    """What the rows of a table are beside their inputs.

    Attributes:
      targets: names of the columns that the labels were read from.
      labels: y, class names and task.
      groups, weights: (n,) of the rows, None without any; as in `Table`.
    """

    targets: tuple[str, ...]
    labels: column_targets.Target
    groups: np.ndarray | None
    weights: np.ndarray | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tabular(Data):
    """A table; numbers are standardized, categories become one-hot.

    Mean and standard deviation are those of the train rows (labelled or not) and are
    kept in the data set's preprocessing. Labels are texts; only integers as written
    ("1", not "01" or "1e1") are put in the order of their values.

    Attributes:
      target: the column to predict, or several (regression, or multilabel by task=);
        a column of lists of labels is multilabel. A mapping {"species": "species",
        "size": ("length", "width")} has several tasks, of which a row may lack some.
      features: columns to predict from; None takes all others but the index that pandas
        or R wrote beside them: a first column without a name (or "Unnamed: 0") whose
        cells are texts or whole numbers that all differ, or "__index_level_0__".
      task: None infers it from the target: classification for texts, and for whole
        numbers of at most 20 values; regression for other numbers. Of several tasks a
        mapping, for those that it names.
      missing: "refuse" cells without a value, or "impute" them: by the median of a
        column of numbers, the most frequent category of others, both of the train rows
        alone; a column with holes among these gets one more, 1 where it has a hole,
        else 0. Labels are never imputed.
      missing_values: the cells that hold no value, in upper or lower case; "-9" is
        the number -9 in any notation ("-9.0").
      unseen: what becomes of a category that no train row has, in other splits, in
        `predict` and in exports: "bucket" gives it the code of no category (zeros),
        as scikit-learn's OneHotEncoder(handle_unknown="ignore"); "refuse".
    """

    target: str | tuple[str, ...] | Mapping[str, str | tuple[str, ...]]
    features: tuple[str, ...] | None = None
    task: str | Mapping[str, str] | None = None
    missing: str = "refuse"
    missing_values: tuple[str, ...] = cells.MISSING
    unseen: str = "bucket"

    def __post_init__(self):
        super().__post_init__()
        for name in ("target", "features"):
            value = getattr(self, name)
            if isinstance(value, Mapping) and name == "target":
                value = _columns_of_tasks(value, f"{self._owner}.target")
            elif isinstance(value, str):
                value = cells.normalized(value)
                value = value if name == "target" else (value,)
            elif value is not None:
                value = tuple(map(cells.normalized, value))
            object.__setattr__(self, name, value)
        values = self.missing_values
        values = (values,) if isinstance(values, str) else values
        lower = (cells.normalized(str(v)).lower() for v in values)
        object.__setattr__(self, "missing_values", tuple(dict.fromkeys(lower)))
        self._check_kinds()
        for name in ("missing", "unseen"):
            options = getattr(table_encoding, name.upper())
            if (value := getattr(self, name)) not in options:
                expected = " or ".join(map(repr, options))
                raise UserError(
                    f"{self._owner}.{name} must be {expected}; got {value!r}"
                    f"{nearest(value, options)}."
                )

    def _check_kinds(self) -> None:
        """Raises UserError for kinds of tasks that the target does not have."""
        of_tasks = isinstance(self.target, Mapping)
        if self.task is not None and of_tasks != isinstance(self.task, Mapping):
            expected = "a mapping from the tasks" if of_tasks else "a text"
            raise UserError(
                f"{self._owner}.task={self.task!r}: expected {expected}, as target is."
            )
        for name in self.task if isinstance(self.task, Mapping) else ():
            if name not in self.target:
                raise UserError(
                    f"{self._owner}.task[{name!r}]: target has no such task"
                    f"{nearest(name, self.target)} (tasks: {', '.join(self.target)})."
                )

    def read_columns(self) -> Columns:
        """Reads all columns; each source implements it."""
        raise TypeError(f"{type(self).__name__} defines no read_columns()")

    def read_labels(self, table: Columns) -> RowLabels:
        """Labels, groups and weights of the rows; the columns exist and have no holes.

        Raises:
          UserError: a column that is not there, lacks values or has another role.
        """
        if isinstance(self.target, Mapping):
            return self._read_tasks(table, self.target)
        targets = (self.target,) if isinstance(self.target, str) else self.target
        groups, weights = self._row_columns(table, targets)
        for name in targets:
            self._check_column(name, table, "target")
        self._check_distinct(targets, "target")
        labels = column_targets.target(
            table, targets, self.task, f"{self._owner}.target"
        )
        return RowLabels(targets, labels, groups, weights)

    def _read_tasks(
        self, table: Columns, tasks: Mapping[str, tuple[str, ...]]
    ) -> RowLabels:
        """`read_labels` of several tasks, which may lack labels."""
        targets = tuple(name for names in tasks.values() for name in names)
        groups, weights = self._row_columns(table, targets)
        self._check_distinct(targets, "target")
        for name in targets:
            self._check_column(name, table, "target", may_lack=True)
        labels = column_targets.several(
            table, tasks, self.task or {}, f"{self._owner}.target"
        )
        return RowLabels(targets, labels, groups, weights)

    def read(self) -> Table:
        """Reads features in the order named, one-hot columns in sorted order."""
        return self.as_table(self.read_columns())

    def as_table(self, table: Columns) -> Table:
        """The features and labels of the columns."""
        targets, labels, groups, weights = self.read_labels(table)
        features = self._checked_features(table, targets)
        read = [
            column_features.feature(name, table.columns[name], table, self._owner)
            for name in features
        ]
        notes = [*table.notes, *labels.notes]
        notes += [note for feature in read for note in feature.notes]
        used = {*features, *targets, *self._row_column_names()}
        unused = [name for name in table.columns if name not in used]
        if unused and not self.features:
            notes.append(
                f"column {', '.join(map(repr, unused))} is taken for the index of the "
                "rows and is no input; features= names it where it is meant to be one"
            )
        elif unused:
            notes.append(f"columns that are not used: {', '.join(unused)}")
        codes = [ColumnCode(n, f.categories) for n, f in zip(features, read)]
        encoding = TableEncoding(
            columns=tuple(codes),
            missing=self.missing,
            missing_values=self.missing_values,
            unseen=self.unseen,
        )
        return Table(
            x=np.concatenate([feature.x for feature in read], axis=1),
            y=labels.y,
            class_names=labels.class_names,
            task=labels.task,
            standardize=np.repeat(
                [code.categories is None for code in codes],
                [code.width for code in codes],
            ),
            target_names=targets if labels.task == "regression" else (),
            feature_names=encoding.feature_names,
            encoding=encoding,
            origins=table.origins,
            notes=tuple(notes),
            groups=groups,
            weights=weights,
        )

    def _row_column_names(self) -> list[str]:
        """Names of the columns that are no inputs: `split_by` and `sample_weight`."""
        names = (self.split_by, self.sample_weight)
        return [cells.normalized(str(name)) for name in names if name is not None]

    def _row_columns(
        self, table: Columns, targets: tuple[str, ...]
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """(The groups as texts, the weights as numbers) of the rows, None without."""
        values: dict[str, np.ndarray] = {}
        for field in ("split_by", "sample_weight"):
            if getattr(self, field) is None:
                continue
            name = cells.normalized(str(getattr(self, field)))
            if name in (*targets, *(self.features or ())):
                used = "the target" if name in targets else "one of the features"
                raise UserError(f"{self._owner}.{field}: {name!r} is {used}, too.")
            self._check_column(name, table, field)
            column = table.columns[name]
            if field == "split_by":
                values[field] = np.array(column.labels)
            elif column.values is None:
                raise UserError(
                    f"{self._owner}.{field}: the column {name!r} holds texts; expected "
                    "numbers of at least 0."
                )
            else:
                values[field] = column.values
        return values.get("split_by"), values.get("sample_weight")

    @property
    def _owner(self) -> str:
        return type(self).__name__

    def _checked_features(
        self, table: Columns, targets: tuple[str, ...]
    ) -> tuple[str, ...]:
        """The names of the features; all exist and have the cells that they need."""
        others = [*targets, *self._row_column_names()]
        if not self.features:
            free = [name for name in table.columns if name not in others]
            others += column_features.index_columns(table, free)
        names = self.features or tuple(c for c in table.columns if c not in others)
        for name in names:
            self._check_column(name, table, "features")
            if name in targets:
                raise UserError(
                    f"{self._owner}.features: {name!r} is the target; leave it out."
                )
        if not names:
            raise UserError(f"{self._owner}: there is no column beside the target.")
        self._check_distinct(names, "features")
        return names

    def _check_distinct(self, names: tuple[str, ...], field: str) -> None:
        if (repeated := cells.repeated(names)) is not None:
            raise UserError(
                f"{self._owner}.{field} names the column {repeated!r} twice."
            )

    def _check_column(
        self, name: str, table: Columns, field: str, may_lack: bool = False
    ) -> None:
        """Raises UserError for a column that does not exist or lacks needed values."""
        if name not in table.columns:
            raise UserError(
                f"{self._owner}.{field}: there is no column {name!r}"
                f"{nearest(name, table.columns)}; the columns are "
                f"{', '.join(table.columns)}."
            )
        column = table.columns[name]
        if column.lists is not None and field != "target":
            advice = "; name features= without it" if field == "features" else ""
            raise UserError(
                f"{self._owner}.{field}: column {name!r} holds lists, which are read "
                f"as the labels of target= alone{advice}."
            )
        is_refused = np.zeros(len(column.is_missing), bool)
        if column.texts is not None and column.values is None:
            infinite = {text for text in set(column.texts) if cells.is_infinite(text)}
            if infinite:
                is_refused[:] = [text in infinite for text in column.texts]
        needs_all = field != "features" or self.missing == "refuse"
        if needs_all and not may_lack:
            is_refused |= column.is_missing
        if is_refused.any():
            self._refuse(name, table, field, np.flatnonzero(is_refused))

    def _refuse(self, name: str, table: Columns, field: str, rows: np.ndarray) -> None:
        """Raises UserError for cells of a column without a (finite) value."""
        row = int(rows[0])
        cell = table.columns[name].labels[row]
        shown = f" ({cell!r})" if table.columns[name].texts is not None else ""
        advice = "fill them in or leave the column out"
        if field in ("split_by", "sample_weight"):
            advice = "fill them in or leave the rows out"
        elif field == "target":
            advice = "labels are never imputed: fill them in or leave the rows out"
            if shown and cell and not cells.is_infinite(cell):
                advice += f', or pass missing_values=("",) if {cell!r} is a class'
        elif self.missing == "refuse":
            advice += ', or pass missing="impute"'
        first = "the first in"
        if table.origins.counts_lines:
            first = f"the first {row + 1} rows below the header, in"
        raise UserError(
            f"{self._owner}.{field}: column {name!r} has {len(rows)} missing values, "
            f"{first} {table.place(row)}{shown}; {advice}."
        )


def _columns_of_tasks(
    tasks: Mapping[str, str | tuple[str, ...]], where: str
) -> dict[str, tuple[str, ...]]:
    """Task -> the normalized names of its columns."""
    task_outputs.check_names(tuple(tasks), where)
    named = {t: (v,) if isinstance(v, str) else tuple(v) for t, v in tasks.items()}
    return {t: tuple(map(cells.normalized, names)) for t, names in named.items()}
