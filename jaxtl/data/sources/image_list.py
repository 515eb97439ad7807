"""Image files that a table lists, with their labels beside their paths."""

from __future__ import annotations

import dataclasses

from jaxtl.core.errors import UserError
from jaxtl.core.serialization import later_field
from jaxtl.data import cells
from jaxtl.data.dataset import Table
from jaxtl.data.image_stores import ImagePaths
from jaxtl.data.sources.listed_images import ListedImages, ListRows


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageList(ListedImages):
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
      task, delimiter, encoding, missing_values: as in `CSV`; ("",) where "none" or "NA"
        is a class.
    """

    target: str | tuple[str, ...]
    task: str | None = None
    delimiter: str | None = None
    encoding: str = "utf-8"
    missing_values: tuple[str, ...] = later_field(cells.MISSING)

    def __post_init__(self):
        super().__post_init__()
        rows = self.rows()
        object.__setattr__(self, "target", rows.target)
        object.__setattr__(self, "missing_values", rows.missing_values)
        targets = (rows.target,) if isinstance(rows.target, str) else rows.target
        if cells.normalized(self.image) in targets:
            raise UserError(f"ImageList.image: {self.image!r} is the target, too.")

    def read(self) -> Table:
        """Reads the list, looks for all files, checks their headers, and decodes them
        where they fit.
        """
        rows = self.rows()
        table = self.table()
        targets, labels, groups, weights = rows.read_labels(table)
        names = self.image_names(table)
        self.check_files(names, table)
        pictures = self.read_pictures(ImagePaths(str(self.folder()), tuple(names)))
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

    def rows(self) -> _Rows:
        """The list as a table, which reads the labels."""
        options = ("path", "target", "task", "delimiter", "encoding", "split_by")
        options = (*options, "sample_weight", "missing_values")
        chosen = {name: getattr(self, name) for name in options}
        return _Rows(**chosen)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rows(ListRows):
    """The table of an image list, named so in messages."""

    _owner = "ImageList"
