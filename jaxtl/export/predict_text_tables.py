"""Texts from the columns of tables, for predictions of a model of texts."""

import pathlib
import sys
from collections.abc import Sequence

from jaxtl.core import text_files
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.names import listing
from jaxtl.data import cells, origins
from jaxtl.data.sources import table_files
from jaxtl.export.predictor import Predictor

COLUMNS = "text_columns"  # entry of export.json
_USUAL = "text"  # column of exports that store none
# Cells of a first row that name columns rather than being a text.
_HEADERS = ("text", "sentence", "sentence1", "review", "question", "content", "label")


def read_text_table(
    predictor: Predictor, file: pathlib.Path
) -> tuple[list, origins.Origins]:
    """Reads the texts, or pairs of texts, of a table, and where each was read.

    The columns are those that the model was trained on, by name; other columns (the
    label, say) are ignored.

    Raises:
      UserError: no such column, or one without texts.
    """
    stored = predictor.metadata.get(COLUMNS)
    names = stored or [_USUAL] * (1 + predictor.takes_pairs)
    if table_files.is_typed(file):
        columns, rows = _typed(predictor, file, names)
    else:
        columns, rows = _cells(file, names)
    if not len(rows):
        raise UserError(f"{file} holds no text.")
    return (list(zip(*columns)) if predictor.takes_pairs else list(columns[0])), rows


def _typed(
    predictor: Predictor, file: pathlib.Path, names: Sequence[str | int]
) -> tuple[list[Sequence[str]], origins.Origins]:
    """Columns of a JSON, Parquet or Arrow file."""
    table = table_files.read_columns(str(file), predictor.name, missing=())
    header = list(table.columns)
    columns = []
    for name in names:
        index = _index(file, name, header)
        if index >= len(header):
            raise UserError(
                f"{file} has {len(header)} columns; the model reads texts from the "
                f"column {index}, counted from 0."
            )
        column = table.columns[header[index]]
        if column.written is None or column.is_missing.any():
            raise UserError(
                f"{file}: the column {name!r} lacks a text in some of its rows."
            )
        columns.append(column.written)
    return columns, table.origins


def _cells(
    file: pathlib.Path, names: Sequence[str | int]
) -> tuple[list[Sequence[str]], origins.Origins]:
    """Columns of a CSV or TSV file; a tab-separated one has no quotation marks."""
    delimiter = text_files.DELIMITERS[text_files.suffix(file)]
    lines = text_files.read_lines(file, owner=str(file))
    rows = text_files.split_cells(lines, delimiter, delimiter != "\t", str(file))
    first = [cells.normalized(cell) for cell in rows[0][1]] if rows else []
    has_names = any(isinstance(name, str) for name in names)
    if not has_names and {cell.lower() for cell in first} & {*_HEADERS}:
        print(f"{file}: the first line is read as a header", file=sys.stderr)
        rows = rows[1:]
    elif has_names:
        rows = rows[1:]
    indices = [_index(file, name, first) for name in names]
    for number, row in rows:
        if len(row) <= max(indices):
            raise UserError(
                f"{file}, line {number}: {len(row)} cells where at least "
                f"{max(indices) + 1} are expected."
            )
    columns = [[row[i] for _, row in rows] for i in indices]
    return columns, origins.of_lines([(file, [number for number, _ in rows])])


def _index(file: pathlib.Path, name: str | int, header: list[str]) -> int:
    if isinstance(name, int):
        return name
    key = cells.normalized(name)
    if header.count(key) != 1:
        problem = "two columns" if key in header else "no column"
        raise UserError(
            f"{file} has {problem} {key!r} of texts{nearest(key, header)} (columns: "
            f"{listing(header) or 'none'})."
        )
    return header.index(key)
