"""Image folders with one sub-folder per class."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jaxtl.core import files
from jaxtl.core.errors import UserError
from jaxtl.data import images, lazy_array, origins, paths
from jaxtl.data.dataset import Data, Table

_SUFFIXES = (
    ".bmp",
    ".gif",
    ".jpeg",
    ".jpg",
    ".pgm",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)
_SPLITS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFolder(Data):
    """Images in one folder per class: `cat/1.png`, or `train/cat/1.png`.

    A class is named by the folders from the top to the file, `Greek/character01`;
    names are sorted. Where the top folders are train, val and test, they are splits.
    Images become gray if all of them are, else RGB. Other files, and those whose name
    begins with a dot, are ignored.

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

    def read(self) -> Table:
        """Lists the files, checks their headers, and decodes them where they fit."""
        root = paths.find(self.path, "ImageFolder.path")
        names = _image_names(root)
        headers, errors = _headers(root, names)
        names = self._without_unreadable(names, errors)
        size = self._common_size({name: headers[name][0] for name in names})
        is_gray = all(headers[name][1] in images.GRAY_MODES for name in names)
        channels = self.channels or (1 if is_gray else 3)
        if len(names) * size[0] * size[1] * channels > self.memory_limit:
            x = lazy_array.LazyImageFiles(
                str(root), tuple(names), size, channels, self.shortest, self.resample
            )
        else:
            x, errors = _decoded(
                root, names, size, channels, self.shortest, self.resample
            )
            if errors:
                x = x[[i for i, name in enumerate(names) if name not in errors]]
            names = self._without_unreadable(names, errors)
        has_splits = _has_splits(names)
        row_splits, row_classes = zip(
            *(_split_and_class(name, has_splits) for name in names)
        )
        classes = tuple(sorted(set(row_classes)))
        label = {name: i for i, name in enumerate(classes)}
        splits = {
            split: np.flatnonzero(np.asarray(row_splits) == split)
            for split in dict.fromkeys(row_splits)
            if split is not None
        }
        y = np.asarray([label[name] for name in row_classes])
        digests = files.digests([root / name for name in names])
        return Table(
            x=x,
            y=y,
            class_names=classes,
            splits=splits,
            origins=origins.of_files([pathlib.Path(self.path, n) for n in names]),
            digests=np.asarray(digests, "S64"),
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

    def _common_size(self, sizes: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
        """`size`, or else the size that all images have."""
        if self.size is not None:
            return images.as_size(self.size)
        counts = collections.Counter(sizes.values()).most_common()
        if len(counts) > 1:
            common, rare = counts[0][0], counts[-1][0]
            example = next(name for name, size in sizes.items() if size == rare)
            raise UserError(
                f"ImageFolder: the images have {len(counts)} sizes, mostly {common}, "
                f"but {example} has {rare}: give size=, (height, width) for all."
            )
        return counts[0][0]


def _image_names(root: pathlib.Path) -> list[str]:
    """Paths of the image files below the root, with slashes, sorted."""
    names = []
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        is_hidden = any(part.startswith(".") for part in name.split("/"))
        if path.suffix.lower() in _SUFFIXES and not is_hidden and path.is_file():
            names.append(name)
    if not names:
        raise UserError(
            f"ImageFolder.path: there are no images ({', '.join(_SUFFIXES)}) in {root}."
        )
    loose = [name for name in names if "/" not in name]
    if loose:
        raise UserError(
            f"ImageFolder: {len(loose)} images such as {loose[0]!r} lie in {root} "
            "itself; each must lie in a folder that names its class."
        )
    names = sorted(names)
    if _has_splits(names):
        without_class = [name for name in names if name.count("/") < 2]
        if without_class:
            raise UserError(
                f"ImageFolder: {without_class[0]!r} lies in a split but in no class "
                "folder."
            )
    return names


def _has_splits(names: Iterable[str]) -> bool:
    top_folders = {name.split("/")[0] for name in names}
    return "train" in top_folders and top_folders <= _SPLITS.keys()


def _split_and_class(name: str, has_splits: bool) -> tuple[str | None, str]:
    """The split (or None) and the class of one file."""
    folders = name.split("/")[:-1]
    if has_splits:
        return _SPLITS[folders[0]], "/".join(folders[1:])
    return None, "/".join(folders)


def _headers(
    root: pathlib.Path, names: Sequence[str]
) -> tuple[dict[str, tuple[tuple[int, int], str]], dict[str, str]]:
    """Reads the headers of image files.

    Returns:
      name -> ((height, width), PIL's mode), and name -> reason of unreadable headers.
    """
    import PIL.Image

    headers, errors = {}, {}
    for name in names:
        try:
            with PIL.Image.open(root / name) as image:
                headers[name] = ((image.height, image.width), image.mode)
        except (OSError, ValueError, SyntaxError):
            is_empty = (root / name).stat().st_size == 0
            errors[name] = "empty file" if is_empty else "not an image"
    return headers, errors


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

    def decode(i: int) -> None:
        try:
            x[i] = images.decode(root / names[i], size, channels, shortest, resample)
        except UserError as error:
            errors[names[i]] = str(error).rsplit(" image: ", 1)[-1]

    # PIL releases the interpreter lock while it decodes.
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(decode, range(len(names))))
    return x, dict(sorted(errors.items()))
