"""What a data set is: the options all share, what a source hands over, what is used.

    Data (options, frozen) --read()--> Table (all examples) --prepare()--> Dataset

A source is a subclass of `Data` with a `read()`; splits, labels, noise and checks are
the same for all. Reading is memoised for the process, since a sweep of hundreds of
small runs shares its data; carving is cheap and done anew for each.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import typing

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.data import lazy_array, validation
from jaxtl.data import paths as data_paths
from jaxtl.data import splits as data_splits
from jaxtl.data.preprocess import Preprocess, default, image_size, recolour, resize

TASKS = validation.TASKS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """All examples of one source, before anything is carved.

    Attributes:
      x: (n, ...) numpy array, a `lazy.Lazy`, or a dict of arrays of equal length.
        Images are (n, height, width, channels).
      y: (n,) integers below len(class_names) for "classification"; (n, labels) of 0
        and 1 for "multilabel"; (n,) or (n, targets) floats for "regression".
      class_names: names in label order; None makes them "0", "1", ...
      task: "classification", "multilabel", "regression" or "language".
      splits: rows that the data themselves call "train", "val" or "test"; {} for none.
      preprocess: None takes `preprocess.default(x)`.
      standardize: bool per feature: subtract the mean and divide by the standard
        deviation of the train rows (vectors only).
    """

    x: typing.Any
    y: np.ndarray
    class_names: tuple[str, ...] | None = None
    task: str = "classification"
    splits: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    preprocess: Preprocess | None = None
    standardize: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Options that every data set has.

    Attributes:
      classes: use these classes only, relabelled 0..K-1 in this order; names or
        integer labels.
      labels_per_class: keep this many train labels per class; the other train rows
        become the "unlabelled" split. 2 labels are among the 5 of the same seed.
      labels: or keep this many train labels in all, in the classes' proportions; 0
        takes them all away (unsupervised domain adaptation).
      label_noise: fraction of the labelled train rows whose label is replaced by a
        uniformly drawn other class.
      val: fraction (float) or count (int) of the train rows held out for validation;
        0 for none; unused where the data bring their own.
      test: likewise for the test split.
      limit: use at most this many train rows, before anything is carved.
      split_seed: seed of test and validation, so that all seeds of an experiment share
        them; None takes the experiment's. Labels and noise are the experiment's.
      size: bring images to this height and width, once, at load. None keeps theirs,
        or takes what the directory of pretrained weights says (`pretrained.FromHub`).
      shortest: with `size`: resize the shorter side to this, then cut `size` out of
        the middle; None stretches.
      channels: bring images to 1 (luma) or 3 channels, once, at load.
      preprocess: how stored values become the model's input; None is the source's own
        way. A pretrained model's mean and std go here.
    """

    classes: tuple[str | int, ...] | None = None
    labels_per_class: int | None = None
    labels: int | None = None
    label_noise: float = 0.0
    val: float | int = 0.1
    test: float | int = 0.2
    limit: int | None = None
    split_seed: int | None = None
    size: int | tuple[int, int] | None = None
    shortest: int | None = None
    channels: int | None = None
    preprocess: Preprocess | None = None

    # Whether read() itself brings images to size, as it decodes them.
    decodes: typing.ClassVar[bool] = False

    def __post_init__(self):
        if self.classes is not None:
            object.__setattr__(self, "classes", tuple(self.classes))
        if isinstance(self.size, list):
            object.__setattr__(self, "size", tuple(self.size))
        validation.options(self)

    def read(self) -> Table:
        """Returns every example; each source implements it."""
        raise TypeError(f"{type(self).__name__} defines no read()")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Examples with their splits, ready to be streamed.

    Attributes:
      name: the source's class name.
      x: as in `Table`, with `size`, `channels` and `classes` applied.
      y: labels, with label noise on the train rows.
      y_clean: labels as the data give them.
      class_names: names in label order; () for regression.
      task: "classification", "multilabel", "regression" or "language".
      rows: int32 row numbers of "train", "val", "test", and of "unlabelled" where
        some train rows lost their labels; disjoint.
      preprocess: how stored values become a model's input.
      fingerprint: short hash of the data (not of the splits).
    """

    name: str
    x: typing.Any
    y: np.ndarray
    y_clean: np.ndarray
    class_names: tuple[str, ...]
    task: str
    rows: dict[str, np.ndarray]
    preprocess: Preprocess
    fingerprint: str

    @property
    def outputs(self) -> int:
        """Number of classes, of labels (multilabel) or of regression targets.

        0 for language: a language model's outputs are its vocabulary's.
        """
        if self.task == "regression":
            return 1 if self.y.ndim == 1 else self.y.shape[1]
        return len(self.class_names)

    @property
    def example_shape(self) -> typing.Any:
        """Shape of one example without the batch axis; a dict of them for a dict."""
        if isinstance(self.x, dict):
            return {name: tuple(v.shape[1:]) for name, v in self.x.items()}
        return tuple(self.x.shape[1:])

    @property
    def dtype(self) -> typing.Any:
        """Stored dtype; a dict of them for a dict."""
        if isinstance(self.x, dict):
            return {name: np.dtype(v.dtype) for name, v in self.x.items()}
        return np.dtype(self.x.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of x if it lay in memory."""
        parts = self.x.values() if isinstance(self.x, dict) else [self.x]
        return sum(int(np.prod(v.shape)) * np.dtype(v.dtype).itemsize for v in parts)


def prepare(data: Data, seed: int = 0) -> Dataset:
    """Reads, checks and carves.

    Args:
      data: a source with its options.
      seed: the experiment's; decides everything that `data.split_seed` does not.

    Raises:
      UserError: anything wrong with the options or the data, named.
    """
    if not isinstance(data, Data):
        raise UserError(f"data must be a data set such as Digits(); got {data!r}.")
    table, fingerprint = load(data)
    if data.preprocess is not None:
        table = dataclasses.replace(table, preprocess=data.preprocess)
        table = _sized(table, data.shortest)
    rows = data_splits.carve(data, table, seed)
    y = data_splits.corrupt(table, rows["train"], data.label_noise, seed)
    return Dataset(
        name=type(data).__name__,
        x=table.x,
        y=y,
        y_clean=table.y,
        class_names=table.class_names,
        task=table.task,
        rows=rows,
        preprocess=_standardized(table, rows),
        fingerprint=fingerprint,
    )


# What decides the carving and not the reading: the key of the memo leaves it out.
_CARVING = (
    "labels_per_class",
    "labels",
    "label_noise",
    "val",
    "test",
    "limit",
    "split_seed",
    "preprocess",
)


def load(data: Data) -> tuple[Table, str]:
    """Returns the checked table, in the wanted size and classes, and its fingerprint.

    Memoised for the process by the options that matter to it and by the modification
    time of the files behind it; the last 8 stay. `load.clear()` empties the memo.
    A source that can't be told from another by its options (declared with eq=False, or
    holding an array as it is) is read every time.
    """
    if not _comparable(data):
        return _load.__wrapped__(data, ())
    plain = {f.name: f.default for f in dataclasses.fields(Data)}
    source = dataclasses.replace(data, **{name: plain[name] for name in _CARVING})
    return _load(source, _stamp(data))


@functools.lru_cache(maxsize=8)
def _load(data: Data, stamp: tuple) -> tuple[Table, str]:
    table = validation.table(data.read(), type(data).__name__)
    if data.classes is not None:
        table = data_splits.restrict(table, data.classes)
    if data.size is not None or data.channels is not None:
        table = _reshaped(table, data)
    if table.preprocess is None:
        table = dataclasses.replace(table, preprocess=default(table.x))
    return _sized(table, data.shortest), data_splits.fingerprint(table)


load.clear = _load.cache_clear


def _comparable(data: Data) -> bool:
    try:
        hash(data)
    except TypeError:
        return False
    # With eq=False the comparison inherited from Data would see Data's options alone.
    return type(data).__dataclass_params__.eq


def _stamp(data: Data) -> tuple:
    """State of the files a source names, so an edited file is read again."""
    paths = []
    for name in ("path", "labels_path", "val_path", "test_path"):
        value = getattr(data, name, None)
        paths += value if isinstance(value, tuple) else [value]
    return data_paths.stamp([p for p in paths if isinstance(p, (str, os.PathLike))])


def _reshaped(table: Table, data: Data) -> Table:
    x, size = table.x, image_size(data.size)
    if isinstance(x, dict) or len(x.shape) != 4:
        shape = "a dict" if isinstance(x, dict) else tuple(x.shape)
        raise UserError(
            f"size and channels concern images (n, height, width, channels); "
            f"this x is {shape}."
        )
    if data.decodes:
        size = None
    framed = size is None or (data.shortest is None and size == x.shape[1:3])
    if framed and data.channels in (None, x.shape[3]):
        return table
    if lazy_array.is_lazy(x):
        kept = size or tuple(x.shape[1:3]), data.channels or x.shape[3]
        x = lazy_array.Reshaped(x, *kept, data.shortest)
        return dataclasses.replace(table, x=x)
    if data.channels == 1:  # fewer planes to resize
        x = recolour(x, 1)
    x = resize(x, size, data.shortest) if size else x
    x = recolour(x, data.channels) if data.channels else x
    return dataclasses.replace(table, x=x)


def _sized(table: Table, shortest: int | None) -> Table:
    """Tells the preprocessing the images' size, so that `predict` can make it so."""
    if isinstance(table.x, dict) or len(table.x.shape) != 4:
        return table
    channels = table.x.shape[3] if table.x.shape[3] in (1, 3) else None
    pre = dataclasses.replace(
        table.preprocess,
        size=tuple(table.x.shape[1:3]),
        shortest=shortest,
        channels=channels,
    )
    return dataclasses.replace(table, preprocess=pre)


def _standardized(table: Table, rows: dict) -> Preprocess:
    """Puts mean and std of all train rows, labelled or not, into the preprocessing."""
    if table.standardize is None or table.preprocess.mean is not None:
        return table.preprocess
    train = np.concatenate([rows["train"], rows.get("unlabelled", rows["train"][:0])])
    x = np.asarray(table.x[np.sort(train)], np.float64) / table.preprocess.scale
    mean, std = x.mean(0), x.std(0)
    # A constant feature carries nothing; dividing it by 1 keeps it finite.
    std = np.where(std > 1e-12 * np.maximum(1.0, np.abs(mean)), std, 1.0)
    keep = np.asarray(table.standardize, bool)
    return dataclasses.replace(
        table.preprocess,
        mean=tuple(np.where(keep, mean, 0.0).tolist()),
        std=tuple(np.where(keep, std, 1.0).tolist()),
    )
