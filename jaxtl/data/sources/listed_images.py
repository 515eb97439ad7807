"""Sources whose images are files that a table lists, one in each row."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import unicodedata
from collections.abc import Sequence

import numpy as np

from jaxtl.core import files, progress
from jaxtl.core.errors import UserError, nearest
from jaxtl.data import cells, paths
from jaxtl.data.columns import Column, Columns
from jaxtl.data.image_sets import ImageFiles
from jaxtl.data.sources import table_files
from jaxtl.data.sources.csv_table import CSV


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListedImages(ImageFiles):
    """Images whose paths are a column of a file.

    Attributes:
      path: the file; looked for under $JAXTL_DATA_DIR as well.
      image: the column of the paths of the images.
      root: the folder that relative paths are below, itself looked for under
        $JAXTL_DATA_DIR as well; None is the folder of the file.
    """

    path: str = dataclasses.field(kw_only=False)
    image: str = "path"
    root: str | None = None

    def rows(self) -> ListRows:
        """The list as a table; each source implements it."""
        raise TypeError(f"{self._owner} defines no rows()")

    def files(self) -> tuple[pathlib.Path, ...]:
        """The list, and the folders that its images lie in."""
        folders = {os.path.dirname(path) for path in self._image_paths()}
        tops = [
            pathlib.Path(folder)
            for folder in sorted(folders)
            if not any(str(p) in folders for p in pathlib.Path(folder).parents)
        ]
        return (paths.find(self.path, f"{self._owner}.path"), *tops)

    def file_states(self) -> tuple[files.FileState, ...]:
        """The states of the list and of its images, not of others in their folders."""
        path = paths.find(self.path, f"{self._owner}.path")
        return files.states([path, *dict.fromkeys(self._image_paths())])

    @property
    def _owner(self) -> str:
        return type(self).__name__

    def _image_paths(self) -> list[str]:
        root = self.folder()
        return [os.path.join(root, name) for name in self.image_names(self.table())]

    def table(self) -> Columns:
        """All columns of the list, parsed once while its file stays as it is."""
        path = paths.find(self.path, f"{self._owner}.path")
        return _parsed(self.rows(), files.states([path]))

    def folder(self) -> pathlib.Path:
        """The folder that relative paths are below."""
        if self.root is not None:
            return paths.find(self.root, f"{self._owner}.root")
        return paths.find(self.path, f"{self._owner}.path").parent

    def image_names(self, table: Columns) -> list[str]:
        """The paths as they are listed; each row has one.

        Raises:
          UserError: there is no such column, or a row without a path.
        """
        name = cells.normalized(self.image)
        column = self.column(table, "image")
        if column.texts is None:
            raise UserError(
                f"{self._owner}.image: column {name!r} holds no texts; expected the "
                "path of an image in each row."
            )
        names = list(column.texts)
        blank = [row for row, text in enumerate(names) if not text]
        if blank:
            raise UserError(
                f"{self._owner}.image: column {name!r} has {len(blank)} rows without a "
                f"path, the first in {table.place(blank[0])}."
            )
        root = self.folder()
        return [name if name.isascii() else _as_stored(root, name) for name in names]

    def column(self, table: Columns, field: str) -> Column:
        """The column that a field names; UserError where there is none."""
        name = cells.normalized(getattr(self, field))
        if name not in table.columns:
            raise UserError(
                f"{self._owner}.{field}: there is no column {name!r}"
                f"{nearest(name, table.columns)}; the columns are "
                f"{', '.join(table.columns)}."
            )
        return table.columns[name]

    def check_files(self, names: Sequence[str], table: Columns) -> None:
        """Raises UserError that lists the files which are not there."""
        root = self.folder()
        exists = {
            name: os.path.isfile(os.path.join(root, name))
            for name in progress.track(dict.fromkeys(names), "looking for images")
        }
        absent = np.flatnonzero([not exists[name] for name in names])
        if not len(absent):
            return
        shown = "\n  ".join(f"{table.place(row)}: {names[row]}" for row in absent[:50])
        more = f"\n  … {len(absent) - 50} more" if len(absent) > 50 else ""
        raise UserError(
            f"{self._owner}: {len(absent)} of {len(names)} images are not in {root}:"
            f"\n  {shown}{more}\nroot= names the folder that paths are relative to."
        )


def _as_stored(root: pathlib.Path, name: str) -> str:
    """A path in the Unicode form of the file's name; macOS decomposes letters (NFD)."""
    forms = (name, unicodedata.normalize("NFD", name))
    return next((f for f in forms if os.path.isfile(os.path.join(root, f))), name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListRows(CSV):
    """The table of a list in any format; a source names itself by `_owner`."""

    def read_columns(self) -> Columns:
        """Column name -> column."""
        return table_files.read_columns(
            self.path,
            self._owner,
            delimiter=self.delimiter,
            encoding=None if self.encoding == "utf-8" else self.encoding,
            missing=self.missing_values,
        )


@functools.lru_cache(maxsize=4)
def _parsed(rows: ListRows, states: tuple[files.FileState, ...]) -> Columns:
    """The columns of a list whose file is in some state."""
    return rows.read_columns()
