"""Image folders: a sub-folder is a class."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import pathlib

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.data import images, lazy_array, paths
from jaxtl.data.dataset import Data, Table

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff")
SUFFIXES += (".webp",)
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
    Images of other modes become grey (all of them are) or RGB (any is not). Other
    files and those whose name begins with a dot are passed over.

    Attributes:
      path: the folder; looked for under $JAXTL_DATA_DIR as well.
      memory_limit: bytes; images that decode to more stay on disk and are decoded for
        each batch.
      unreadable: "error" or "skip" (prints them) for files that are no images.
    """

    path: str = dataclasses.field(kw_only=False)
    memory_limit: int = 2**31
    unreadable: str = "error"

    resizes_images = True

    def __post_init__(self):
        super().__post_init__()
        if self.unreadable not in ("error", "skip"):
            raise UserError(
                "ImageFolder.unreadable must be error or skip; "
                f"got {self.unreadable!r}."
            )

    def read(self) -> Table:
        """Finds the files, checks their headers, and decodes them where they fit."""
        root = paths.find(self.path, "ImageFolder.path")
        names = _image_names(root)
        seen, bad = _headers(root, names)
        names = self._without(names, bad)
        size = self._size({name: seen[name][0] for name in names})
        grey = all(seen[name][1] in images.GRAY_MODES for name in names)
        channels = self.channels or (1 if grey else 3)
        if len(names) * size[0] * size[1] * channels > self.memory_limit:
            x = lazy_array.LazyImageFiles(
                str(root), tuple(names), size, channels, self.shortest
            )
        else:
            x, bad = _decoded(root, names, (size, channels, self.shortest))
            kept = self._without(names, bad)
            if bad:
                x = x[[i for i, name in enumerate(names) if name not in bad]]
            names = kept
        split, label = zip(*(_place(name, _has_splits(names)) for name in names))
        classes = tuple(sorted(set(label)))
        number = {name: i for i, name in enumerate(classes)}
        given = {
            s: np.flatnonzero(np.asarray(split) == s)
            for s in dict.fromkeys(split)
            if s is not None
        }
        y = np.asarray([number[name] for name in label])
        return Table(x=x, y=y, class_names=classes, splits=given)

    def _without(self, names, bad: dict[str, str]):
        if not bad:
            return names
        shown = "\n  ".join(f"{name}: {why}" for name, why in list(bad.items())[:50])
        more = f"\n  … {len(bad) - 50} more" if len(bad) > 50 else ""
        text = f"{len(bad)} of {len(names)} image files can't be read:\n  {shown}{more}"
        if self.unreadable == "error" or len(bad) == len(names):
            raise UserError(f'{text}\nMend them, or pass unreadable="skip".')
        print(f"Skipped: {text}")
        return [name for name in names if name not in bad]

    def _size(self, sizes) -> tuple[int, int]:
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
    """Paths below the root, with slashes, sorted."""
    found = []
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        hidden = any(part.startswith(".") for part in name.split("/"))
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            found.append(name)
    if not found:
        raise UserError(
            f"ImageFolder.path: there are no images ({', '.join(SUFFIXES)}) in {root}."
        )
    loose = [name for name in found if "/" not in name]
    if loose:
        raise UserError(
            f"ImageFolder: {len(loose)} images such as {loose[0]!r} lie in {root} "
            "itself; each must lie in a folder that names its class."
        )
    found = sorted(found)
    if _has_splits(found):
        flat = [name for name in found if name.count("/") < 2]
        if flat:
            raise UserError(
                f"ImageFolder: {flat[0]!r} lies in a split but in no class folder."
            )
    return found


def _has_splits(names) -> bool:
    tops = {name.split("/")[0] for name in names}
    return "train" in tops and tops <= _SPLITS.keys()


def _place(name: str, has_splits: bool) -> tuple[str | None, str]:
    """(split or None, class) of one file."""
    folders = name.split("/")[:-1]
    if has_splits:
        return _SPLITS[folders[0]], "/".join(folders[1:])
    return None, "/".join(folders)


def _headers(root, names) -> tuple[dict, dict[str, str]]:
    """name -> ((height, width), mode), and name -> reason of what has no header."""
    import PIL.Image

    seen, bad = {}, {}
    for name in names:
        try:
            with PIL.Image.open(root / name) as image:
                seen[name] = ((image.height, image.width), image.mode)
        except (OSError, ValueError, SyntaxError):
            empty = (root / name).stat().st_size == 0
            bad[name] = "empty file" if empty else "not an image"
    return seen, bad


def _decoded(root, names, how) -> tuple[np.ndarray, dict[str, str]]:
    """All images, and name -> reason of those whose data are broken.

    Args:
      how: size, channels and shortest of `images.decode`.
    """
    size, channels, _ = how
    x = np.zeros((len(names), *size, channels), np.uint8)
    bad = {}

    def one(i):
        try:
            x[i] = images.decode(root / names[i], *how)
        except UserError as error:
            bad[names[i]] = str(error).rsplit(" image: ", 1)[-1]

    # PIL lets go of the interpreter while it decodes.
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(len(names))))
    return x, dict(sorted(bad.items()))
