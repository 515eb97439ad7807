"""Predictions as files: CSV, TSV, JSON or JSON lines, by the name."""

import csv
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtl.core import atomic
from jaxtl.core.errors import UserError

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl")


def check(path: pathlib.Path) -> None:
    """Raises UserError for a name of no known format, before any work."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"--out: {path} can't be written: expected a name ending in "
            f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}."
        )


def write(rows: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
    """Writes a row per example; numbers have all of their digits.

    Args:
      rows: of `export.predict.predict`; a column that a row lacks stays empty.
      path: of the file, replaced if there is one.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        text = json.dumps(list(rows), indent=1, ensure_ascii=False) + "\n"
    elif suffix == ".jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        file = io.StringIO()
        columns = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(
            file,
            columns,
            delimiter="," if suffix == ".csv" else "\t",
            lineterminator="\n",
        )
        writer.writeheader()
        writer.writerows(rows)
        text = file.getvalue()
    atomic.write_text(path, text)
