"""The files of a folder of classes, with or without folders of splits above these."""

from __future__ import annotations

import collections
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from jaxtl.core.errors import UserError
from jaxtl.data import cells

SUFFIXES = (
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
# Splits by the usual names of them, in lower case.
SPLIT_OF = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "development": "val",
    "test": "test",
    "testing": "test",
}
# Beside folders of splits these may be either; alone they are classes.
_UNCLEAR = ("eval", "evaluation", "holdout", "unlabelled", "unlabeled", "extra")
# Folders that operating systems and archivers add.
_IGNORED = ("__macosx", "@eadir", "$recycle.bin", "lost+found")


class Listing(NamedTuple):
    """The image files below a folder.

    Attributes:
      names: paths below the folder, with slashes, sorted.
      notes: folders that hold no image, links that lead nowhere or upwards.
    """

    names: list[str]
    notes: list[str]


def list_images(root: pathlib.Path, owner: str = "ImageFolder.path") -> Listing:
    """Lists the image files below a folder, those in linked folders among them.

    Hidden files and folders, and those that operating systems add, are ignored.

    Args:
      root: the folder.
      owner: who names it, for messages.

    Raises:
      UserError: there are none.
    """
    names, notes, empty = [], [], []
    real_root = os.path.realpath(root)
    pending = [_Folder("", real_root, frozenset([real_root]))]
    while pending:
        folder = pending.pop()
        images, folders, left_out = _scan(root, folder)
        names += images
        pending += folders
        notes += left_out
        if not (images or folders or left_out):
            empty.append(folder.name.rstrip("/") or ".")
    notes.sort()
    if not names:
        raise UserError(
            f"{owner}: there are no images ({', '.join(SUFFIXES)}) in {root}."
        )
    if empty:
        shown = ", ".join(sorted(empty)[:10])
        notes.append(f"{len(empty)} folders hold no image: {shown}")
    return Listing(sorted(names), notes)


class _Folder(NamedTuple):
    """A folder below the root: "" or "cat/", its real path, those of all above it."""

    name: str
    real: str
    above: frozenset[str]


def _scan(
    root: pathlib.Path, folder: _Folder
) -> tuple[list[str], list[_Folder], list[str]]:
    """The image files and the folders in a folder, and why links are left out.

    One call lists them with their kinds; only links cost a call each.
    """
    images, folders, notes = [], [], []
    with os.scandir(os.path.join(root, folder.name)) as entries:
        for entry in entries:
            name = folder.name + entry.name
            is_link = entry.is_symlink()
            if _is_ignored(entry.name):
                continue
            if entry.is_dir():
                real = os.path.join(folder.real, entry.name)
                real = os.path.realpath(entry.path) if is_link else real
                if real in folder.above:
                    notes.append(f"{name} is left out: it links to a folder above it")
                else:
                    folders.append(_Folder(f"{name}/", real, folder.above | {real}))
            elif is_link and not os.path.exists(entry.path):
                notes.append(f"{name} is left out: it links to nothing")
            elif entry.is_file() and _suffix(entry.name) in SUFFIXES:
                images.append(name)
    return images, folders, notes


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in _IGNORED


class Layout(NamedTuple):
    """What the folders of image files say.

    Attributes:
      splits: of each file; None where there are no folders of splits.
      classes: of each file, in Unicode's composed form.
      notes: what was decided.
    """

    splits: list[str | None]
    classes: list[str]
    notes: list[str]


def layout(root: pathlib.Path, names: Sequence[str]) -> Layout:
    """Reads splits and classes from the folders of files.

    Where the top folders are splits ("Train", "dev", "testing" are understood), each
    class is named by the folders below them, else by all folders.

    Args:
      root: the folder, for messages.
      names: paths below it, with slashes.

    Raises:
      UserError: files without a folder of a class, folders of splits among others or
        below another folder, two folders of one split.
    """
    loose = [name for name in names if "/" not in name]
    if loose:
        raise UserError(
            f"ImageFolder: {len(loose)} images such as {loose[0]!r} lie in {root} "
            "itself; each must lie in a folder that names its class."
        )
    split_of = _split_folders(root, names)
    _check_deeper_splits(root, names, 1 if split_of else 0)
    without_class = [name for name in names if split_of and name.count("/") < 2]
    if without_class:
        raise UserError(
            f"ImageFolder: {without_class[0]!r} lies in a split but in no class folder."
        )
    folders = [name.split("/")[:-1] for name in names]
    written = ["/".join(parts[1:] if split_of else parts) for parts in folders]
    normalized = {name: cells.normalized(name) for name in set(written)}
    classes = [normalized[name] for name in written]
    notes = []
    if any(split != folder for folder, split in split_of.items()):
        read = ", ".join(f"{folder} as {split}" for folder, split in split_of.items())
        notes.append(f"folders are read as splits: {read}")
    notes += cells.merged_forms(written, "the folder")
    return Layout([split_of.get(parts[0]) for parts in folders], classes, notes)


def _split_folders(root: pathlib.Path, names: Sequence[str]) -> dict[str, str]:
    """Top folder -> its split; {} where the top folders are classes."""
    top = {name.split("/")[0] for name in names}
    split_of = {name: SPLIT_OF[name.lower()] for name in sorted(top) if _is_split(name)}
    others = sorted(top - split_of.keys())
    with_classes = {name.split("/")[0] for name in names if name.count("/") >= 2}
    if not split_of or (others and not with_classes & split_of.keys()):
        return {}
    if others:
        hint = "; is it validation or test?" if others[0].lower() in _UNCLEAR else ""
        raise UserError(
            f"ImageFolder: in {root} the folders {', '.join(split_of)} are splits, but "
            f"{', '.join(others[:5])} are none{hint}: name the splits train, val and "
            "test, and move other folders elsewhere."
        )
    if (split := cells.repeated(split_of.values())) is not None:
        same = [folder for folder, s in split_of.items() if s == split]
        raise UserError(
            f"ImageFolder: in {root} the folders {' and '.join(same)} are both read as "
            f"the split {split}; keep one of them."
        )
    return split_of


def _is_split(folder: str) -> bool:
    return folder.lower() in SPLIT_OF


def _check_deeper_splits(root: pathlib.Path, names: Sequence[str], top: int) -> None:
    """Raises UserError where train and a held-out split lie below another folder."""
    below: dict[str, set[str]] = collections.defaultdict(set)
    for parent in {name.rpartition("/")[0] for name in names}:
        folders = parent.split("/")
        for depth in range(max(1, top), len(folders)):
            below["/".join(folders[:depth])].add(folders[depth])
    for parent, children in below.items():
        splits = {SPLIT_OF[c.lower()] for c in children if _is_split(c)}
        if "train" in splits and len(splits) > 1:
            raise UserError(
                f"ImageFolder: {parent} holds folders of splits, "
                f"{', '.join(sorted(filter(_is_split, children)))}: name "
                f"{str(root / parent)!r} as the path."
            )
