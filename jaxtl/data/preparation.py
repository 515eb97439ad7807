"""Preparing a data set: its source is read, checked, resized and split.

Tables are cached for the process, since a sweep of hundreds of small runs shares its
data; splits are cheap and made anew for each run.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np

from jaxtl.core import progress
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.data import (
    fingerprint,
    framing,
    grouped_splits,
    images,
    lazy_array,
    preprocess,
    splits,
    storage,
    table_encoding,
    task_outputs,
    tokenizer_training,
    validation,
)
from jaxtl.data.class_index import class_index
from jaxtl.data.dataset import MULTITASK, UNIFORM, Data, Dataset, Table
from jaxtl.data.preprocess import Preprocess


def prepare(
    data: Data, seed: int = 0, splits_file: pathlib.Path | None = None
) -> Dataset:
    """Reads a data set, checks it and splits it.

    Args:
      data: a source with its options.
      seed: the experiment's; decides everything that `data.split_seed` does not.
      splits_file: splits that a run stored, to be used in place of new ones.

    Returns:
      The data set with its splits, and with label noise in the train split if asked
      for.

    Raises:
      UserError: an option or a value of the data that is not valid, by its name.
      DataChanged: the data are not those of the splits file.
    """
    if not isinstance(data, Data):
        raise UserError(f"data must be a data set such as Digits(); got {data!r}.")
    table, digest = load_table(data)
    if data.preprocess is not None:
        pre = dataclasses.replace(
            data.preprocess,
            offset=table.preprocess.offset,
            target_offset=table.preprocess.target_offset,
        )
        shortest = framing.shortest_of(table, data)
        table = dataclasses.replace(table, preprocess=pre)
        table = _with_image_size(table, data, shortest)
    dataset = Dataset(
        name=type(data).__name__,
        x=table.x,
        y=table.y,
        y_clean=table.y,
        class_names=table.class_names,
        task=table.task,
        rows={},
        preprocess=table.preprocess,
        fingerprint=digest,
        origins=table.origins,
        files=data.files(),
        target_names=table.target_names,
        feature_names=table.feature_names,
        encoding=table.encoding,
        notes=table.notes,
        sampling=data.sampling,
        weights=None if table.weights is None else np.float32(table.weights),
    )
    _check_columns(data, table)
    if data.sampling != UNIFORM and table.task != "classification":
        raise UserError(
            f"data.sampling={data.sampling!r} needs examples of one class each, but "
            f"the task is {table.task}."
        )
    if splits_file is None:
        rows = splits.make_splits(data, table, seed)
        y = splits.add_label_noise(table, rows["train"], data.label_noise, seed)
        dataset = dataclasses.replace(dataset, rows=rows, y=y)
    else:
        dataset = splits.load_splits(splits_file, dataset)
    if table.task == MULTITASK:
        y = dataset.y[dataset.rows["train"]]
        task_outputs.check_labelled(y, dataset.class_names, dataset.name)
    if table.groups is not None:
        note = grouped_splits.describe(data, table.groups, dataset.rows)
        dataset = dataclasses.replace(dataset, notes=(*dataset.notes, note))
    dataset = tokenizer_training.tokenized(dataset, table, data)
    return _fitted(dataset, table)


def _check_columns(data: Data, table: Table) -> None:
    """Raises UserError for an option that names a column the source has not got."""
    for field, values in (
        ("split_by", table.groups),
        ("sample_weight", table.weights),
    ):
        if getattr(data, field) is not None and values is None:
            raise UserError(
                f"data.{field}={getattr(data, field)!r}: {type(data).__name__} has no "
                "columns beside its inputs and labels; tables (CSV) and Arrays have."
            )


# The options that do not change the table: tables are cached without them.
SPLIT_OPTIONS = (
    "labels_per_class",
    "labels",
    "label_noise",
    "val",
    "test",
    "limit",
    "split_seed",
    "sampling",
    "preprocess",
)


def load_table(data: Data) -> tuple[Table, str]:
    """Reads a source's table in the size and classes of its options.

    The last 8 tables are cached for the process, by the options that change them and by
    the states of all files that they are read from (`files.states` says at what cost)
    and a hash of arrays in memory, about 1 s per GB.
    A source that can't be told from another by its options (declared with eq=False, or
    holding an array as it is) is read every time.

    Returns:
      The checked table and its fingerprint.
    """
    if not _is_comparable(data):
        return _read_table(data)
    defaults = {f.name: f.default for f in dataclasses.fields(data)}
    options = (*SPLIT_OPTIONS, *data.fitted_options)
    source = dataclasses.replace(data, **{name: defaults[name] for name in options})
    return _cached_table(source, (data.file_states(), _memory_state(data)))


def clear_table_cache() -> None:
    """Empties the cache of `load_table`."""
    _cached_table.cache_clear()


@functools.lru_cache(maxsize=8)
def _cached_table(data: Data, states: tuple) -> tuple[Table, str]:
    return _read_table(data)


def _memory_state(data: Data) -> tuple[str, ...]:
    """Hashes of the arrays in memory that a source holds."""
    values = [getattr(data, field.name) for field in dataclasses.fields(data)]
    return tuple(v.content_digest() for v in values if hasattr(v, "content_digest"))


def _read_table(data: Data) -> tuple[Table, str]:
    name = type(data).__name__
    with progress.Task(f"reading {name}"):
        table = validation.checked_table(data.read(), name)
    if data.classes is not None:
        table = keep_classes(table, data.classes)
    if data.size is not None or data.channels is not None:
        table = _resized(table, data)
    if table.preprocess is None:
        table = dataclasses.replace(table, preprocess=preprocess.default(table.x))
    # Before an offset is subtracted, since equal differences are not equal values.
    digest = fingerprint.fingerprint(table, data)
    table = storage.in_32_bits(table, name)
    return _with_image_size(table, data, framing.shortest_of(table, data)), digest


def _is_comparable(data: Data) -> bool:
    try:
        hash(data)
    except TypeError:
        return False
    # With eq=False the comparison inherited from Data would see Data's options alone.
    return type(data).__dataclass_params__.eq


def keep_classes(table: Table, classes: tuple[str | int, ...]) -> Table:
    """Keeps the examples of some classes and renumbers them 0..K-1 in that order.

    Args:
      table: a classification `Table`.
      classes: names; or integer labels as in the table, where no name is a number.

    Raises:
      UserError: a class that does not exist, or one without examples.
    """
    if table.task != "classification":
        raise UserError(
            f"data.classes needs classification, but the task is {table.task}."
        )
    labels = [class_index(c, table.class_names, "data.classes") for c in classes]
    if len(set(labels)) < len(labels):
        raise UserError(f"data.classes names a class twice: {classes}.")
    new_labels = np.full(len(table.class_names), -1, np.int32)
    new_labels[labels] = np.arange(len(labels))
    kept_rows = np.flatnonzero(new_labels[table.y] >= 0)
    if len(kept_rows) == 0:
        raise UserError(f"there are no examples of data.classes={classes}.")
    new_rows = np.full(len(table.y), -1, np.int32)
    new_rows[kept_rows] = np.arange(len(kept_rows))
    split_rows = {
        name: new_rows[rows][new_rows[rows] >= 0] for name, rows in table.splits.items()
    }
    return dataclasses.replace(
        table,
        x=lazy_array.select(table.x, kept_rows),
        y=new_labels[table.y[kept_rows]],
        class_names=tuple(table.class_names[label] for label in labels),
        splits=split_rows,
        origins=table.origins.select(kept_rows),
        digests=None if table.digests is None else table.digests[kept_rows],
        groups=None if table.groups is None else table.groups[kept_rows],
        weights=None if table.weights is None else table.weights[kept_rows],
    )


def _resized(table: Table, data: Data) -> Table:
    """The table with its images in the size and channels of the options."""
    x, size = _images_of(table), images.as_size(data.size)
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
        x = lazy_array.ResizedImages(x, size, channels, data.shortest, data.resample)
        return _with_images(table, x)
    if data.channels == 1:  # fewer planes to resize
        x = images.convert_channels(x, 1)
    x = images.resize(x, size, data.shortest, data.resample) if size else x
    x = images.convert_channels(x, data.channels) if data.channels else x
    return _with_images(table, x)


def _images_of(table: Table) -> PyTree:
    """The images of a table, where they come with other inputs; else its x."""
    x = table.x
    return x[preprocess.IMAGE] if isinstance(x, dict) and preprocess.IMAGE in x else x


def _with_images(table: Table, new: Any) -> Table:
    """The table with other images, for `_images_of`."""
    x = table.x
    return dataclasses.replace(
        table, x={**x, preprocess.IMAGE: new} if isinstance(x, dict) else new
    )


def _with_image_size(
    table: Table, data: Data, shortest: int | tuple[int, int] | None
) -> Table:
    """Stores the images' size in the preprocessing, for files that come later."""
    x = _images_of(table)
    if isinstance(x, dict) or len(x.shape) != 4:
        return table
    channels = x.shape[3] if x.shape[3] in (1, 3) else None
    pre = dataclasses.replace(
        table.preprocess,
        size=tuple(x.shape[1:3]),
        shortest=shortest,
        resample=data.resample,
        channels=channels,
    )
    return dataclasses.replace(table, preprocess=pre)


_NOT_FITTED = (
    "there are no train rows: columns are scaled and filled as those that the model "
    "was trained on"
)


def _fitted(dataset: Dataset, table: Table) -> Dataset:
    """Fits what the preprocessing of a table has of its train rows."""
    pre, notes = table.preprocess, []
    if not dataset.has_training_rows:
        if table.encoding is not None:
            notes = [_NOT_FITTED]
        return dataclasses.replace(dataset, notes=(*dataset.notes, *notes))
    if table.encoding is not None:
        pre, notes = table_encoding.fit(
            table.encoding, table.x, dataset.rows, table.origins, pre
        )
    pre = _standardized(table, dataset.rows, pre)
    return dataclasses.replace(dataset, preprocess=pre, notes=(*dataset.notes, *notes))


def _standardized(
    table: Table, rows: dict[str, np.ndarray], pre: Preprocess
) -> Preprocess:
    """Puts mean and std of all train rows, labelled or not, into the preprocessing.

    Holes count as the values that fill them.
    """
    if table.standardize is None or pre.mean is not None:
        return pre
    train = np.concatenate([rows["train"], rows.get("unlabelled", rows["train"][:0])])
    x = np.asarray(table.x[np.sort(train)], np.float64)
    if pre.fill is not None:
        x = np.where(np.isnan(x), preprocess.stored_fill(pre), x)
    mean, std, is_constant = x.mean(0), x.std(0), x.min(0) == x.max(0)
    # A constant feature carries no information; dividing it by 1 keeps it finite.
    mean, std = np.where(is_constant, x[0], mean), np.where(is_constant, 1.0, std)
    mean = (mean + (0.0 if pre.offset is None else np.asarray(pre.offset))) / pre.scale
    std = np.where(is_constant, 1.0, std / pre.scale)
    columns = np.asarray(table.standardize, bool)
    return dataclasses.replace(
        pre,
        mean=tuple(np.where(columns, mean, 0.0).tolist()),
        std=tuple(np.where(columns, std, 1.0).tolist()),
    )
