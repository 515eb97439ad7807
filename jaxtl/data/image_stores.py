"""Encoded images as sources keep them: files of a folder, cells of a table, members of
an archive. What reads pictures takes any of them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, BinaryIO

from jaxtl.core import files

if TYPE_CHECKING:
    import pyarrow


class ImageStore:
    """Base class: n encoded images, by number.

    Attributes:
      names: (n,) names for messages; equal names are one image.
    """

    names: tuple[str, ...]

    def open(self, row: int) -> str | BinaryIO:
        """The path of an image's file, or its bytes as a file."""
        raise NotImplementedError

    def is_empty(self, row: int) -> bool:
        """Whether an image has no bytes at all."""
        raise NotImplementedError

    def digests(self, rows: Sequence[int]) -> list[str]:
        """SHA-256 of the bytes of each image, in hex."""
        raise NotImplementedError


class NamedBytes(io.BytesIO):
    """Bytes as a file that is called by its name in the messages of decoders."""

    def __init__(self, value: bytes, name: str):
        super().__init__(value)
        self._name = name

    def __repr__(self) -> str:
        return self._name


@dataclasses.dataclass(frozen=True, eq=False)
class ImagePaths(ImageStore):
    """Files by their names below a folder."""

    root: str
    names: tuple[str, ...]

    def open(self, row: int) -> str:
        return os.path.join(self.root, self.names[row])

    def is_empty(self, row: int) -> bool:
        return os.stat(self.open(row)).st_size == 0

    def digests(self, rows: Sequence[int]) -> list[str]:
        return files.digests([self.open(row) for row in rows])


@dataclasses.dataclass(frozen=True, eq=False)
class ArrowImages(ImageStore):
    """Cells of an Arrow column: bytes, or `{"bytes", "path"}` as `datasets` has them.

    It pickles as what reads the column.

    Attributes:
      reader: reads the column; of a file on disk without copying it.
      names: of the cells.
    """

    reader: Callable[[], pyarrow.ChunkedArray]
    names: tuple[str, ...]

    @functools.cached_property
    def _column(self) -> pyarrow.ChunkedArray:
        return self.reader()

    def open(self, row: int) -> str | BinaryIO:
        value = self._column[row].as_py()
        if isinstance(value, dict):
            value = value["path"] if value["bytes"] is None else value["bytes"]
        return NamedBytes(value, self.names[row]) if isinstance(value, bytes) else value

    def is_empty(self, row: int) -> bool:
        source = self.open(row)
        if isinstance(source, str):
            return os.stat(source).st_size == 0
        return not source.read(1)

    def digests(self, rows: Sequence[int]) -> list[str]:
        sources = [self.open(row) for row in rows]
        paths = [source for source in sources if isinstance(source, str)]
        of_path = dict(zip(paths, files.digests(paths)))
        return [
            of_path[source] if isinstance(source, str) else _digest(source)
            for source in sources
        ]

    def __reduce__(self):
        return ArrowImages, (self.reader, self.names)


def _digest(source: BinaryIO) -> str:
    return hashlib.sha256(source.read()).hexdigest()
