"""Tables from CSV and TSV files with a header row."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jaxtl.core import text_files
from jaxtl.core.errors import UserError
from jaxtl.core.serialization import later_field
from jaxtl.data import cells, columns, origins, paths
from jaxtl.data.columns import Columns
from jaxtl.data.tabular import Tabular


@dataclasses.dataclass(frozen=True, kw_only=True)
class CSV(Tabular):
    """A CSV or TSV file; numbers are standardized, categories become one-hot.

    A column is numeric if every cell with a value is a decimal number. Labels, missing
    values and unseen categories are as in `tabular.Tabular`.

    Attributes:
      path: the file, with a header row, as it is or compressed (.csv.gz); looked for
        under $JAXTL_DATA_DIR as well.
      delimiter: None is a tab for .tsv and .tab, else a comma.
      encoding: of the file's characters, such as "cp1252"; a byte order mark is left
        out.
    """

    path: str = dataclasses.field(kw_only=False)
    delimiter: str | None = None
    encoding: str = later_field("utf-8")

    def read_columns(self) -> Columns:
        """Column name -> cells, all normalized."""
        return read_csv(
            self.path, self.delimiter, self.encoding, self.missing_values, self._owner
        )


def read_csv(
    path: str,
    delimiter: str | None,
    encoding: str,
    missing: Sequence[str],
    owner: str,
) -> Columns:
    """Column name -> cells of a CSV or TSV file, all normalized.

    Args:
      path, delimiter, encoding: as of `CSV`.
      missing: lower-case texts that hold no value.
      owner: the source that names the file, for messages.
    """
    file = paths.find(path, f"{owner}.path")
    if delimiter is None:
        delimiter = text_files.DELIMITERS.get(text_files.suffix(file), ",")
    lines = text_files.read_lines(file, encoding, f"{owner}.encoding")
    rows = text_files.split_cells(lines, delimiter, owner=f"{owner}.path: {file}")
    if len(rows) < 2:
        raise UserError(f"{owner}.path: {file} needs a header row and rows below it.")
    header = [cells.normalized(cell) for cell in rows[0][1]]
    if (name := cells.repeated(header)) is not None:
        raise UserError(f"{owner}.path: {file} has two columns called {name!r}.")
    for number, row in rows[1:]:
        if len(row) != len(header):
            raise UserError(
                f"{owner}.path: row {number} of {file} has {len(row)} cells, "
                f"the header has {len(header)}."
            )
    by_column = zip(*(row for _, row in rows[1:]))
    written = {name: list(column) for name, column in zip(header, by_column)}
    normalized = {name: cells.all_normalized(c) for name, c in written.items()}
    notes = [
        note
        for name, column in written.items()
        if normalized[name] != column
        for note in cells.merged_forms(column, f"in column {name!r}")
    ]
    table = {n: columns.of_texts(column, missing) for n, column in normalized.items()}
    numbers = [number for number, _ in rows[1:]]
    return Columns(table, origins.of_lines([(path, numbers)]), notes)
