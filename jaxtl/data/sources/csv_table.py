"""Tables from CSV and TSV files with a header row."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any, NamedTuple

import numpy as np

from jaxtl.core import text_files
from jaxtl.core.errors import UserError, nearest
from jaxtl.data import cells, origins, paths
from jaxtl.data.dataset import Data, Table


class _Columns(NamedTuple):
    """The cells of a file by column name, and the names of two kinds of columns.

    `lines` has the line of each row, `notes` what was decided in reading.
    """

    cells: dict[str, list[str]]
    features: tuple[str, ...]
    targets: tuple[str, ...]
    lines: list[int]
    notes: list[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CSV(Data):
    """A CSV or TSV file; numbers are standardized, categories become one-hot.

    Mean and standard deviation are those of the train rows (labelled or not) and are
    kept in the data set's preprocessing. A column is numeric if every cell is a decimal
    number. Labels are texts; only integers as written ("1", not "01" or "1e1") are put
    in the order of their values.

    Attributes:
      path: the file, with a header row; looked for under $JAXTL_DATA_DIR as well.
      target: the column to predict, or several (regression, or multilabel by task=).
      features: columns to predict from; None takes all others.
      task: None infers it from the target: classification for texts, and for whole
        numbers of at most 20 values; regression for other numbers.
      delimiter: None is a tab for .tsv and .tab, else a comma.
    """

    path: str = dataclasses.field(kw_only=False)
    target: str | tuple[str, ...]
    features: tuple[str, ...] | None = None
    task: str | None = None
    delimiter: str | None = None

    def __post_init__(self):
        super().__post_init__()
        for name in ("target", "features"):
            value = getattr(self, name)
            if isinstance(value, str):
                value = cells.normalized(value)
                value = value if name == "target" else (value,)
            elif value is not None:
                value = tuple(map(cells.normalized, value))
            object.__setattr__(self, name, value)

    def read(self) -> Table:
        """Reads features in the order named, one-hot columns in sorted order."""
        columns = self._columns()
        parts, is_numeric, feature_names, notes = [], [], [], [*columns.notes]
        for name in columns.features:
            column = columns.cells[name]
            part, categories = _feature(name, column)
            parts.append(part)
            is_numeric += [not categories] * part.shape[1]
            feature_names += [f"{name}={c}" for c in categories] or [name]
            lines = columns.lines
            notes += cells.column_notes(name, column, not categories, lines)
            notes += cells.class_notes(categories, f"the categories of {name!r}:")
        used = {*columns.features, *columns.targets}
        unused = [name for name in columns.cells if name not in used]
        if unused:
            notes.append(f"columns that are not used: {', '.join(unused)}")
        y, names, task = _target(columns, self.task)
        return Table(
            x=np.concatenate(parts, axis=1),
            y=y,
            class_names=names,
            task=task,
            standardize=np.asarray(is_numeric),
            target_names=columns.targets if task == "regression" else (),
            feature_names=tuple(feature_names),
            origins=origins.of_lines([(self.path, columns.lines)]),
            notes=tuple(notes),
        )

    def encoding(self) -> list[dict[str, Any]]:
        """How each feature column becomes numbers, in the order of `read`.

        With it an exported model encodes rows that are not in this file.

        Returns:
          Dicts of "name" and "categories", the names of its one-hot columns in order,
          or None for a column of numbers.
        """
        columns = self._columns()
        return [
            {
                "name": name,
                "categories": sorted(set(columns.cells[name]))
                if cells.numbers(columns.cells[name]) is None
                else None,
            }
            for name in columns.features
        ]

    def _columns(self) -> _Columns:
        """All columns, and the names of the features and of the targets."""
        file = paths.find(self.path, "CSV.path")
        columns, lines, notes = _read_columns(file, self.delimiter)
        targets = (self.target,) if isinstance(self.target, str) else self.target
        for name in targets:
            _check_column(name, columns, "target", lines)
        features = self.features or tuple(c for c in columns if c not in targets)
        for name in features:
            _check_column(name, columns, "features", lines)
            if name in targets:
                raise UserError(f"CSV.features: {name!r} is the target; leave it out.")
        if not features:
            raise UserError(f"CSV: {self.path} has no column beside the target.")
        for field, names in (("target", targets), ("features", features)):
            if (repeated := cells.repeated(names)) is not None:
                raise UserError(f"CSV.{field} names the column {repeated!r} twice.")
        return _Columns(columns, features, targets, lines, notes)


def _read_columns(
    path: pathlib.Path, delimiter: str | None
) -> tuple[dict[str, list[str]], list[int], list[str]]:
    """Column name -> cells, all normalized; the line of each row; and what to say."""
    is_tabbed = path.suffix.lower() in (".tsv", ".tab")
    delimiter = delimiter or ("\t" if is_tabbed else ",")
    lines = text_files.read_lines(path, owner="CSV.path")
    rows = text_files.split_cells(lines, delimiter, owner=f"CSV.path: {path}")
    if len(rows) < 2:
        raise UserError(f"CSV.path: {path} needs a header row and rows below it.")
    header = [cells.normalized(cell) for cell in rows[0][1]]
    if (name := cells.repeated(header)) is not None:
        raise UserError(f"CSV.path: {path} has two columns called {name!r}.")
    for number, row in rows[1:]:
        if len(row) != len(header):
            raise UserError(
                f"CSV.path: row {number} of {path} has {len(row)} cells, "
                f"the header has {len(header)}."
            )
    written = {name: [row[i] for _, row in rows[1:]] for i, name in enumerate(header)}
    columns = {name: [*map(cells.normalized, c)] for name, c in written.items()}
    notes = [
        note
        for name, column in written.items()
        if columns[name] != column
        for note in cells.merged_forms(column, f"in column {name!r}")
    ]
    return columns, [number for number, _ in rows[1:]], notes


def _check_column(
    name: str, columns: dict[str, list[str]], field: str, lines: list[int]
) -> None:
    """Raises UserError for a column that does not exist or has missing values."""
    if name not in columns:
        raise UserError(
            f"CSV.{field}: there is no column {name!r}{nearest(name, columns)}; "
            f"the columns are {', '.join(columns)}."
        )
    missing = [i for i, cell in enumerate(columns[name]) if cells.is_missing(cell)]
    if missing:
        raise UserError(
            f"CSV.{field}: column {name!r} has {len(missing)} missing values, the "
            f"first {missing[0] + 1} rows below the header, in line "
            f"{lines[missing[0]]} ({columns[name][missing[0]]!r}); fill them in or "
            "leave the column out."
        )


def _feature(name: str, column: list[str]) -> tuple[np.ndarray, list[str]]:
    """float64 numbers (n, 1) and [], or one-hot (n, categories) and these."""
    values = cells.numbers(column)
    if values is not None:
        if (merged := cells.merged_numbers(column)) is not None:
            raise UserError(
                f"CSV.features: column {name!r} holds {merged[0]} and {merged[1]}, "
                "which are one number in 64 bits; subtract an offset, or leave the "
                "column out of features."
            )
        return values[:, None], []
    categories, index = np.unique(column, return_inverse=True)
    if len(categories) > max(cells.MAX_CLASSES, len(column) // 2):
        wrong = cells.first_text(column)
        raise UserError(
            f"CSV.features: column {name!r} has {len(categories)} different texts in "
            f"{len(column)} rows, too many to be categories, and {wrong!r} is no "
            "number; mend such cells or leave the column out of features."
        )
    return np.eye(len(categories))[index], categories.tolist()


def _target(
    columns: _Columns, task: str | None
) -> tuple[np.ndarray, tuple[str, ...] | None, str]:
    """y, class names and task of one or several target columns."""
    if len(columns.targets) > 1 or task == "multilabel":
        return _numeric_targets(columns, task)
    [target] = columns.targets
    column = columns.cells[target]
    if task is None:
        if (doubt := cells.doubtful_labels(column)) is not None:
            raise UserError(f"CSV.target: in column {target!r} {doubt}.")
        task = "regression" if cells.is_quantity(column) else "classification"
    if task == "classification":
        return *cells.classes(column), task
    values = cells.numbers(column)
    if values is None:
        wrong = cells.first_text(column)
        raise UserError(
            f"CSV.target: {target!r} holds texts, not numbers, such as {wrong!r}."
        )
    return values, None, task


def _numeric_targets(
    columns: _Columns, task: str | None
) -> tuple[np.ndarray, tuple[str, ...] | None, str]:
    """y, class names and task of several target columns, which must be numbers."""
    targets, values = columns.targets, []
    for name in targets:
        column = columns.cells[name]
        if task == "multilabel" and {c.lower() for c in column} <= {"true", "false"}:
            column = ["1" if cell.lower() == "true" else "0" for cell in column]
        values.append(cells.numbers(column))
    texts = [name for name, v in zip(targets, values) if v is None]
    if texts:
        raise UserError(
            f"CSV.target: of several targets each must be numbers; {texts[0]!r} is not."
        )
    names = tuple(targets) if task == "multilabel" else None
    return np.stack(values, axis=1), names, task or "regression"
