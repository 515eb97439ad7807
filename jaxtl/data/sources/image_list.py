"""Image files that a table lists, with their labels beside their paths."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib

import numpy as np

from jaxtl.core import files, progress
from jaxtl.core.errors import UserError, nearest
from jaxtl.data import cells, paths
from jaxtl.data.columns import Columns
from jaxtl.data.dataset import Table
from jaxtl.data.image_sets import ImageFiles
from jaxtl.data.image_stores import ImagePaths
from jaxtl.data.sources import table_files
from jaxtl.data.sources.csv_table import CSV


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageList(ImageFiles):
    """Images whose paths and labels are columns of a CSV, JSON or Parquet file.

    `ImageList("scans.csv", target="grade", image="file")`. Labels are read as those of
    `CSV` are: one column of classes or numbers, several of numbers (regression),
    several of 0 and 1 by task="multilabel", or one of lists of labels.
    `image_sets.ImageFiles` tells how pictures are read; columns beside these are not.

    Attributes:
      path: the file, of CSV with a header row; looked for under $JAXTL_DATA_DIR as
        well.
      target: the column to predict, or several.
      image: the column of the paths of the images.
      root: the folder that relative paths are below, itself looked for under
        $JAXTL_DATA_DIR as well; None is the folder of the file.
      task, delimiter, encoding: as in `CSV`.
    """

    path: str = dataclasses.field(kw_only=False)
    target: str | tuple[str, ...]
    image: str = "path"
    root: str | None = None
    task: str | None = None
    delimiter: str | None = None
    encoding: str = "utf-8"

    def __post_init__(self):
        super().__post_init__()
        rows = self._rows()
        object.__setattr__(self, "target", rows.target)
        targets = (rows.target,) if isinstance(rows.target, str) else rows.target
        if cells.normalized(self.image) in targets:
            raise UserError(f"ImageList.image: {self.image!r} is the target, too.")

    def read(self) -> Table:
        """Reads the list, looks for all files, checks their headers, and decodes them
        where they fit.
        """
        rows = self._rows()
        table = self._table()
        targets, labels, groups, weights = rows.read_labels(table)
        names, root = self._names(table), self._folder()
        _check_files(root, names, table)
        pictures = self.read_pictures(ImagePaths(str(root), tuple(names)))
        kept = pictures.kept
        used = {cells.normalized(self.image), *targets, self.split_by}
        unused = [n for n in table.columns if n not in used | {self.sample_weight}]
        notes = [f"columns that are not used: {', '.join(unused)}"] if unused else []
        return Table(
            x=pictures.x,
            y=labels.y[kept],
            class_names=labels.class_names,
            task=labels.task,
            target_names=targets if labels.task == "regression" else (),
            preprocess=pictures.preprocess,
            origins=table.origins.select(kept),
            digests=pictures.digests,
            notes=(*table.notes, *labels.notes, *notes, *pictures.notes),
            groups=None if groups is None else groups[kept],
            weights=None if weights is None else weights[kept],
        )

    def files(self) -> tuple[pathlib.Path, ...]:
        """The list, and the folders that its images lie in."""
        folders = {os.path.dirname(path) for path in self._image_paths()}
        tops = [
            pathlib.Path(folder)
            for folder in sorted(folders)
            if not any(str(p) in folders for p in pathlib.Path(folder).parents)
        ]
        return (paths.find(self.path, "ImageList.path"), *tops)

    def file_states(self) -> tuple[files.FileState, ...]:
        """The states of the list and of its images, not of others in their folders."""
        path = paths.find(self.path, "ImageList.path")
        return files.states([path, *dict.fromkeys(self._image_paths())])

    def _image_paths(self) -> list[str]:
        root = self._folder()
        return [os.path.join(root, name) for name in self._names(self._table())]

    def _table(self) -> Columns:
        """All columns of the list, parsed once while its file stays as it is."""
        path = paths.find(self.path, "ImageList.path")
        return _parsed(self._rows(), files.states([path]))

    def _rows(self) -> _Rows:
        """The list as a table, which reads the labels."""
        options = ("path", "target", "task", "delimiter", "encoding", "split_by")
        chosen = {name: getattr(self, name) for name in (*options, "sample_weight")}
        return _Rows(**chosen)

    def _folder(self) -> pathlib.Path:
        if self.root is not None:
            return paths.find(self.root, "ImageList.root")
        return paths.find(self.path, "ImageList.path").parent

    def _names(self, table: Columns) -> list[str]:
        """The paths as they are listed; each row has one."""
        name = cells.normalized(self.image)
        if name not in table.columns:
            raise UserError(
                f"ImageList.image: there is no column {name!r}"
                f"{nearest(name, table.columns)}; the columns are "
                f"{', '.join(table.columns)}."
            )
        if table.columns[name].texts is None:
            raise UserError(
                f"ImageList.image: column {name!r} holds no texts; expected the path "
                "of an image in each row."
            )
        names = list(table.columns[name].texts)
        blank = [row for row, text in enumerate(names) if not text]
        if blank:
            raise UserError(
                f"ImageList.image: column {name!r} has {len(blank)} rows without a "
                f"path, the first in {table.place(blank[0])}."
            )
        return names


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rows(CSV):
    """The table of an image list in any format, named so in messages."""

    _owner = "ImageList"

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
def _parsed(rows: _Rows, states: tuple[files.FileState, ...]) -> Columns:
    """The columns of a list whose file is in some state."""
    return rows.read_columns()


def _check_files(root: pathlib.Path, names: list[str], table: Columns) -> None:
    """Raises UserError that lists the files which are not there."""
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
        f"ImageList: {len(absent)} of {len(names)} images are not in {root}:\n  "
        f"{shown}{more}\nroot= names the folder that paths are relative to."
    )
