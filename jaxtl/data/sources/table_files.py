"""The columns of a table's file, whatever its format."""

from __future__ import annotations

import os
from collections.abc import Sequence

from jaxtl.core import text_files
from jaxtl.core.errors import UserError
from jaxtl.data import cells
from jaxtl.data.columns import Columns
from jaxtl.data.sources.csv_table import read_csv
from jaxtl.data.sources.json_table import read_json
from jaxtl.data.sources.parquet import IPC_SUFFIXES, read_parquet

LINE_SUFFIXES = (".jsonl", ".ndjson")  # of JSON with an object in each line
JSON_SUFFIXES = (".json", *LINE_SUFFIXES)
PARQUET_SUFFIXES = (".parquet", ".pq", *IPC_SUFFIXES)


def is_typed(path: str | os.PathLike) -> bool:
    """Whether a file stores columns with types: JSON, Parquet, Arrow, by its name."""
    return text_files.suffix(path) in (*JSON_SUFFIXES, *PARQUET_SUFFIXES)


def read_columns(
    path: str,
    owner: str,
    *,
    delimiter: str | None = None,
    encoding: str | None = None,
    missing: Sequence[str] = cells.MISSING,
) -> Columns:
    """Column name -> column of a CSV, TSV, JSON, Parquet or Arrow file.

    Args:
      path: the file, by its suffix; others are CSV.
      owner: the source that names the file, for messages.
      delimiter: of CSV alone; None as `CSV` has it.
      encoding: of the characters of CSV and JSON; None for utf-8.
      missing: lower-case texts that hold no value.

    Raises:
      UserError: an option that the format does not have; what the formats' sources
        refuse.
    """
    suffix = text_files.suffix(path)
    unused = {"delimiter": delimiter} if is_typed(path) else {}
    if suffix in PARQUET_SUFFIXES:
        unused["encoding"] = encoding
    for name, value in unused.items():
        if value is not None:
            raise UserError(
                f"{owner}.{name}={value!r} has no meaning for a {suffix} file; leave "
                "it out."
            )
    if suffix in JSON_SUFFIXES:
        return read_json(path, encoding or "utf-8", missing, owner)
    if suffix in PARQUET_SUFFIXES:
        return read_parquet(path, missing, owner)
    return read_csv(path, delimiter, encoding or "utf-8", missing, owner)
