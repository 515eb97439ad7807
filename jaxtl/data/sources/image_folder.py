"""Image folders with one sub-folder per class."""

from __future__ import annotations

import dataclasses
import os
import pathlib

import numpy as np

from jaxtl.data import origins, paths
from jaxtl.data.dataset import Table
from jaxtl.data.image_sets import ImageFiles
from jaxtl.data.image_stores import ImagePaths
from jaxtl.data.sources import folder_layout


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFolder(ImageFiles):
    """Images in one folder per class: `cat/1.png`, or `train/cat/1.png`.

    A class is named by the folders from the top to the file, `Greek/character01`;
    names are sorted. Where the top folders are train, val and test
    (or training, dev, validation, testing, in upper or lower case), they are splits.
    Linked folders are followed. Other files, and those whose name begins with a dot,
    are ignored. `image_sets.ImageFiles` tells how pictures are read.

    Attributes:
      path: the folder; looked for under $JAXTL_DATA_DIR as well.
    """

    path: str = dataclasses.field(kw_only=False)

    def read(self) -> Table:
        """Lists the files, checks their headers, and decodes them where they fit."""
        root = paths.find(self.path, "ImageFolder.path")
        listed, notes = folder_layout.list_images(root)
        layout = folder_layout.layout(root, listed)  # before the pictures are decoded
        pictures = self.read_pictures(ImagePaths(str(root), tuple(listed)))
        names = [listed[i] for i in pictures.kept]
        if len(names) < len(listed):
            layout = folder_layout.layout(root, names)
        row_splits, row_classes, layout_notes = layout
        classes, y = np.unique(row_classes, return_inverse=True)
        splits = {
            split: np.flatnonzero(np.asarray(row_splits) == split)
            for split in dict.fromkeys(row_splits)
            if split is not None
        }
        return Table(
            x=pictures.x,
            y=y,
            class_names=tuple(classes.tolist()),
            splits=splits,
            preprocess=pictures.preprocess,
            origins=origins.of_files(
                [os.path.join(pathlib.Path(self.path), name) for name in names]
            ),
            digests=pictures.digests,
            notes=(*notes, *layout_notes, *pictures.notes),
        )
