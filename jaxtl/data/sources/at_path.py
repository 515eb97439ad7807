"""A source that reads another file as it reads its own, to evaluate a model on it."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxtl.core import text_files
from jaxtl.core.errors import UserError
from jaxtl.data.dataset import UNIFORM, Data
from jaxtl.data.sources.csv_table import CSV
from jaxtl.data.sources.hf_dataset import HFDataset
from jaxtl.data.sources.json_table import JSON
from jaxtl.data.sources.parquet import Parquet
from jaxtl.data.sources.table_files import JSON_SUFFIXES, PARQUET_SUFFIXES
from jaxtl.data.tabular import Tabular

# Options of training rows -> what they are where all rows are evaluated.
_ALL_ROWS = {
    "labels_per_class": None,
    "labels": None,
    "label_noise": 0.0,
    "limit": None,
    "sampling": UNIFORM,
    "split_by": None,
    "val": 0,
    "test": 1.0,
}
_SPLIT_FILES = ("path", "val_path", "labels_path")


def at_path(data: Data, path: str) -> Data:
    """A source like another one, at another place; all of its rows are test rows.

    Where a folder has splits of its own, they stay. Tables may be of another format.

    Args:
      data: a source of files; its other options stay, but for those of training rows.
      path: of a file or folder.

    Raises:
      UserError: a source that reads no file.
    """
    fields = {field.name for field in dataclasses.fields(data)}
    if isinstance(data, CSV | JSON | Parquet):
        return _table(data, path)
    if "test_path" in fields:
        others = {name: None for name in _SPLIT_FILES if name in fields}
        in_memory = [n for n in ("x", "y") if not isinstance(getattr(data, n, ""), str)]
        if in_memory:
            raise _no_files(data)
        return _changed(data, **others, test_path=path)
    if isinstance(data, HFDataset):
        return _changed(data, dataset=path)
    if "path" not in fields:
        raise _no_files(data)
    return _changed(data, path=path)


def _table(data: Tabular, path: str) -> Data:
    """A table of the format that the file's suffix says."""
    kinds = dict.fromkeys(JSON_SUFFIXES, JSON) | dict.fromkeys(
        PARQUET_SUFFIXES, Parquet
    )
    kind = kinds.get(text_files.suffix(path), CSV)
    if isinstance(data, kind):
        return _changed(data, path=path)
    shared = [f.name for f in dataclasses.fields(Tabular)]
    return _changed(kind(path, **{name: getattr(data, name) for name in shared}))


def _changed(data: Data, **changes: Any) -> Data:
    return dataclasses.replace(data, **_ALL_ROWS, **changes)


def _no_files(data: Data) -> UserError:
    kind = type(data).__name__
    return UserError(
        f"the data of the run, {kind}, are not those of a file, so how to read another "
        "one is not known: write an experiment file whose data= are the new ones, and "
        "name that."
    )
