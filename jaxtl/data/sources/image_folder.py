"""Image folders with one sub-folder per class."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jaxtl.core import files, progress
from jaxtl.core.errors import UserError
from jaxtl.data import framing, image_files, images, lazy_array, origins, paths
from jaxtl.data.dataset import Data, Table
from jaxtl.data.preprocess import Preprocess
from jaxtl.data.sources import folder_layout

_CHUNK = 64  # pictures that a thread decodes before it takes more


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFolder(Data):
    """Images in one folder per class: `cat/1.png`, or `train/cat/1.png`.

    A class is named by the folders from the top to the file, `Greek/character01`;
    names are sorted. Where the top folders are train, val and test
    (or training, dev, validation, testing, in upper or lower case), they are splits.
    Linked folders are followed. Images become gray if all of them are, else RGB; see
    `image_files` for orientation and transparency. Other files, and those whose name
    begins with a dot, are ignored. Without `size`, images of several sizes get that of
    the pretrained weights or of the model, else the one that `framing.choose` says.

    Attributes:
      path: the folder; looked for under $JAXTL_DATA_DIR as well.
      memory_limit: bytes; images that decode to more stay on disk and are decoded for
        each batch.
      unreadable: "error", or "skip" to leave out and print files that are no images.
    """

    path: str = dataclasses.field(kw_only=False)
    memory_limit: int = 2**31
    unreadable: str = "error"

    resizes_images = True

    def __post_init__(self):
        super().__post_init__()
        if self.unreadable not in ("error", "skip"):
            raise UserError(
                "ImageFolder.unreadable must be 'error' or 'skip'; "
                f"got {self.unreadable!r}."
            )

    def sizes_differ(self) -> bool:
        """Whether no size is chosen: each file has its own."""
        return self.size is None

    def read(self) -> Table:
        """Lists the files, checks their headers, and decodes them where they fit."""
        root = paths.find(self.path, "ImageFolder.path")
        listed, notes = folder_layout.list_images(root)
        layout = folder_layout.layout(root, listed)  # before the pictures are decoded
        headers, errors = _headers(root, listed)
        names = self._without_unreadable(listed, errors)
        frame = framing.choose([headers[name].size for name in names], self)
        size, shortest = frame.size, frame.shortest
        is_gray = all(headers[name].is_gray for name in names)
        channels = self.channels or (1 if is_gray else 3)
        if len(names) * size[0] * size[1] * channels > self.memory_limit:
            x = lazy_array.LazyImageFiles(
                str(root), tuple(names), size, channels, shortest, self.resample
            )
        else:
            x, errors = _decoded(root, names, size, channels, shortest, self.resample)
            if errors:
                x = x[[i for i, name in enumerate(names) if name not in errors]]
            names = self._without_unreadable(names, errors)
        if len(names) < len(listed):
            layout = folder_layout.layout(root, names)
        row_splits, row_classes, layout_notes = layout
        classes, y = np.unique(row_classes, return_inverse=True)
        splits = {
            split: np.flatnonzero(np.asarray(row_splits) == split)
            for split in dict.fromkeys(row_splits)
            if split is not None
        }
        digests = files.digests([os.path.join(root, name) for name in names])
        remarks = _remarks(headers[name] for name in names)
        return Table(
            x=x,
            y=y,
            class_names=tuple(classes.tolist()),
            splits=splits,
            preprocess=Preprocess(scale=255.0, size=size, shortest=shortest),
            origins=origins.of_files(
                [os.path.join(pathlib.Path(self.path), name) for name in names]
            ),
            digests=np.asarray(digests, "S64"),
            notes=(*notes, *layout_notes, *frame.notes, *remarks),
        )

    def _without_unreadable(
        self, names: list[str], errors: Mapping[str, str]
    ) -> list[str]:
        """Leaves out the names that have errors, or raises, as `unreadable` decides."""
        if not errors:
            return names
        lines = [f"{name}: {reason}" for name, reason in errors.items()]
        shown = "\n  ".join(lines[:50])
        more = f"\n  … {len(lines) - 50} more" if len(lines) > 50 else ""
        count = f"{len(errors)} of {len(names)}"
        text = f"{count} image files can't be read:\n  {shown}{more}"
        if self.unreadable == "error" or len(errors) == len(names):
            raise UserError(
                f'{text}\nReplace or remove them, or pass unreadable="skip".'
            )
        print(f"Skipped: {text}")
        return [name for name in names if name not in errors]


def _headers(
    root: pathlib.Path, names: Sequence[str]
) -> tuple[dict[str, image_files.Header], dict[str, str]]:
    """Headers of image files by name, and the reasons of unreadable ones by name."""
    headers, errors = {}, {}
    for name in progress.track(names, "reading the headers of images"):
        try:
            headers[name] = image_files.header(os.path.join(root, name))
        except UserError as error:
            reason = str(error).rsplit(" image: ", 1)[-1]
            is_empty = os.stat(os.path.join(root, name)).st_size == 0
            is_other = reason.startswith("cannot identify")
            errors[name] = "empty file" if is_empty else reason
            if is_other and not is_empty:
                errors[name] = "not an image"
    return headers, errors


def _remarks(headers: Iterable[image_files.Header]) -> list[str]:
    """How many pictures each decision of the decoder concerns."""
    counts = collections.Counter(text for h in headers for text in h.remarks)
    return [f"{count} pictures are {text}" for text, count in counts.items()]


def _decoded(
    root: pathlib.Path,
    names: Sequence[str],
    size: tuple[int, int],
    channels: int,
    shortest: int | tuple[int, int] | None,
    resample: str | None,
) -> tuple[np.ndarray, dict[str, str]]:
    """Decodes all images.

    Returns:
      uint8 (n, *size, channels), and name -> reason of those whose data are broken.
    """
    x = np.zeros((len(names), *size, channels), np.uint8)
    errors = {}

    def decode(start: int) -> None:
        for i in range(start, min(start + _CHUNK, len(names))):
            path = os.path.join(root, names[i])
            try:
                x[i] = images.decode(path, size, channels, shortest, resample)
            except UserError as error:
                errors[names[i]] = str(error).rsplit(" image: ", 1)[-1]

    # PIL releases the interpreter lock while it decodes.
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        starts = range(0, len(names), _CHUNK)
        with progress.Task("decoding images", len(names)) as task:
            for _ in pool.map(decode, starts):
                task.advance(min(_CHUNK, len(names) - task.done))
    return x, dict(sorted(errors.items()))
