"""Data sets: the options they share, the tables that sources read, and their splits.

    Data (options, frozen) --read()--> Table (all examples) --prepare()--> Dataset

A source is a subclass of `Data` with a `read()`; splits, labels, noise and checks are
the same for all. Tables are cached for the process, since a sweep of hundreds of small
runs shares its data; splits are cheap and made anew for each run.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any, ClassVar

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.data import images, lazy_array, paths, preprocess, splits, validation
from jaxtl.data.preprocess import Preprocess


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """All examples of one source, before they are split.

    Attributes:
      x: (n, ...) numpy array, a `LazyArray`, or a dict of arrays of equal length.
        Images are (n, height, width, channels).
      y: (n,) integers below len(class_names) for "classification"; (n, labels) of 0
        and 1 for "multilabel"; (n,) or (n, targets) floats for "regression".
      class_names: names in label order; None makes them "0", "1", ...
      task: "classification", "multilabel", "regression" or "language".
      splits: row numbers of the splits "train", "val" and "test" that the data
        themselves have; {} for none.
      preprocess: how stored values become a model's input; None takes
        `preprocess.default(x)`.
      standardize: bool per feature: subtract the mean and divide by the standard
        deviation of the train rows (vectors only).
    """

    x: PyTree
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
      classes: use these classes only, renumbered 0..K-1 in this order; names or
        integer labels.
      labels_per_class: keep this many train labels per class; the other train rows
        become the "unlabelled" split. With one seed, the rows that keep 2 labels per
        class are among those that keep 5.
      labels: or keep this many train labels in all, in the classes' proportions; 0
        removes them all (unsupervised domain adaptation).
      label_noise: fraction of the labelled train rows whose label is replaced by a
        uniformly drawn other class.
      val: fraction (float) or count (int) of the train rows held out for validation;
        0 for none; unused where the data have a validation split.
      test: likewise for the test split.
      limit: use at most this many train rows, before test and validation are split off.
      split_seed: seed of test and validation, so that all seeds of an experiment share
        them; None takes the experiment's seed. Labels and noise always depend on the
        experiment's seed.
      size: bring images to this height and width, once, at load. None keeps their
        size, or takes the one that goes with pretrained weights
        (`pretrained.FromHub`).
      shortest: with `size`: resize the shorter side to this, then cut `size` out of
        the middle; None stretches.
      channels: bring images to 1 (luma) or 3 channels, once, at load.
      preprocess: how stored values become the model's input; None takes the source's
        preprocessing. A pretrained model's mean and std go here.
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

    # Whether read() itself brings images to `size`, as it decodes them.
    resizes_images: ClassVar[bool] = False

    def __post_init__(self):
        if self.classes is not None:
            object.__setattr__(self, "classes", tuple(self.classes))
        if isinstance(self.size, list):
            object.__setattr__(self, "size", tuple(self.size))
        validation.check_options(self)

    def read(self) -> Table:
        """Reads all examples; each source implements it."""
        raise TypeError(f"{type(self).__name__} defines no read()")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Examples with their splits, ready to be streamed.

    Attributes:
      name: the source's class name.
      x: as in `Table`, with `size`, `channels` and `classes` applied.
      y: labels, with label noise on the train rows.
      y_clean: labels as the source reads them.
      class_names: names in label order; () for regression.
      task: "classification", "multilabel", "regression" or "language".
      rows: int32 row numbers of "train", "val", "test", and of "unlabelled" where
        some train rows lost their labels; disjoint.
      preprocess: how stored values become a model's input.
      fingerprint: short hash of the data (not of the splits).
    """

    name: str
    x: PyTree
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

        0 for language, where the outputs are the vocabulary's.
        """
        if self.task == "regression":
            return 1 if self.y.ndim == 1 else self.y.shape[1]
        return len(self.class_names)

    @property
    def example_shape(self) -> Any:
        """Shape of one example without the batch axis; a dict of them for a dict."""
        if isinstance(self.x, dict):
            return {name: tuple(v.shape[1:]) for name, v in self.x.items()}
        return tuple(self.x.shape[1:])

    @property
    def dtype(self) -> Any:
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
    """Reads a data set, checks it and splits it.

    Args:
      data: a source with its options.
      seed: the experiment's; decides everything that `data.split_seed` does not.

    Raises:
      UserError: an option or a value of the data that is not valid, by its name.
    """
    if not isinstance(data, Data):
        raise UserError(f"data must be a data set such as Digits(); got {data!r}.")
    table, fingerprint = load_table(data)
    if data.preprocess is not None:
        table = dataclasses.replace(table, preprocess=data.preprocess)
        table = _with_image_size(table, data.shortest)
    rows = splits.make_splits(data, table, seed)
    y = splits.add_label_noise(table, rows["train"], data.label_noise, seed)
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


# The options that do not change the table: tables are cached without them.
_SPLIT_OPTIONS = (
    "labels_per_class",
    "labels",
    "label_noise",
    "val",
    "test",
    "limit",
    "split_seed",
    "preprocess",
)


def load_table(data: Data) -> tuple[Table, str]:
    """Reads a source's table in the size and classes of its options.

    The last 8 tables are cached for the process, by the options that change them and by
    the modification times of the files that they name. A source that can't be told from
    another by its options (declared with eq=False, or holding an array as it is) is
    read every time.

    Returns:
      The checked table and its fingerprint.
    """
    if not _is_comparable(data):
        return _load_table.__wrapped__(data, ())
    defaults = {f.name: f.default for f in dataclasses.fields(Data)}
    source = dataclasses.replace(
        data, **{name: defaults[name] for name in _SPLIT_OPTIONS}
    )
    return _load_table(source, _modification_times(data))


def clear_table_cache() -> None:
    """Empties the cache of `load_table`."""
    _load_table.cache_clear()


@functools.lru_cache(maxsize=8)
def _load_table(data: Data, modification_times: tuple) -> tuple[Table, str]:
    table = validation.checked_table(data.read(), type(data).__name__)
    if data.classes is not None:
        table = splits.keep_classes(table, data.classes)
    if data.size is not None or data.channels is not None:
        table = _resized(table, data)
    if table.preprocess is None:
        table = dataclasses.replace(table, preprocess=preprocess.default(table.x))
    return _with_image_size(table, data.shortest), splits.fingerprint(table)


def _is_comparable(data: Data) -> bool:
    try:
        hash(data)
    except TypeError:
        return False
    # With eq=False the comparison inherited from Data would see Data's options alone.
    return type(data).__dataclass_params__.eq


def _modification_times(data: Data) -> tuple:
    """State of the files that a source names, so that an edited file is read again."""
    files = []
    for name in ("path", "labels_path", "val_path", "test_path"):
        value = getattr(data, name, None)
        files += value if isinstance(value, tuple) else [value]
    return paths.modification_times(
        [file for file in files if isinstance(file, (str, os.PathLike))]
    )


def _resized(table: Table, data: Data) -> Table:
    """The table with its images in the size and channels of the options."""
    x, size = table.x, images.as_size(data.size)
    if isinstance(x, dict) or len(x.shape) != 4:
        shape = "a dict" if isinstance(x, dict) else tuple(x.shape)
        raise UserError(
            f"size and channels concern images (n, height, width, channels); "
            f"this x is {shape}."
        )
    if data.resizes_images:
        size = None
    has_size = size is None or (data.shortest is None and size == x.shape[1:3])
    if has_size and data.channels in (None, x.shape[3]):
        return table
    if lazy_array.is_lazy(x):
        size, channels = size or tuple(x.shape[1:3]), data.channels or x.shape[3]
        x = lazy_array.ResizedImages(x, size, channels, data.shortest)
        return dataclasses.replace(table, x=x)
    if data.channels == 1:  # fewer planes to resize
        x = images.convert_channels(x, 1)
    x = images.resize(x, size, data.shortest) if size else x
    x = images.convert_channels(x, data.channels) if data.channels else x
    return dataclasses.replace(table, x=x)


def _with_image_size(table: Table, shortest: int | None) -> Table:
    """Stores the images' size in the preprocessing, for files that come later."""
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


def _standardized(table: Table, rows: dict[str, np.ndarray]) -> Preprocess:
    """Puts mean and std of all train rows, labelled or not, into the preprocessing."""
    if table.standardize is None or table.preprocess.mean is not None:
        return table.preprocess
    train = np.concatenate([rows["train"], rows.get("unlabelled", rows["train"][:0])])
    x = np.asarray(table.x[np.sort(train)], np.float64) / table.preprocess.scale
    mean, std = x.mean(0), x.std(0)
    # A constant feature carries no information; dividing it by 1 keeps it finite.
    std = np.where(std > 1e-12 * np.maximum(1.0, np.abs(mean)), std, 1.0)
    columns = np.asarray(table.standardize, bool)
    return dataclasses.replace(
        table.preprocess,
        mean=tuple(np.where(columns, mean, 0.0).tolist()),
        std=tuple(np.where(columns, std, 1.0).tolist()),
    )
