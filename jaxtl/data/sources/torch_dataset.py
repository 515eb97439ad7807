"""Map-style data sets of torch, or any object with `len` and items `(x, y)`."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxtl.core import progress
from jaxtl.core.errors import UserError, describe_error
from jaxtl.core.names import listing
from jaxtl.data import label_arrays, origins, split_fields, splits
from jaxtl.data.dataset import Data, Table
from jaxtl.data.lazy_array import LazyArray

_LABEL_KEYS = ("labels", "label", "y", "target", "targets")
_SINGLE = "x"  # the name of the only input of an item
_NOTE = "images (channels, height, width) are read with the channels last"
_GRAY_NOTE = "uint8 items of two axes are read as gray images, with a channel axis"
_MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "CMYK": "RGB"}  # of PIL


class _InMemoryItems:
    """A data set in memory. It has no hash, since it may change: it is not cached."""

    __hash__ = None

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _InMemoryItems) and self.value is other.value

    def __repr__(self) -> str:
        return f"<{type(self.value).__name__} of {len(self.value)} items>"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TorchDataset(Data):
    """A map-style data set of torch: `len`, and items `(x, y)` or dicts with a label.

    `TorchDataset(train, test_dataset=test)`. Inputs are tensors, arrays or pictures of
    PIL; channels that come first, as torch has them, are put last: those of a tensor
    with three axes, unless the last one alone has 1, 3 or 4 places. Items of uint8 with
    two axes (MNIST's tensors) are gray images. Of a dict, "labels" (or "label", "y",
    "target", "targets") is the label, and the others are the inputs of the model by
    name. Random transforms are drawn as items are read: use `augment=` of the
    experiment for new ones in each epoch.

    Attributes:
      dataset: of the train split, or of all examples; None where there are held-out
        splits alone.
      val_dataset, test_dataset: of the validation and test split.
      task: None infers it, as `Arrays` does.
      class_names: names in label order; None takes those of `dataset.classes`, if it
        has them, which those of the other splits must not contradict.
      memory_limit: bytes; larger inputs are read from the data set for each batch.
    """

    dataset: Any = dataclasses.field(default=None, kw_only=False)
    val_dataset: Any = None
    test_dataset: Any = None
    task: str | None = None
    class_names: tuple[str, ...] | None = None
    memory_limit: int = 2**31

    def __post_init__(self):
        super().__post_init__()
        if self.class_names is not None:
            object.__setattr__(self, "class_names", tuple(self.class_names))
        for split, value in split_fields.by_split(self, "dataset").items():
            field = split_fields.split_field(split, "dataset")
            if not isinstance(value, _InMemoryItems):
                _check(value, f"TorchDataset.{field}")
                object.__setattr__(self, field, _InMemoryItems(value))

    def read(self) -> Table:
        """Reads every item once."""
        datasets = {
            split: source.value
            for split, source in split_fields.by_split(self, "dataset").items()
        }
        items = _Items(tuple(datasets.items()))
        inputs, y, digests = _read_all(items, self.memory_limit)
        names = self.class_names or _common_class_names(datasets)
        stacked = label_arrays.stacked(y, "TorchDataset")
        labels = label_arrays.read(stacked, names, self.task, "TorchDataset")
        lengths = {split: len(dataset) for split, dataset in datasets.items()}
        return Table(
            x=inputs[_SINGLE] if set(inputs) == {_SINGLE} else inputs,
            y=labels.y,
            class_names=labels.class_names,
            task=labels.task,
            splits=splits.consecutive(lengths),
            origins=origins.of_elements(
                [
                    (split_fields.split_field(split, "dataset"), n)
                    for split, n in lengths.items()
                ]
            ),
            digests=digests,
            notes=(*labels.notes, *items.notes),
        )


def _check(value: Any, field: str) -> None:
    """Raises UserError for what has no items by number."""
    if type(value).__name__ == "DataLoader" or hasattr(value, "batch_sampler"):
        raise UserError(
            f"{field} is a DataLoader; pass its data set, {field.partition('.')[2]}="
            "loader.dataset: batches are drawn by the experiment's seed and batch."
        )
    if not (hasattr(value, "__len__") and hasattr(value, "__getitem__")) or isinstance(
        value, Mapping | str
    ):
        raise UserError(
            f"{field} must be a map-style data set, with len() and items by number; "
            f"got {type(value).__name__}, of which list() makes one."
        )
    if len(value) == 0:
        raise UserError(f"{field} has no items.")


class _Item(NamedTuple):
    """The inputs of an example by name, and its label."""

    inputs: dict[str, np.ndarray]
    y: Any


@dataclasses.dataclass(frozen=True, eq=False)
class _Items:
    """The items of all splits, one after the other."""

    datasets: tuple[tuple[str, Any], ...]
    notes: set[str] = dataclasses.field(default_factory=set)

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        """The number of items up to the end of each split."""
        return np.cumsum([len(dataset) for _, dataset in self.datasets])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, row: int) -> _Item:
        part = int(np.searchsorted(self._ends, row, side="right"))
        split, dataset = self.datasets[part]
        row -= int(self._ends[part]) - len(dataset)
        where = f"TorchDataset.{split_fields.split_field(split, 'dataset')}[{row}]"
        try:
            value = dataset[row]
        except UserError:
            raise
        except Exception as error:  # a data set of the user may raise anything
            raise UserError(f"{where} raised {describe_error(error)}.") from error
        return _item(value, where, self.notes)


@dataclasses.dataclass(frozen=True, eq=False)
class _ItemRows(LazyArray):
    """One input of all items, each read when it is indexed."""

    items: _Items
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def rows(self, index: np.ndarray) -> np.ndarray:
        x = np.empty((len(index), *self.shape[1:]), self.dtype)
        for i, row in enumerate(index.tolist()):
            x[i] = self.items[row].inputs[self.name]
        return x


def _read_all(
    items: _Items, memory_limit: int
) -> tuple[dict[str, np.ndarray | LazyArray], list, np.ndarray | None]:
    """(Inputs by name, labels, digests of inputs that are not kept) of all items."""
    count, first = len(items), items[0]
    shapes = {name: (x.shape, x.dtype) for name, x in first.inputs.items()}
    is_kept = count * sum(x.nbytes for x in first.inputs.values()) <= memory_limit
    kept = {
        name: np.empty((count, *shape), dtype)
        for name, (shape, dtype) in shapes.items()
        if is_kept
    }
    labels, digests = [], []
    for row in progress.track(range(count), "reading items"):
        item = first if row == 0 else items[row]
        found = {name: (x.shape, x.dtype) for name, x in item.inputs.items()}
        if found != shapes:
            raise UserError(
                f"TorchDataset: the inputs of item {row} are {_shown(found)}, those of "
                f"item 0 {_shown(shapes)}; all need one shape and type: resize, cut or "
                "pad them in the data set's transform."
            )
        labels.append(item.y)
        for name, values in kept.items():
            values[row] = item.inputs[name]
        if not is_kept:
            parts = (item.inputs[name].tobytes() for name in sorted(shapes))
            digests.append(hashlib.sha256(b"".join(parts)).hexdigest())
    if is_kept:
        return kept, labels, None
    lazy = {
        name: _ItemRows(items, name, (count, *shape), dtype)
        for name, (shape, dtype) in shapes.items()
    }
    return lazy, labels, np.asarray(digests, "S64")


def _shown(shapes: dict[str, tuple[tuple[int, ...], np.dtype]]) -> str:
    return ", ".join(
        f"{name} {dtype} {shape}" for name, (shape, dtype) in shapes.items()
    )


def _item(value: Any, where: str, notes: set[str]) -> _Item:
    """An item `(x, y)` or a dict with a label."""
    if isinstance(value, Mapping):
        keys = [key for key in _LABEL_KEYS if key in value]
        if len(keys) != 1 or len(value) < 2:
            raise UserError(
                f"{where} has the keys {', '.join(map(str, value))}; expected one of "
                f"{', '.join(_LABEL_KEYS)} for the label, and others for inputs."
            )
        inputs = {str(k): v for k, v in value.items() if k != keys[0]}
        if len(inputs) == 1:
            inputs = {_SINGLE: next(iter(inputs.values()))}
        y = value[keys[0]]
    elif isinstance(value, tuple | list) and len(value) == 2:
        inputs, y = {_SINGLE: value[0]}, value[1]
    else:
        size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
        raise UserError(
            f"{where} is a {type(value).__name__}{size}; expected (x, y), or a dict "
            "with a label."
        )
    arrays = {name: _input(x, f"{where}: {name}", notes) for name, x in inputs.items()}
    return _Item(arrays, y if isinstance(y, str) else _array(y))


def _array(value: Any) -> np.ndarray:
    """The values of a tensor, or of anything that numpy understands."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
        return value.numpy()
    return np.asarray(value)


def _input(value: Any, where: str, notes: set[str]) -> np.ndarray:
    """A numeric array of at most 32 bits, channels last."""
    if hasattr(value, "convert") and hasattr(value, "mode"):  # of PIL
        if value.mode not in _MODES or "transparency" in value.info:
            raise UserError(
                f"{where} is a picture of mode {value.mode}; expected L or RGB: "
                "convert it in the data set's transform."
            )
        x = np.asarray(value.convert(_MODES[value.mode]))
    else:
        x = _array(value)
        if _has_channels_first(value, x.shape):
            notes.add(_NOTE)
            x = np.moveaxis(x, 0, -1)
    if x.dtype.kind not in "biuf":
        raise UserError(
            f"{where} is {type(value).__name__} of {x.dtype}; expected numbers: a "
            "tensor, an array or a picture."
        )
    if x.dtype == bool or x.dtype == np.float64:
        x = x.astype(np.float32)
    if x.dtype.kind in "iu" and x.dtype.itemsize > 4:
        if x.size and np.abs(x).max() >= 2**31:
            raise UserError(f"{where} holds {np.abs(x).max()}, beyond 32 bits.")
        x = x.astype(np.int32)
    if x.ndim == 2 and not hasattr(value, "convert") and x.dtype == np.uint8:
        notes.add(_GRAY_NOTE)
    is_gray = x.dtype == np.uint8 or hasattr(value, "convert")
    return x[..., None] if x.ndim == 2 and is_gray else x


def _has_channels_first(value: Any, shape: tuple[int, ...]) -> bool:
    """Whether an input is an image (channels, height, width), as torch has them.

    A tensor may have any number of channels (13 spectral bands), an array 1 or 3.
    """
    if len(shape) != 3:
        return False
    if hasattr(value, "detach"):
        return shape[0] in (1, 3) or shape[2] not in (1, 3, 4)
    return shape[0] in (1, 3) and shape[2] not in (1, 3)


def _common_class_names(datasets: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The class names of all splits, where data sets have any.

    Args:
      datasets: split -> data set.

    Raises:
      UserError: two data sets of which a label is not the same class, as two image
        folders have that don't hold the same classes.
    """
    named = {split: _class_names(dataset) for split, dataset in datasets.items()}
    known = {split: names for split, names in named.items() if names is not None}
    if not known:
        return None
    longest = max(known.values(), key=len)
    for split, names in known.items():
        if names != longest[: len(names)]:
            other = next(s for s, n in known.items() if n == longest)
            raise UserError(
                f"TorchDataset: the classes are {listing(names)} in "
                f"{split_fields.split_field(split, 'dataset')}, but {listing(longest)} "
                f"in {split_fields.split_field(other, 'dataset')}, so that a label is "
                "not the same class in both; renumber the labels of one of them, or "
                "pass class_names= if the numbers mean the same."
            )
    return longest


def _class_names(dataset: Any) -> tuple[str, ...] | None:
    """`classes` of a data set, or of the one that it is a subset of."""
    while dataset is not None:
        names = getattr(dataset, "classes", None)
        if isinstance(names, list | tuple) and all(isinstance(n, str) for n in names):
            return tuple(names)
        dataset = getattr(dataset, "dataset", None)
    return None
