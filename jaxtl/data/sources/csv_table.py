"""Tables: CSV and TSV files with a header row."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.data import paths
from jaxtl.data.dataset import Data, Table

_MISSING = ("", "na", "n/a", "nan", "null", "none", "?")
# Whole-number targets with more distinct values than this are taken for quantities.
_FEW = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class CSV(Data):
    """A CSV or TSV file; numbers are standardised, categories become one-hot.

    Mean and standard deviation are those of the train rows (labelled or not) and are
    kept in the data set's preprocessing. A column is numeric if every cell is.

    Attributes:
      path: the file, with a header row; looked for under $JAXTL_DATA_DIR as well.
      target: the column to predict, or several (regression; multilabel if asked for).
      features: columns to predict from; None takes all others.
      task: None infers: strings, and whole numbers of at most 20 values, are classes;
        other numbers are regression.
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
        """Returns features in the order named, one-hot columns in sorted order."""
        columns, features, targets = self._chosen()
        parts, numeric = [], []
        for name in features:
            part, is_number = _feature(name, columns[name])
            parts.append(part)
            numeric += [is_number] * part.shape[1]
        y, names, task = _target(targets, columns, self.task)
        return Table(
            x=np.concatenate(parts, axis=1),
            y=y,
            class_names=names,
            task=task,
            standardize=np.asarray(numeric),
        )

    def encoding(self) -> list[dict]:
        """Returns how each feature column becomes numbers, in the order of `read`.

        {"name", "categories": those of its one-hot columns, or None for a number}; by
        it an exported model reads rows that are not in this file.
        """
        columns, features, _ = self._chosen()
        return [
            {
                "name": name,
                "categories": sorted(set(columns[name]))
                if _numbers(columns[name]) is None
                else None,
            }
            for name in features
        ]

    def _chosen(self) -> tuple[dict[str, list[str]], tuple, tuple]:
        """Returns all columns, and the names of the features and the targets."""
        columns = _columns(paths.find(self.path, "CSV.path"), self.delimiter)
        targets = (self.target,) if isinstance(self.target, str) else self.target
        for name in targets:
            _known(name, columns, "target")
        features = self.features or tuple(c for c in columns if c not in targets)
        for name in features:
            _known(name, columns, "features")
            if name in targets:
                raise UserError(f"CSV.features: {name!r} is the target.")
        if not features:
            raise UserError(f"CSV: {self.path} has no column beside the target.")
        return columns, features, targets


def _columns(path, delimiter) -> dict[str, list[str]]:
    """Column name -> cells, all as stripped strings, no cell missing."""
    tabs = path.suffix.lower() in (".tsv", ".tab")
    delimiter = delimiter or ("\t" if tabs else ",")
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.reader(file, delimiter=delimiter))
    rows = [(line, row) for line, row in enumerate(rows, 1) if row]
    if len(rows) < 2:
        raise UserError(f"CSV.path: {path} needs a header row and rows below it.")
    header = [cell.strip() for cell in rows[0][1]]
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise UserError(f"CSV.path: {path} has two columns called {twice!r}.")
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise UserError(
                f"CSV.path: row {line} of {path} has {len(row)} cells, "
                f"the header has {len(header)}."
            )
    columns = {}
    for place, name in enumerate(header):
        cells = [row[place].strip() for _, row in rows[1:]]
        columns[name] = cells
    return columns


def _known(name, columns, field):
    if name not in columns:
        raise UserError(
            f"CSV.{field}: there is no column {name!r}{nearest(name, columns)}; "
            f"the columns are {', '.join(columns)}."
        )
    missing = [i for i, cell in enumerate(columns[name]) if cell.lower() in _MISSING]
    if missing:
        raise UserError(
            f"CSV.{field}: column {name!r} has {len(missing)} missing values, the first"
            f" {missing[0] + 1} rows below the header; fill them in or leave it out."
        )


def _numbers(cells) -> np.ndarray | None:
    """float64 values, or None where a cell is no number."""
    try:
        return np.asarray([float(cell) for cell in cells])
    except ValueError:
        return None


def _feature(name, cells) -> tuple[np.ndarray, bool]:
    """float32 (n, 1) numbers or (n, categories) one-hot, and whether it is numbers."""
    values = _numbers(cells)
    if values is not None:
        return values[:, None].astype(np.float32), True
    categories, place = np.unique(cells, return_inverse=True)
    if len(categories) > max(_FEW, len(cells) // 2):
        raise UserError(
            f"CSV.features: column {name!r} has {len(categories)} different texts in "
            f"{len(cells)} rows, too many to be categories; leave it out of features."
        )
    return np.eye(len(categories), dtype=np.float32)[place], False


def _target(targets, columns, task):
    """y, class names and task of one or several target columns."""
    values = [_numbers(columns[name]) for name in targets]
    if len(targets) > 1:
        texts = [n for n, v in zip(targets, values) if v is None]
        if texts:
            raise UserError(
                f"CSV.target: of several targets each must be numbers; {texts[0]!r} "
                "is not."
            )
        y = np.stack(values, axis=1)
        names = tuple(targets) if task == "multilabel" else None
        return y, names, task or "regression"
    value = values[0]
    whole = value is not None and (value == np.round(value)).all()
    if task is None:
        few = whole and len(np.unique(value)) <= _FEW
        task = "classification" if value is None or few else "regression"
    if task != "classification":
        if value is None:
            raise UserError(f"CSV.target: {targets[0]!r} holds texts, not numbers.")
        return value, None, task
    cells = value.astype(np.int64) if whole else np.asarray(columns[targets[0]])
    names, y = np.unique(cells, return_inverse=True)
    return y, tuple(str(name) for name in names), task
