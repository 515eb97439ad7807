"""Arrays from `.npz` and `.npy` files, or straight from memory."""

from __future__ import annotations

import dataclasses
import io
import itertools
import pathlib
import typing

import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.data import images, lazy_array
from jaxtl.data.dataset import Data, Table
from jaxtl.data.paths import find
from jaxtl.data.preprocess import Preprocess

_SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class InMemoryArray:
    """An array in memory, compared by identity so that `Arrays` can be hashed."""

    array: np.ndarray

    def __repr__(self):
        return f"<{self.array.dtype} array {self.array.shape}>"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arrays(Data):
    """Numpy arrays: a `.npz`, a pair of `.npy`, several files in a row, or memory.

    `Arrays("mnist.npz")`; `Arrays("features.npz", x="x_amazon", y="y_amazon")`;
    `Arrays("x.npy", labels_path="y.npy")`; `Arrays(x=array, y=array)`.

    A `.npz` has `x` and `y`, or `x_train`, `y_train`, `x_test`, `y_test` (and `_val`),
    or JPEG files one behind the other: `jpeg`, `offsets`, `label`. Its `class_names`
    are used where present. Images (n, height, width) get a channel axis.

    Attributes:
      path: a file, or several whose examples follow each other; looked for under
        $JAXTL_DATA_DIR as well.
      labels_path: a `.npy`, or a `.npz` with the entry `y`: labels of the train rows.
      test_path: a file of the same kind that holds the test split.
      x: name of the entry, or the array itself.
      y: name of the entry, or the array itself.
      scale: divides the values (USPS: 2000), inside the compiled step; None divides
        uint8 images by 255 and leaves the rest.
      task: None infers: whole numbers or strings classification, a matrix of 0 and 1
        multilabel, other floats regression.
      class_names: names in label order.
      memory_limit: bytes; a larger `.npy` stays on disk, memory-mapped.
    """

    path: str | tuple[str, ...] | None = dataclasses.field(default=None, kw_only=False)
    labels_path: str | None = None
    test_path: str | None = None
    x: typing.Any = "x"
    y: typing.Any = "y"
    scale: float | None = None
    task: str | None = None
    class_names: tuple[str, ...] | None = None
    memory_limit: int = 2**31

    def __post_init__(self):
        super().__post_init__()
        for name in ("path", "class_names"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("x", "y"):
            value = getattr(self, name)
            if not isinstance(value, (str, InMemoryArray)):
                object.__setattr__(self, name, InMemoryArray(np.asarray(value)))
        held = isinstance(self.x, InMemoryArray), isinstance(self.y, InMemoryArray)
        if held[0] != held[1]:
            raise UserError("Arrays needs x and y both as arrays or both as names.")
        if held[0] == (self.path is not None):
            raise UserError("Arrays needs either a path or x= and y= as arrays.")
        if self.scale is not None and not self.scale > 0:
            raise UserError(f"Arrays.scale must be positive; got {self.scale!r}.")

    def read(self) -> Table:
        """Reads all files; the rows of each part follow each other."""
        parts, names = self._parts()
        x = _image_axis(_joined([part for _, part, _ in parts]))
        labels = [np.asarray(y) for _, _, y in parts]
        y, found = _labels(np.concatenate(labels))
        task = self.task or _task(y)
        given = _given([split for split, _, _ in parts], labels)
        pre = None
        if self.scale is not None:
            pre = Preprocess(scale=float(self.scale))
        return Table(
            x=x,
            y=y,
            class_names=self.class_names or found or names,
            task=task,
            splits=given,
            preprocess=pre,
        )

    def _parts(self) -> tuple[list, tuple | None]:
        """[(split, x, y), ...] and the class names that the files bring."""
        if isinstance(self.x, InMemoryArray):
            return [("all", self.x.array, self.y.array)], None
        paths = (self.path,) if not isinstance(self.path, tuple) else self.path
        pieces, names = [], None
        for path in paths:
            parts, found = _read(find(path, "Arrays.path"), self)
            pieces, names = pieces + parts, names or found
        if self.labels_path is not None:
            pieces = self._relabelled(pieces)
        if self.test_path is not None:
            parts, found = _read(find(self.test_path, "Arrays.test_path"), self)
            # Whatever a test file calls its rows, they are test rows.
            pieces += [("test", x, y) for _, x, y in parts]
        for split, x, y in pieces:
            if y is None:
                raise UserError(
                    f"Arrays: {split} x has {len(x)} examples, but there is no y "
                    "for it; a .npy needs labels_path, a .npz the entry that y= names."
                )
            if len(x) != len(y):
                raise UserError(
                    f"Arrays: {split} x has {len(x)} examples, but y has {len(y)}."
                )
        return pieces, names

    def _relabelled(self, pieces):
        path = find(self.labels_path, "Arrays.labels_path")
        entries = _open(path)
        labels = entries
        if isinstance(entries, dict):
            labels = _entry(entries, self.y, path, "Arrays.y")
        train = [x for split, x, _ in pieces if split in ("all", "train")]
        kept = [piece for piece in pieces if piece[0] not in ("all", "train")]
        return [("all", _joined(train), labels), *kept]


def _read(path: pathlib.Path, data: Arrays) -> tuple[list, tuple | None]:
    """One file's parts [(split, x, y or None), ...] and class names."""
    entries = _open(path, data.memory_limit)
    if not isinstance(entries, dict):
        return [("all", entries, None)], None
    names = entries.get("class_names")
    names = None if names is None else tuple(str(name) for name in names)
    if {"jpeg", "offsets"} <= entries.keys() and data.x not in entries:
        label = data.y if data.y in entries else "label"
        y = _entry(entries, label, path, "Arrays.y")
        return [("all", _jpegs(entries, path), y)], names
    parts = [
        (split, entries[f"{data.x}_{split}"], f"{data.y}_{split}")
        for split in _SPLITS
        if f"{data.x}_{split}" in entries
    ]
    if data.x in entries or not parts:
        parts = [("all", _entry(entries, data.x, path, "Arrays.x"), data.y)]
    if data.labels_path is not None:
        return [(split, x, entries.get(y)) for split, x, y in parts], names
    return [(s, x, _entry(entries, y, path, "Arrays.y")) for s, x, y in parts], names


def _open(path: pathlib.Path, memory_limit: int = 2**62):
    """An array from a `.npy`, a dict of arrays from a `.npz`."""
    try:
        if path.suffix == ".npy":
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            if mapped.nbytes > memory_limit:
                return lazy_array.MemoryMapped(str(path), image=mapped.ndim == 3)
            return np.array(mapped)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path} is not a readable .npz or .npy: {error}.") from None


def _entry(entries, name, path, field):
    if name in entries:
        return entries[name]
    raise UserError(
        f"{field}: {path} has no entry {name!r}{nearest(name, entries)}; "
        f"its entries are {', '.join(sorted(entries))}."
    )


def _jpegs(entries, path) -> np.ndarray:
    """Decodes the JPEG files that lie between consecutive offsets."""
    blob, offsets = entries["jpeg"].tobytes(), entries["offsets"]
    decoded = [
        images.decode(io.BytesIO(blob[start:end]))
        for start, end in itertools.pairwise(offsets)
    ]
    shapes = {image.shape for image in decoded}
    if len(shapes) > 1:
        raise UserError(f"{path}: the JPEG images differ in shape: {sorted(shapes)}.")
    return np.stack(decoded)


def _joined(parts):
    if len(parts) == 1:
        return parts[0]
    if any(lazy_array.is_lazy(part) for part in parts):
        raise UserError(
            "Arrays: several files can't be joined where one stays on disk; "
            "raise memory_limit or join them into one .npy."
        )
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) > 1:
        raise UserError(f"Arrays: the files' examples differ in shape: {shapes}.")
    return np.concatenate(parts)


def _image_axis(x):
    if lazy_array.is_lazy(x):
        return x
    if x.dtype == object or not np.issubdtype(x.dtype, np.number):
        raise UserError(f"Arrays.x must be numbers; got dtype {x.dtype}.")
    return x[..., None] if x.ndim == 3 else x


def _labels(y):
    """Whole-number labels of strings, and the names they stand for."""
    if y.dtype.kind not in "US":
        return y, None
    names, labels = np.unique(y.astype(str), return_inverse=True)
    return labels, tuple(names.tolist())


def _task(y) -> str:
    if y.ndim == 2 and y.shape[1] > 1:
        return "multilabel" if np.isin(y, (0, 1)).all() else "regression"
    return "regression" if np.issubdtype(y.dtype, np.floating) else "classification"


def _given(names, labels) -> dict[str, np.ndarray]:
    """Rows per split; a part without a split is train where others have one."""
    if set(names) == {"all"}:
        return {}
    names = ["train" if name == "all" else name for name in names]
    bounds = np.cumsum([0, *map(len, labels)])
    rows: dict[str, list] = {}
    for name, start, end in zip(names, bounds[:-1], bounds[1:]):
        rows.setdefault(name, []).append(np.arange(start, end))
    return {name: np.concatenate(parts) for name, parts in rows.items()}
