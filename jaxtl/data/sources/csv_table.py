"""Tables from CSV and TSV files with a header row."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxtl.core import text_files
from jaxtl.core.errors import UserError, nearest
from jaxtl.data import origins, paths
from jaxtl.data.dataset import Data, Table

_MISSING = ("", "na", "n/a", "nan", "null", "none", "?")
# Whole-number targets with more distinct values than this are taken for quantities.
_MAX_CLASSES = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class CSV(Data):
    """A CSV or TSV file; numbers are standardized, categories become one-hot.

    Mean and standard deviation are those of the train rows (labelled or not) and are
    kept in the data set's preprocessing. A column is numeric if every cell is.

    Attributes:
      path: the file, with a header row; looked for under $JAXTL_DATA_DIR as well.
      target: the column to predict, or several (regression, or multilabel by task=).
      features: columns to predict from; None takes all others.
      task: None infers it from the target: classification for strings, and for whole
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
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))

    def read(self) -> Table:
        """Reads features in the order named, one-hot columns in sorted order."""
        columns, features, targets, lines = self._columns()
        parts, is_numeric, feature_names = [], [], []
        for name in features:
            part, categories = _feature(name, columns[name])
            parts.append(part)
            is_numeric += [not categories] * part.shape[1]
            feature_names += [f"{name}={c}" for c in categories] or [name]
        y, names, task = _target(targets, columns, self.task)
        return Table(
            x=np.concatenate(parts, axis=1),
            y=y,
            class_names=names,
            task=task,
            standardize=np.asarray(is_numeric),
            target_names=targets if task == "regression" else (),
            feature_names=tuple(feature_names),
            origins=origins.of_lines([(self.path, lines)]),
        )

    def encoding(self) -> list[dict[str, Any]]:
        """How each feature column becomes numbers, in the order of `read`.

        With it an exported model encodes rows that are not in this file.

        Returns:
          Dicts of "name" and "categories", the names of its one-hot columns in order,
          or None for a column of numbers.
        """
        columns, features, *_ = self._columns()
        return [
            {
                "name": name,
                "categories": sorted(set(columns[name]))
                if _numbers(columns[name]) is None
                else None,
            }
            for name in features
        ]

    def _columns(
        self,
    ) -> tuple[dict[str, list[str]], tuple[str, ...], tuple[str, ...], list[int]]:
        """All columns, the names of the features and of the targets, and the lines."""
        file = paths.find(self.path, "CSV.path")
        columns, lines = _read_columns(file, self.delimiter)
        targets = (self.target,) if isinstance(self.target, str) else self.target
        for name in targets:
            _check_column(name, columns, "target")
        features = self.features or tuple(c for c in columns if c not in targets)
        for name in features:
            _check_column(name, columns, "features")
            if name in targets:
                raise UserError(f"CSV.features: {name!r} is the target; leave it out.")
        if not features:
            raise UserError(f"CSV: {self.path} has no column beside the target.")
        return columns, features, targets, lines


def _read_columns(
    path: pathlib.Path, delimiter: str | None
) -> tuple[dict[str, list[str]], list[int]]:
    """Column name -> cells, all as stripped strings, and the line of each row."""
    is_tabbed = path.suffix.lower() in (".tsv", ".tab")
    delimiter = delimiter or ("\t" if is_tabbed else ",")
    lines = text_files.read_lines(path, owner="CSV.path")
    numbered = text_files.split_cells(lines, delimiter, owner=f"CSV.path: {path}")
    if len(numbered) < 2:
        raise UserError(f"CSV.path: {path} needs a header row and rows below it.")
    header = [cell.strip() for cell in numbered[0][1]]
    if len(set(header)) < len(header):
        repeated = next(name for name in header if header.count(name) > 1)
        raise UserError(f"CSV.path: {path} has two columns called {repeated!r}.")
    for number, row in numbered[1:]:
        if len(row) != len(header):
            raise UserError(
                f"CSV.path: row {number} of {path} has {len(row)} cells, "
                f"the header has {len(header)}."
            )
    columns = {
        name: [row[i].strip() for _, row in numbered[1:]]
        for i, name in enumerate(header)
    }
    return columns, [number for number, _ in numbered[1:]]


def _check_column(name: str, columns: dict[str, list[str]], field: str) -> None:
    """Raises UserError for a column that does not exist or has missing values."""
    if name not in columns:
        raise UserError(
            f"CSV.{field}: there is no column {name!r}{nearest(name, columns)}; "
            f"the columns are {', '.join(columns)}."
        )
    missing = [i for i, cell in enumerate(columns[name]) if cell.lower() in _MISSING]
    if missing:
        raise UserError(
            f"CSV.{field}: column {name!r} has {len(missing)} missing values, the "
            f"first {missing[0] + 1} rows below the header; fill them in or leave the "
            "column out."
        )


def _numbers(cells: Sequence[str]) -> np.ndarray | None:
    """The cells as float64, or None where one is no number."""
    try:
        return np.asarray([float(cell) for cell in cells])
    except ValueError:
        return None


def _feature(name: str, cells: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """float32 numbers (n, 1) and [], or one-hot (n, categories) and the categories."""
    values = _numbers(cells)
    if values is not None:
        return values[:, None].astype(np.float32), []
    categories, index = np.unique(cells, return_inverse=True)
    if len(categories) > max(_MAX_CLASSES, len(cells) // 2):
        raise UserError(
            f"CSV.features: column {name!r} has {len(categories)} different texts in "
            f"{len(cells)} rows, too many to be categories; leave it out of features."
        )
    return np.eye(len(categories), dtype=np.float32)[index], categories.tolist()


def _target(
    targets: tuple[str, ...], columns: dict[str, list[str]], task: str | None
) -> tuple[np.ndarray, tuple[str, ...] | None, str]:
    """y, class names and task of one or several target columns."""
    if len(targets) > 1:
        return _numeric_targets(targets, columns, task)
    [target] = targets
    values = _numbers(columns[target])
    is_whole = values is not None and (values == np.round(values)).all()
    if task is None:
        is_few = is_whole and len(np.unique(values)) <= _MAX_CLASSES
        task = "classification" if values is None or is_few else "regression"
    if task != "classification":
        if values is None:
            raise UserError(f"CSV.target: {target!r} holds texts, not numbers.")
        return values, None, task
    cells = values.astype(np.int64) if is_whole else np.asarray(columns[target])
    names, y = np.unique(cells, return_inverse=True)
    return y, tuple(str(name) for name in names), task


def _numeric_targets(
    targets: tuple[str, ...], columns: dict[str, list[str]], task: str | None
) -> tuple[np.ndarray, tuple[str, ...] | None, str]:
    """y, class names and task of several target columns, which must be numbers."""
    values = [_numbers(columns[name]) for name in targets]
    texts = [name for name, v in zip(targets, values) if v is None]
    if texts:
        raise UserError(
            f"CSV.target: of several targets each must be numbers; {texts[0]!r} is not."
        )
    names = tuple(targets) if task == "multilabel" else None
    return np.stack(values, axis=1), names, task or "regression"
