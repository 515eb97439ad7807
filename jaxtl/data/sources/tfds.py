"""TensorFlow Datasets, read from prepared array_record files without TensorFlow."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxtl.core import files, progress
from jaxtl.core.errors import UserError, nearest
from jaxtl.data import framing, images, label_arrays, lazy_array, origins, paths, splits
from jaxtl.data.dataset import Data, Table
from jaxtl.data.preprocess import Preprocess
from jaxtl.data.tokenizer import Tokenizer, as_tokenizer

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

# A random-access source of TFDS: indexed by row, it gives {feature: value}.
_Source = Sequence[Mapping[str, Any]]

_SPLITS = {"test": "test", "validation": "val", "val": "val"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TFDS(Data):
    """A prepared data set of TensorFlow Datasets, or of a builder that you wrote.

    `TFDS("mnist")`, `TFDS("mnist:3.0.1", data_dir="…")`, or the folder that holds
    `dataset_info.json`. The splits test and validation are used where they exist.

    Attributes:
      name: of the builder, with an optional configuration and version, or a folder.
      data_dir: folder in which the data were prepared; None is TFDS's default.
      x: feature to predict from: an image, numbers of one shape, or a text.
      pair: feature of a second text, None for none.
      tokenizer: for texts, a `Tokenizer` or the path of one.
      y: feature to predict.
      train: the train split, or a slice of it: "train[:20%]"; None for evaluation on
        the other splits alone.
      memory_limit: bytes; data that decode to more are decoded for each batch.
    """

    name: str = dataclasses.field(kw_only=False)
    data_dir: str | None = None
    x: str = "image"
    pair: str | None = None
    tokenizer: Tokenizer | str | None = None
    y: str = "label"
    train: str | None = "train"
    memory_limit: int = 2**31

    resizes_images = True

    def sizes_differ(self) -> bool:
        """Whether no size is chosen, and the images have no common one."""
        return self.size is None and self._is_of_several_sizes(_builder(self))

    def read(self) -> Table:
        """Decodes all examples once, where they fit; labels are always read."""
        builder = _builder(self)
        self._check_features(builder.info.features)
        if self.size is None and self._is_of_several_sizes(builder):
            return self._read_in_default_size()
        names = {} if self.train is None else {"train": self.train}
        for name in builder.info.splits:
            if name in _SPLITS and name != self.train:
                names[_SPLITS[name]] = name
        sources = {split: _source(builder, name, self) for split, name in names.items()}
        if sum(map(len, sources.values())) == 0:
            shown = (
                ", ".join(map(repr, names.values())) or "the splits test, validation"
            )
            raise UserError(f"TFDS: {self.name} has no examples in {shown}.")
        if self.tokenizer is not None:
            x, y = _tokenized(sources.values(), self)
        else:
            x, y = self._arrays(builder, names, sources)
        class_names = getattr(builder.info.features[self.y], "names", None)
        labels = label_arrays.read(
            label_arrays.stacked(y, "TFDS.y"), class_names, None, "TFDS.y"
        )
        parts = [(f"{self.name}, {names[s]}", len(sources[s])) for s in sources]
        return Table(
            x=x,
            y=labels.y,
            class_names=labels.class_names,
            task=labels.task,
            splits=splits.consecutive({s: len(d) for s, d in sources.items()}),
            origins=origins.of_elements(parts),
            digests=_digests(builder, self, len(y)),
            notes=tuple(labels.notes),
        )

    def _is_of_several_sizes(self, builder: tfds.core.DatasetBuilder) -> bool:
        features = builder.info.features
        shape = getattr(features[self.x], "shape", ()) if self.x in features else ()
        return isinstance(shape, tuple) and len(shape) == 3 and None in shape[:2]

    def _read_in_default_size(self) -> Table:
        """Reads images of several sizes, none of which is looked at, as squares."""
        side = framing.SIDES[-1]
        framed = dataclasses.replace(self, size=(side, side), shortest=side)
        table = framed.read()
        note = (
            f"pictures of several sizes are brought to {side}×{side}, the shorter side "
            "resized and the middle cut out; size= and shortest= choose otherwise"
        )
        pre = Preprocess(scale=255.0, size=(side, side), shortest=side)
        return dataclasses.replace(table, preprocess=pre, notes=(*table.notes, note))

    def files(self) -> tuple[pathlib.Path, ...]:
        """The folder of the prepared data, and the files of the tokenizer."""
        folder = pathlib.Path(str(_builder(self).data_path))
        if self.tokenizer is None:
            return (folder,)
        return (folder, *as_tokenizer(self.tokenizer).files())

    def _check_features(self, features: Mapping[str, Any]) -> None:
        for field in ("x", "y", "pair"):
            feature = getattr(self, field)
            if feature is not None and feature not in features:
                raise UserError(
                    f"TFDS.{field}: {self.name} has no feature {feature!r}"
                    f"{nearest(feature, features)}; it has {', '.join(features)}."
                )

    def _arrays(
        self,
        builder: tfds.core.DatasetBuilder,
        names: Mapping[str, str],
        sources: Mapping[str, _Source],
    ) -> tuple[np.ndarray | lazy_array.LazyArray, list]:
        """(x, y) of images or numbers; x is lazy where it does not fit."""
        shape, dtype = _shape_and_dtype(builder.info.features[self.x], self)
        count = sum(map(len, sources.values()))
        if count * int(np.prod(shape)) * dtype.itemsize <= self.memory_limit:
            return _decoded(sources.values(), self, shape, dtype)
        parts = [
            _DecodedFeature(source, self.x, shape, dtype, self.shortest, self.resample)
            for source in sources.values()
        ]
        return lazy_array.Concatenation(tuple(parts)), _labels(builder, names, self)


@dataclasses.dataclass(frozen=True, eq=False)
class _DecodedFeature(lazy_array.LazyArray):
    """One feature of a source, decoded as it is read."""

    source: _Source
    field: str
    example_shape: tuple[int, ...]
    dtype: np.dtype
    shortest: int | tuple[int, int] | None = None
    resample: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.source), *self.example_shape)

    def rows(self, index: np.ndarray) -> np.ndarray:
        x = np.empty((len(index), *self.example_shape), self.dtype)
        for i, row in enumerate(progress.track(index, "decoding examples")):
            value = np.asarray(self.source[int(row)][self.field])
            x[i] = _resized(value, self.example_shape, self.shortest, self.resample)
        return x


def _resized(
    value: np.ndarray,
    shape: tuple[int, ...],
    shortest: int | tuple[int, int] | None,
    resample: str | None,
) -> np.ndarray:
    """One image in the size and channels of `shape`; other values are unchanged."""
    if value.ndim != 3 or (value.shape == shape and shortest is None):
        return value
    image = images.resize(value[None], shape[:2], shortest, resample)
    return images.convert_channels(image, shape[2])[0]


def _builder(data: TFDS) -> tfds.core.DatasetBuilder:
    import tensorflow_datasets as tfds

    for folder in paths.candidates(data.name):
        if (folder / "dataset_info.json").exists():
            return tfds.builder_from_directory(folder)
    try:
        return tfds.builder(data.name, data_dir=data.data_dir)
    except tfds.core.DatasetNotFoundError:
        stem = data.name.split(":")[0].split("/")[0]
        close = nearest(stem, tfds.list_builders(with_community_datasets=False))
        raise UserError(
            f"TFDS.name: there is no data set {data.name!r}{close}; it must be a "
            "builder's name or a folder with dataset_info.json."
        ) from None


def _digests(
    builder: tfds.core.DatasetBuilder, data: TFDS, count: int
) -> np.ndarray | None:
    """Hash of all prepared files and of what is read of them, for each example.

    None for texts, whose ids lie in memory.
    """
    if data.tokenizer is not None:
        return None
    folder = pathlib.Path(str(builder.data_path))
    below = sorted(state.path for state in files.states([folder]))
    lines = [f"{data.x} {data.train}"]
    for path, digest in zip(below, files.digests(below)):
        lines.append(f"{path.removeprefix(str(folder))} {digest}")
    sha = hashlib.sha256("\n".join(lines).encode())
    return np.repeat(np.bytes_(sha.hexdigest()), count)


def _source(
    builder: tfds.core.DatasetBuilder, split: str, data: TFDS, **options: Any
) -> _Source:
    """The random-access source of one split.

    Raises:
      UserError: the data are not prepared as array_record files (the message says how
        to prepare them), or there is no such split.
    """
    try:
        return builder.as_data_source(split, **options)
    except (NotImplementedError, AssertionError, FileNotFoundError) as error:
        name, folder = data.name, pathlib.Path(str(builder.data_path))
        state = "in another file format" if folder.exists() else "not"
        data_dir = f" --data_dir={data.data_dir}" if data.data_dir else ""
        raise UserError(
            f"TFDS: {name} is {state} prepared in {folder}, where array_record files "
            "are needed. Prepare it once: pip install 'jaxtl[tfds-prepare]' and "
            f"tfds build {name} --file_format=array_record{data_dir}."
        ) from error
    except ValueError as error:
        splits = ", ".join(builder.info.splits)
        raise UserError(
            f"TFDS.train: {split!r} is no split of {data.name}, which has {splits}: "
            f"{str(error).splitlines()[0]}"
        ) from None


def _shape_and_dtype(feature: Any, data: TFDS) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of one x, with `size` and `channels` where they are given."""
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


def _decoded(
    sources: Collection[_Source],
    data: TFDS,
    shape: tuple[int, ...],
    dtype: np.dtype,
) -> tuple[np.ndarray, list]:
    """Decodes x and y of all examples in one pass."""
    x, y = np.empty((sum(map(len, sources)), *shape), dtype), []
    for source in sources:
        for row in progress.track(range(len(source)), "reading examples"):
            example = source[row]
            value = np.asarray(example[data.x])
            x[len(y)] = _resized(value, shape, data.shortest, data.resample)
            y.append(example[data.y])
    return x, y


def _tokenized(
    sources: Collection[_Source], data: TFDS
) -> tuple[dict[str, np.ndarray], list]:
    """Reads ids and masks of all texts, and their y, in one pass."""
    fields = [f for f in (data.x, data.pair) if f is not None]
    columns, y = [[] for _ in fields], []
    for source in sources:
        for row in progress.track(range(len(source)), "reading examples"):
            example = source[row]
            for field, column in zip(fields, columns):
                column.append(_text(example[field], field))
            y.append(example[data.y])
    return as_tokenizer(data.tokenizer)(*columns), y


def _text(value: Any, field: str) -> str:
    if not isinstance(value, bytes | str):
        raise UserError(f"TFDS.tokenizer: the feature {field!r} holds no text.")
    if isinstance(value, str):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(
            f"TFDS.tokenizer: the feature {field!r} holds {value[:40]!r}, which is not "
            "in utf-8."
        ) from None


def _labels(
    builder: tfds.core.DatasetBuilder, names: Mapping[str, str], data: TFDS
) -> list:
    """Reads y of all examples without decoding their images."""
    import tensorflow_datasets as tfds

    is_image = isinstance(builder.info.features[data.x], tfds.features.Image)
    decoders = {data.x: tfds.decode.SkipDecoding()} if is_image else None
    sources = [
        _source(builder, name, data, decoders=decoders) for name in names.values()
    ]
    return [source[row][data.y] for source in sources for row in range(len(source))]
