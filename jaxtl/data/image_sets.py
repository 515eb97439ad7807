"""Image files of a source: their headers are checked, and they are decoded or kept."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxtl.core import progress
from jaxtl.core.errors import UserError
from jaxtl.data import framing, image_files, images, lazy_array
from jaxtl.data.dataset import Data
from jaxtl.data.image_stores import ImageStore
from jaxtl.data.preprocess import Preprocess

_CHUNK = 64  # pictures that a thread decodes before it takes more


class Pictures(NamedTuple):
    """Image files as examples.

    Attributes:
      x: uint8 (n, height, width, channels) in memory, or lazy.
      kept: (n,) index of each among the names that were passed.
      preprocess: how stored values become a model's input.
      digests: (n,) bytes, the SHA-256 of each file.
      notes: what was decided.
    """

    x: np.ndarray | lazy_array.LazyArray
    kept: np.ndarray
    preprocess: Preprocess
    digests: np.ndarray
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFiles(Data):
    """What all sources of image files share.

    Images become gray if all of them are, else RGB; see `image_files` for orientation
    and transparency. Without `size`, images of several sizes get that of the pretrained
    weights or of the model, else the one that `framing.choose` says.

    Attributes:
      memory_limit: bytes; images that decode to more stay on disk and are decoded for
        each batch.
      unreadable: "error", or "skip" to leave out and print files that are no images.
    """

    memory_limit: int = 2**31
    unreadable: str = "error"

    resizes_images = True

    def __post_init__(self):
        super().__post_init__()
        if self.unreadable not in ("error", "skip"):
            raise UserError(
                f"{type(self).__name__}.unreadable must be 'error' or 'skip'; "
                f"got {self.unreadable!r}."
            )

    def sizes_differ(self) -> bool:
        """Whether no size is chosen: each file has its own."""
        return self.size is None

    def read_pictures(self, store: ImageStore) -> Pictures:
        """Checks the headers of images, and decodes them where they fit in memory.

        Args:
          store: of the images; the files that it names exist.
        """
        listed = store.names
        headers, errors = _headers(store)
        names = self._without_unreadable(listed, errors)
        frame = framing.choose([headers[name].size for name in names], self)
        size, shortest = frame.size, frame.shortest
        is_gray = all(headers[name].is_gray for name in names)
        channels = self.channels or (1 if is_gray else 3)
        numbers = _numbers_without(listed, errors)
        frames = (size, channels, shortest, self.resample)
        if len(numbers) * size[0] * size[1] * channels > self.memory_limit:
            x = lazy_array.LazyImages(store, numbers, *frames)
        else:
            x, broken = _decoded(store, numbers, *frames)
            if broken:
                x = x[[i for i, name in enumerate(names) if name not in broken]]
            names = self._without_unreadable(names, broken)
            errors |= broken
            numbers = _numbers_without(listed, errors)
        return Pictures(
            x=x,
            kept=numbers,
            preprocess=Preprocess(scale=255.0, size=size, shortest=shortest),
            digests=np.asarray(store.digests(numbers.tolist()), "S64"),
            notes=(*frame.notes, *_remarks(headers[name] for name in names)),
        )

    def _without_unreadable(
        self, names: Sequence[str], errors: Mapping[str, str]
    ) -> Sequence[str]:
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


def _numbers_without(names: Sequence[str], errors: Collection[str]) -> np.ndarray:
    """The numbers of the names that have no error."""
    return np.flatnonzero([name not in errors for name in names])


def _headers(
    store: ImageStore,
) -> tuple[dict[str, image_files.Header], dict[str, str]]:
    """Headers of images by name, and the reasons of unreadable ones by name."""
    headers, errors = {}, {}
    number_of = {name: i for i, name in enumerate(store.names)}
    tracked = progress.track(number_of, "reading the headers of images")
    for name in tracked:
        number = number_of[name]
        try:
            headers[name] = image_files.header(store.open(number))
        except UserError as error:
            reason = str(error).rsplit(" image: ", 1)[-1]
            is_empty = store.is_empty(number)
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
    store: ImageStore,
    numbers: np.ndarray,
    size: tuple[int, int],
    channels: int,
    shortest: int | tuple[int, int] | None,
    resample: str | None,
) -> tuple[np.ndarray, dict[str, str]]:
    """Decodes all images, those of one name once.

    Returns:
      uint8 (n, *size, channels), and name -> reason of those whose data are broken.
    """
    names = [store.names[number] for number in numbers]
    row_of: dict[str, int] = {}
    first = np.array([row_of.setdefault(name, i) for i, name in enumerate(names)], int)
    rows = np.fromiter(row_of.values(), int, len(row_of))
    x = np.zeros((len(numbers), *size, channels), np.uint8)
    errors = {}

    def decode(start: int) -> None:
        for i in rows[start : start + _CHUNK]:
            source = store.open(int(numbers[i]))
            try:
                x[i] = images.decode(source, size, channels, shortest, resample)
            except UserError as error:
                errors[names[i]] = str(error).rsplit(" image: ", 1)[-1]

    # PIL releases the interpreter lock while it decodes.
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        starts = range(0, len(rows), _CHUNK)
        with progress.Task("decoding images", len(rows)) as task:
            for _ in pool.map(decode, starts):
                task.advance(min(_CHUNK, len(rows) - task.done))
    for i in np.flatnonzero(first != np.arange(len(first))):
        x[i] = x[first[i]]
    return x, dict(sorted(errors.items()))
