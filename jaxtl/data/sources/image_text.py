"""Images with texts: a list of paths and captions in CSV, JSON or Parquet."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.data import cells
from jaxtl.data.columns import Column, Columns
from jaxtl.data.dataset import CONTRASTIVE, Table
from jaxtl.data.image_sets import Pictures
from jaxtl.data.image_stores import ImagePaths
from jaxtl.data.preprocess import IMAGE
from jaxtl.data.sources.listed_images import ListedImages, ListRows
from jaxtl.data.text_columns import TextData, fields, text_digests


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageText(ListedImages, TextData):
    """Images and the texts that describe them, a pair in each row of a list.

    `ImageText("captions.csv", image="file", text="caption")`: CSV with a header,
    JSON, JSON lines, Parquet. An image with several texts has a row for each, or a list
    of them (JSON, Parquet): they lie in one split, and in the metrics (recall) each is
    right. In training all other pairs of a batch are negatives.

    Attributes:
      text: the column of the texts, which are taken as they are.
      delimiter, encoding: as in `CSV`.
    """

    image: str = "image"
    text: str = "text"
    delimiter: str | None = None
    encoding: str = "utf-8"

    def __post_init__(self):
        super().__post_init__()
        if cells.normalized(self.image) == cells.normalized(self.text):
            raise UserError(f"ImageText.text: {self.text!r} is the image, too.")

    def read(self) -> Table:
        """Reads the list, looks for all files, checks their headers, and decodes them
        where they fit.
        """
        table = self.table()
        captions = _captions(self.column(table, "text"))
        row = np.repeat(np.arange(len(captions)), [len(texts) for texts in captions])
        listed = self.image_names(table)
        self.check_files(listed, table)
        names = [listed[i] for i in row]
        pictures = self.read_pictures(ImagePaths(str(self.folder()), tuple(names)))
        row = row[pictures.kept]
        flat = [text for texts in captions for text in texts]
        texts = [flat[i] for i in pictures.kept]
        distinct = dict.fromkeys(listed[i] for i in row)
        number_of = {name: i for i, name in enumerate(distinct)}
        y = np.asarray([number_of[listed[i]] for i in row], np.int32)
        groups, weights = self.rows().row_values(table)
        if groups is None and y.max() + 1 < len(y):
            groups = np.asarray(listed)
        return Table(
            **self._inputs(pictures, texts),
            y=y,
            task=CONTRASTIVE,
            preprocess=pictures.preprocess,
            origins=table.origins.select(row),
            notes=(*self._notes(table, captions, texts, y), *pictures.notes),
            groups=None if groups is None else groups[row],
            weights=None if weights is None else weights[row],
        )

    def rows(self) -> _Rows:
        """The list as a table."""
        names = ("path", "delimiter", "encoding", "split_by", "sample_weight")
        return _Rows(
            **{name: getattr(self, name) for name in names},
            target=self.text,
            features=(self.image,),
            missing_values=("",),  # any text is a caption, "NA" as well
        )

    def _inputs(self, pictures: Pictures, texts: Sequence[str]) -> dict[str, Any]:
        """The fields of a `Table` that hold images and texts."""
        values = fields(self, [texts], "word_piece")
        of_pictures = [digest.decode() for digest in pictures.digests]
        values["digests"] = text_digests(zip(of_pictures, texts))
        return {**values, "x": {IMAGE: pictures.x, **values["x"]}}

    def _notes(
        self,
        table: Columns,
        captions: Sequence[Sequence[str]],
        texts: Sequence[str],
        y: np.ndarray,
    ) -> tuple[str, ...]:
        """What the list holds beside pairs of one image and one text."""
        used = {cells.normalized(self.image), cells.normalized(self.text)}
        used |= {str(self.split_by), str(self.sample_weight)}
        unused = [name for name in table.columns if name not in used]
        images, blank = y.max() + 1, sum(not text.strip() for text in texts)
        empty = sum(not of_row for of_row in captions)
        notes = {
            f"columns that are not used: {', '.join(unused)}": bool(unused),
            f"{images:,} images have {len(y):,} texts": images < len(y),
            f"{blank} of {len(texts)} texts are blank": bool(blank),
            f"{empty} rows have an empty list of texts and are left out": bool(empty),
        }
        return (*table.notes, *(note for note, applies in notes.items() if applies))


def _captions(column: Column) -> list[Sequence[str]]:
    """The texts of each row."""
    if column.lists is not None:
        return list(column.lists)
    return [(text,) for text in column.written or column.labels]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rows(ListRows):
    """The rows of a list, with their groups and weights."""

    _owner = "ImageText"

    def row_values(self, table: Columns) -> tuple[np.ndarray | None, np.ndarray | None]:
        """(The groups as texts, the weights as numbers), None without."""
        return self._row_columns(table, (self.target,))
