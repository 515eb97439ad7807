"""Data sets of the library `datasets`: folders of its `save_to_disk`, or in memory.

A folder is read through pyarrow alone, an object through its own interface, so the
library itself is not needed for folders and never imported.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxtl.core.errors import UserError, first_line
from jaxtl.data import arrow_columns, cells

if TYPE_CHECKING:
    import pyarrow

_OWNER = "HFDataset.dataset"
_STATE, _INFO, _SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
_SHARD = re.compile(r"-\d{5}-of-\d{5}(-[0-9a-f]+)?$")
ALL = "all"  # the split of a data set without splits


@dataclasses.dataclass(frozen=True, eq=False)
class InMemoryDatasets:
    """A `Dataset` or a dict of them, compared by identity so that it can be hashed."""

    value: Any

    def __post_init__(self):
        """Raises UserError for a value that is no data set with numbered rows."""
        for dataset in self.splits().values():
            name = type(dataset).__name__
            if name.startswith("Iterable"):
                raise UserError(
                    f"{_OWNER}: an {name} has no rows by number; store its rows first: "
                    "datasets.Dataset.from_list(list(rows)), or save_to_disk."
                )
            if not _is_dataset(dataset):
                raise UserError(
                    f"{_OWNER} must be a folder of save_to_disk, a datasets.Dataset or "
                    f"a DatasetDict; got {name}."
                )

    def __repr__(self) -> str:
        sizes = ", ".join(f"{k} {len(v)}" for k, v in self.splits().items())
        return f"<{type(self.value).__name__} of {sizes} rows>"

    def splits(self) -> dict[str, Any]:
        """Split -> `Dataset`; `ALL` for a single one."""
        is_dict = isinstance(self.value, Mapping)
        return dict(self.value) if is_dict else {ALL: self.value}

    def content_digest(self) -> str:
        """Hash of all rows, which do not change, and their types."""
        return self._digest

    @functools.cached_property
    def _digest(self) -> str:
        pa = arrow_columns.library("HFDataset")
        sha = _Hash()
        for name, table in self.tables().items():
            sha.write(f"{name}{table.schema.metadata}".encode())
            with pa.ipc.new_stream(pa.PythonFile(sha, mode="w"), table.schema) as out:
                out.write_table(table.combine_chunks())
        return sha.sha.hexdigest()

    def tables(self) -> dict[str, pyarrow.Table]:
        """Split -> its rows in order."""
        return {
            name: with_features(
                dataset.with_format("arrow")[:], dataset.features.to_dict()
            )
            for name, dataset in self.splits().items()
        }


class _Hash:
    """A file that hashes what is written to it."""

    closed = False

    def __init__(self):
        self.sha = hashlib.sha256()

    def write(self, value: Any) -> int:
        self.sha.update(value)
        return len(value)

    def flush(self) -> None:
        """There is nothing to flush."""


def _is_dataset(value: Any) -> bool:
    return hasattr(value, "with_format") and hasattr(value, "features")


def with_features(table: pyarrow.Table, features: Mapping[str, Any]) -> pyarrow.Table:
    """A table whose schema declares the types of `datasets` as its Parquet files do."""
    text = json.dumps({"info": {"features": dict(features)}}, default=str)
    return table.replace_schema_metadata({arrow_columns.FEATURES: text})


def split_folders(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Split -> folder of a folder that `save_to_disk` wrote; `ALL` for a single one.

    Raises:
      UserError: it was written by something else, or lacks a split.
    """
    if (root / _SPLITS).is_file():
        names = _json(root / _SPLITS).get("splits", ())
        folders = {name: root / name for name in names}
    else:
        folders = {ALL: root}
    for folder in folders.values():
        if not (folder / _STATE).is_file():
            raise UserError(
                f"{_OWNER}: {folder} has no {_STATE}; expected a folder that "
                "datasets.Dataset.save_to_disk or DatasetDict.save_to_disk wrote, or "
                "one of Parquet files such as train-00000-of-00001.parquet."
            )
    return folders


def read_folder(folder: pathlib.Path) -> pyarrow.Table:
    """The rows of one split, memory-mapped.

    Raises:
      UserError: a file is missing or damaged, or rows were selected but not stored.
    """
    pa = arrow_columns.library("HFDataset")
    state, info = _json(folder / _STATE), _json(folder / _INFO)
    if state.get("_indices_data_files"):
        raise UserError(
            f"{_OWNER}: {folder} stores a selection of rows beside all rows; write it "
            "anew by flatten_indices().save_to_disk."
        )
    parts = []
    for entry in state.get("_data_files", ()):
        path = folder / entry["filename"]
        try:
            with pa.ipc.open_stream(pa.memory_map(str(path))) as stream:
                parts.append(stream.read_all())
        except (OSError, ValueError) as error:  # pyarrow's errors are of these types
            raise UserError(
                f"{_OWNER}: {path} can't be read: {first_line(error)}."
            ) from None
    if not parts:
        raise UserError(f"{_OWNER}: {folder} has no rows.")
    return with_features(pa.concat_tables(parts), info.get("features") or {})


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{_OWNER}: {path} can't be read: {first_line(error)}."
        ) from None
    if not isinstance(value, dict):
        raise UserError(f"{_OWNER}: {path} holds no JSON object.")
    return value


def _parquet_files(root: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """Split -> its Parquet files, as repositories of data sets name them; or {}.

    They lie in the folder, or in its folder "data": "train-00000-of-00002.parquet".
    """
    if (root / _SPLITS).exists() or (root / _STATE).exists():
        return {}
    files = [root] if root.is_file() else sorted(root.glob("*.parquet"))
    files = files or sorted(root.glob("data/*.parquet"))
    splits: dict[str, list[pathlib.Path]] = {}
    for file in files:
        splits.setdefault(_SHARD.sub("", file.stem), []).append(file)
    return splits


def _read_parquet(files: Sequence[pathlib.Path]) -> pyarrow.Table:
    """The rows of the Parquet files of one split."""
    pa = arrow_columns.library("HFDataset")
    from pyarrow import parquet

    try:
        table = pa.concat_tables([parquet.read_table(file) for file in files])
    except (OSError, ValueError) as error:  # pyarrow's errors are of these types
        raise UserError(
            f"{_OWNER}: {files[0]} can't be read: {first_line(error)}."
        ) from None
    # Other entries, such as a fingerprint, may differ between splits.
    return with_features(table, arrow_columns.features(table.schema))


def read_splits(source: pathlib.Path | InMemoryDatasets) -> dict[str, pyarrow.Table]:
    """Split -> its table, with normalized names of columns."""
    if isinstance(source, InMemoryDatasets):
        tables = source.tables()
    elif parquet := _parquet_files(source):
        tables = {name: _read_parquet(files) for name, files in parquet.items()}
    else:
        folders = split_folders(source)
        tables = {n: read_folder(f) for n, f in folders.items()}
    return {name: _normalized(table) for name, table in tables.items()}


def _normalized(table: pyarrow.Table) -> pyarrow.Table:
    names = [*map(cells.normalized, table.column_names)]
    renamed = table.rename_columns(names)
    return renamed.replace_schema_metadata(table.schema.metadata)


def read_column(
    source: pathlib.Path | InMemoryDatasets, names: Sequence[str], column: str
) -> pyarrow.ChunkedArray:
    """A column of some splits, one after the other."""
    tables = read_splits(source)
    return concatenated({n: tables[n].select([column]) for n in names})[column]


def concatenated(tables: dict[str, pyarrow.Table]) -> pyarrow.Table:
    """The rows of all splits, which must have the same columns."""
    pa = arrow_columns.library("HFDataset")
    first = next(iter(tables.values()))
    for name, table in tables.items():
        if not table.schema.equals(first.schema, check_metadata=True):
            differing = set(table.schema) ^ set(first.schema)
            names = sorted({field.name for field in differing})
            raise UserError(
                f"HFDataset.dataset: the columns of the split {name} differ from those "
                f"of train{': ' if names else ''}{', '.join(names)}; cast both to the "
                "same features."
            )
    return pa.concat_tables(tables.values())
