"""TensorFlow Datasets without TensorFlow: prepared array_record data, read directly."""

from __future__ import annotations

import dataclasses
import pathlib
import typing

import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.data import images, lazy_array, paths
from jaxtl.data.dataset import Data, Table
from jaxtl.data.tokenizer import Tokenizer, as_tokenizer

_SPLITS = {"test": "test", "validation": "val", "val": "val"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TFDS(Data):
    """A prepared data set of TensorFlow Datasets, or of a builder of one's own.

    `TFDS("mnist")`, `TFDS("mnist:3.0.1", data_dir="…")`, or the folder that holds
    `dataset_info.json`. The splits test and validation are used where they exist.

    Attributes:
      name: of the builder, with an optional configuration and version, or a folder.
      data_dir: where the data were prepared; None is TFDS's own default.
      x: feature to predict from: an image, numbers of one shape, or a text.
      pair: feature of a second text, None for none.
      tokenizer: of texts, a `Tokenizer` or the path of one.
      y: feature to predict.
      train: the train split, sliced at will: "train[:20%]".
      memory_limit: bytes; what decodes to more is decoded for each batch.
    """

    name: str = dataclasses.field(kw_only=False)
    data_dir: str | None = None
    x: str = "image"
    pair: str | None = None
    tokenizer: Tokenizer | str | None = None
    y: str = "label"
    train: str = "train"
    memory_limit: int = 2**31

    resizes_images = True

    def read(self) -> Table:
        """Decodes every example once, where they fit; labels are always read."""
        builder = _builder(self)
        features = builder.info.features
        for field in ("x", "y", "pair"):
            feature = getattr(self, field)
            if feature is not None and feature not in features:
                raise UserError(
                    f"TFDS.{field}: {self.name} has no feature {feature!r}"
                    f"{nearest(feature, features)}; it has {', '.join(features)}."
                )
        wanted = {"train": self.train}
        for split in builder.info.splits:
            if split in _SPLITS and split != self.train:
                wanted[_SPLITS[split]] = split
        parts = {ours: _source(builder, split, self) for ours, split in wanted.items()}
        count = sum(map(len, parts.values()))
        if count == 0:
            raise UserError(f"TFDS: {self.name} has no examples in {self.train!r}.")
        if self.tokenizer is not None:
            x, y = _tokenized(parts.values(), self)
        else:
            x, y = self._arrays(builder, wanted, parts, count)
        bounds = np.cumsum([0, *map(len, parts.values())])
        rows = {
            ours: np.arange(start, end)
            for ours, start, end in zip(parts, bounds, bounds[1:])
        }
        y, names, task = _targets(y, features[self.y])
        given = rows if len(rows) > 1 else {}
        return Table(x=x, y=y, class_names=names, task=task, splits=given)

    def _arrays(self, builder, wanted, parts, count: int) -> tuple:
        """Returns (x, y) of images or numbers, lazy x where they don't fit."""
        shape, dtype = _shape(builder.info.features[self.x], self)
        if count * int(np.prod(shape)) * dtype.itemsize <= self.memory_limit:
            return _decoded(parts.values(), self, shape, dtype)
        how = self.x, shape, dtype, self.shortest
        records = [Records(part, *how) for part in parts.values()]
        return lazy_array.Concatenation(tuple(records)), _labels_alone(
            builder, wanted, self
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Records(lazy_array.LazyArray):
    """One feature of a data source, decoded as it is read."""

    source: typing.Any
    field: str
    example_shape: tuple[int, ...]
    dtype: np.dtype
    shortest: int | None = None

    @property
    def shape(self):
        return (len(self.source), *self.example_shape)

    def rows(self, index):
        out = np.empty((len(index), *self.example_shape), self.dtype)
        for place, row in enumerate(index):
            value = self.source[int(row)][self.field]
            out[place] = _fitted(np.asarray(value), self.example_shape, self.shortest)
        return out


def _fitted(value, shape, shortest):
    """One image in the wanted size and channels; anything else as it is."""
    if value.ndim != 3 or (value.shape == shape and shortest is None):
        return value
    return images.convert_channels(
        images.resize(value[None], shape[:2], shortest), shape[2]
    )[0]


def _builder(data: TFDS):
    import tensorflow_datasets as tfds

    for place in paths.candidates(data.name):
        if (place / "dataset_info.json").exists():
            return tfds.builder_from_directory(place)
    try:
        return tfds.builder(data.name, data_dir=data.data_dir)
    except tfds.core.DatasetNotFoundError:
        stem = data.name.split(":")[0].split("/")[0]
        close = nearest(stem, tfds.list_builders(with_community_datasets=False))
        raise UserError(
            f"TFDS.name: there is no data set {data.name!r}{close}; it must be a "
            "builder's name or a folder with dataset_info.json."
        ) from None


def _source(builder, split: str, data: TFDS, **options):
    """The random-access source of one split; a UserError says how to prepare it."""
    try:
        return builder.as_data_source(split, **options)
    except (NotImplementedError, AssertionError, FileNotFoundError) as error:
        name, folder = data.name, pathlib.Path(str(builder.data_path))
        formats = "in another file format" if folder.exists() else "not"
        raise UserError(
            f"TFDS: {name} is {formats} prepared in {folder}, where array_record files "
            "are needed. Prepare it once: pip install 'jaxtl[tfds-prepare]' and "
            f"tfds build {name} --file_format=array_record"
            + (f" --data_dir={data.data_dir}." if data.data_dir else ".")
        ) from error
    except ValueError as error:
        splits = ", ".join(builder.info.splits)
        raise UserError(
            f"TFDS.train: {split!r} is no split of {data.name}, which has {splits}: "
            f"{str(error).splitlines()[0]}"
        ) from None


def _shape(feature, data: TFDS) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of one x, with `size` and `channels` where they are wanted."""
    shape, dtype = feature.shape, feature.np_dtype
    if not isinstance(shape, tuple) or isinstance(dtype, dict):
        raise UserError(
            f"TFDS.x: {data.x!r} has parts; name a feature that is an array."
        )
    dtype = np.dtype(dtype)
    if not np.issubdtype(dtype, np.number):
        raise UserError(
            f"TFDS.x: {data.x!r} holds {dtype}, and numbers are needed; "
            "give tokenizer= if it is text."
        )
    if len(shape) == 3:
        size = images.as_size(data.size) or shape[:2]
        shape = (*size, data.channels or shape[2])
    if None in shape:
        raise UserError(
            f"TFDS.x: {data.x!r} of {data.name} has no fixed shape, {shape}: "
            "give size=, (height, width), for images."
        )
    return tuple(shape), dtype


def _decoded(sources, data: TFDS, shape, dtype) -> tuple[np.ndarray, list]:
    """x of all examples, and their y, from one pass."""
    x, y = np.empty((sum(map(len, sources)), *shape), dtype), []
    for source in sources:
        for row in range(len(source)):
            example = source[row]
            x[len(y)] = _fitted(np.asarray(example[data.x]), shape, data.shortest)
            y.append(example[data.y])
    return x, y


def _tokenized(sources, data: TFDS) -> tuple[dict[str, np.ndarray], list]:
    """Ids and masks of all texts, and their y, from one pass."""
    fields = [f for f in (data.x, data.pair) if f is not None]
    columns, y = [[] for _ in fields], []
    for source in sources:
        for row in range(len(source)):
            example = source[row]
            for field, column in zip(fields, columns):
                column.append(_text(example[field], field))
            y.append(example[data.y])
    return as_tokenizer(data.tokenizer)(*columns), y


def _text(value, field: str) -> str:
    if not isinstance(value, bytes | str):
        raise UserError(f"TFDS.tokenizer: the feature {field!r} holds no text.")
    return value.decode() if isinstance(value, bytes) else value


def _labels_alone(builder, wanted, data: TFDS) -> list:
    """y of all examples, without decoding an image."""
    import tensorflow_datasets as tfds

    image = isinstance(builder.info.features[data.x], tfds.features.Image)
    skip = {data.x: tfds.decode.SkipDecoding()} if image else None
    sources = [_source(builder, s, data, decoders=skip) for s in wanted.values()]
    return [source[row][data.y] for source in sources for row in range(len(source))]


def _targets(y: list, feature):
    """y as an array, class names and task."""
    y, names = np.asarray(y), getattr(feature, "names", None)
    if y.dtype.kind in "SUO":
        texts = [v.decode() if isinstance(v, bytes) else str(v) for v in y.tolist()]
        names, y = np.unique(texts, return_inverse=True)
    if np.issubdtype(y.dtype, np.floating):
        return y, None, "regression"
    task = "multilabel" if y.ndim == 2 else "classification"
    return y, None if names is None else tuple(str(name) for name in names), task
