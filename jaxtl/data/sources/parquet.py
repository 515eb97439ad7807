"""Tables from Parquet and Arrow files, read by pyarrow."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxtl.core.errors import UserError, first_line
from jaxtl.data import arrow_columns, paths
from jaxtl.data.columns import Columns
from jaxtl.data.sources.split_names import check_one_split
from jaxtl.data.tabular import Tabular

if TYPE_CHECKING:
    import pyarrow

IPC_SUFFIXES = (".feather", ".arrow", ".ipc")  # of Arrow files and streams


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parquet(Tabular):
    """A Parquet or Arrow (Feather) file, or a folder of Parquet files of one schema.

    Columns keep their types: numbers are numbers, texts and booleans are categories,
    nulls and NaN are missing; an ordered categorical column keeps the order of its
    categories as classes. The other options are those of `CSV`.

    Attributes:
      path: the file, or the folder; looked for under $JAXTL_DATA_DIR as well.
    """

    path: str = dataclasses.field(kw_only=False)

    def read_columns(self) -> Columns:
        """Column name -> column."""
        return read_parquet(self.path, self.missing_values, self._owner)


def read_parquet(path: str, missing: Sequence[str], owner: str) -> Columns:
    """Column name -> column of a Parquet or Arrow file, or of a folder of these.

    Args:
      path: as of `Parquet`.
      missing: lower-case texts that hold no value.
      owner: the source that names the file, for messages.
    """
    file = paths.find(path, f"{owner}.path")
    table = read_table(file, f"{owner}.path")
    return arrow_columns.table_columns(table, path, missing, f"{owner}.path: {file}")


def read_table(path: pathlib.Path, owner: str) -> pyarrow.Table:
    """Reads a Parquet or Arrow file, or a folder of Parquet files.

    Args:
      path: of the file or folder.
      owner: the option that names it, for messages.

    Raises:
      UserError: pyarrow is missing, the file can't be read, or the folder has files of
        several splits.
    """
    arrow_columns.library(owner.split(".")[0])
    if path.is_dir():
        names = (file.relative_to(path).as_posix() for file in path.rglob("*.*"))
        check_one_split(
            sorted(names),
            f"{owner}: {path}",
            "name the file of one, or read the folder by HFDataset, which keeps the "
            "splits apart",
        )
    try:
        return _read(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are of these types
        raise UserError(
            f"{owner}: {path} can't be read: {first_line(error)}."
        ) from None


def _read(path: pathlib.Path) -> pyarrow.Table:
    import pyarrow.feather
    import pyarrow.ipc
    import pyarrow.parquet

    if path.is_dir() or path.suffix.lower() not in IPC_SUFFIXES:
        return pyarrow.parquet.read_table(path)
    with path.open("rb") as file:
        is_file = file.read(6) == b"ARROW1"
    if is_file:
        return pyarrow.feather.read_table(path)
    with pyarrow.ipc.open_stream(path) as stream:
        return stream.read_all()
