"""Reading and writing of tensor files: safetensors, torch pickles (data only), npz.

A tensor is read from disk when its values are used, one at a time, so a large file
needs no more memory than the arrays that are created from it.
"""

import dataclasses
import json
import math
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from jaxtl.core import atomic, numpy_files, text_files
from jaxtl.core.errors import UserError, nearest
from jaxtl.pretrained import torch_files

# Endings of the files that a model can be loaded from.
SUFFIXES = (".safetensors", ".pt", ".pth", ".th", ".bin", ".npz")

# Names of dtypes in safetensors headers.
_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "C64": np.dtype(np.complex64),
}


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """An array that `numpy.asarray` reads.

    Attributes:
      shape, dtype: of the array.
      read: reads it into a new array.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return self.size * self.dtype.itemsize

    def __array__(
        self, dtype: np.dtype | None = None, copy: bool | None = None
    ) -> np.ndarray:
        array = self.read()
        return array if dtype is None else array.astype(dtype, copy=False)


@dataclasses.dataclass(frozen=True)
class TensorFile:
    """The content of a tensor file.

    Attributes:
      path: the file, or the index of a sharded one.
      tensors: name -> array or `LazyTensor`.
      meta: further entries (strings of a safetensors header, numbers beside a torch
        state_dict).
    """

    path: pathlib.Path
    tensors: Mapping[str, Any]
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def names(self, entry: str) -> tuple[str, ...]:
        """The names that an entry of the header lists as JSON, () for no such entry.

        Raises:
          UserError: an entry that is no list.
        """
        text = self.meta.get(entry)
        try:
            names = json.loads(text) if isinstance(text, str) else []
        except ValueError:
            names = None
        if not isinstance(names, list):
            raise UserError(
                f"{str(self.path)!r}: {entry} in the header is {text!r}; expected a "
                "list in JSON."
            )
        return tuple(map(str, names))


def read(path: str | pathlib.Path, kind: str = "") -> TensorFile:
    """Opens a tensor file, a shard index, or the only model in a directory.

    Args:
      path: the file or the directory.
      kind: "safetensors" or "npz" for a file whose name does not tell; "" goes by its
        ending.

    Raises:
      UserError: no such file, an unknown kind, a damaged file, a pickle with code.
    """
    path = pathlib.Path(path) if kind else _find_tensor_file(pathlib.Path(path))
    if path.name.endswith(".index.json"):
        return _sharded(path)
    kind = kind or path.suffix.removeprefix(".")
    if kind == "safetensors":
        return _safetensors(path)
    if kind == "npz":
        return _npz(path)
    return TensorFile(path, *torch_files.read(path))


def _find_tensor_file(path: pathlib.Path) -> pathlib.Path:
    """The tensor file (or shard index) at a path, or in the directory at it."""
    if path.is_dir():
        file = in_directory(path)
        if file is not None:
            return file
        listing = ", ".join(p.name for p in _tensor_files(path)) or "none"
        raise UserError(
            f"the directory {str(path)!r} should hold model.safetensors or one tensor "
            f"file ({', '.join(SUFFIXES)}); it holds {listing}."
        )
    if not path.exists():
        folder = path.parent
        names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        raise UserError(f"no file {str(path)!r}{nearest(path.name, names)}.")
    if path.suffix not in SUFFIXES and not path.name.endswith(".index.json"):
        raise UserError(
            f"{str(path)!r} is no tensor file: expected one of "
            f"{', '.join(SUFFIXES)}, or a directory that has one."
        )
    return path


_MODEL_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def in_directory(folder: pathlib.Path) -> pathlib.Path | None:
    """The model's file or shard index in a directory, None where there is none.

    It has one of the usual names, or is the only tensor file.
    """
    for name in _MODEL_FILES:
        if (folder / name).exists():
            return folder / name
    files = _tensor_files(folder)
    return files[0] if len(files) == 1 else None


def _tensor_files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES)


def _sharded(path: pathlib.Path) -> TensorFile:
    names = text_files.read_json(path).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(n, str) for n in names):
        raise UserError(f"{str(path)!r} is no shard index (no weight_map).")
    shards = {}
    for name in sorted(set(names.values())):
        if not (path.parent / name).exists():
            raise UserError(
                f"{str(path)!r} names the shard {name!r}, which is missing."
            )
        shards[name] = read(path.parent / name).tensors
    missing = [n for n, shard in names.items() if n not in shards[shard]]
    if missing:
        raise UserError(f"{str(path)!r} names tensors that no shard has: {missing}.")
    return TensorFile(path, {n: shards[shard][n] for n, shard in names.items()})


def _safetensors(path: pathlib.Path) -> TensorFile:
    try:
        with safetensors.safe_open(path, "numpy"):
            pass  # the library checks the header: sizes, gaps, overlaps, types
    except safetensors.SafetensorError as error:
        raise UserError(
            f"{str(path)!r} is damaged or no complete safetensors file: {error}."
        ) from None
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    meta = header.pop("__metadata__", None) or {}
    tensors = {
        name: _lazy_slice(path, name, entry, 8 + length)
        for name, entry in header.items()
    }
    return TensorFile(path, tensors, meta)


def _lazy_slice(
    path: pathlib.Path, name: str, entry: Mapping[str, Any], offset: int
) -> LazyTensor:
    """The tensor that a header entry describes, read from the file when it is used."""
    if entry["dtype"] not in _DTYPES:
        raise UserError(
            f"{str(path)!r}: the tensor {name!r} has dtype {entry['dtype']}; "
            f"known are {', '.join(_DTYPES)}."
        )
    dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
    start = offset + entry["data_offsets"][0]

    # Reading instead of mapping: the pages of a map that were read would count as
    # memory in use, in addition to the arrays that are created from them.
    def fetch() -> np.ndarray:
        flat = np.fromfile(path, dtype, math.prod(shape), offset=start)
        return flat.reshape(shape)

    return LazyTensor(shape, dtype, fetch)


def _npz(path: pathlib.Path) -> TensorFile:
    try:
        with zipfile.ZipFile(path) as archive:
            tensors = {
                member.removesuffix(".npy"): _lazy_member(path, archive, member)
                for member in archive.namelist()
            }
    except (
        zipfile.BadZipFile,
        ValueError,
        KeyError,
        EOFError,
        OSError,
        NotImplementedError,
        zlib.error,
    ) as error:
        raise UserError(f"{str(path)!r} is no complete npz file: {error}.") from None
    return TensorFile(path, tensors)


def _lazy_member(
    path: pathlib.Path, archive: zipfile.ZipFile, member: str
) -> LazyTensor:
    """A member of an npz archive, read from the file when it is used."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = header(stream)

    def fetch() -> np.ndarray:
        return numpy_files.read_npz(path, [member.removesuffix(".npy")]).popitem()[1]

    return LazyTensor(shape, dtype, fetch)


def write(
    path: str | pathlib.Path,
    tensors: Mapping[str, Any],
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Writes a safetensors file; if that fails, no file is left behind.

    Args:
      path: the file, whose name should end in ".safetensors".
      tensors: name -> array; they are written in this order.
      meta: strings for the header; other values are written as JSON.

    Raises:
      UserError: another ending, or an array that is not of numbers.
    """
    from safetensors.numpy import save_file

    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"{str(path)!r} should end in .safetensors.")
    texts = {
        str(k): v if isinstance(v, str) else json.dumps(v)
        for k, v in (meta or {}).items()
    }
    arrays = {n: np.asarray(x, order="C") for n, x in tensors.items()}
    for name, x in arrays.items():
        if x.dtype.kind in "USOMm":
            raise UserError(
                f"the array {name!r} of dtype {x.dtype} can't be written to {path}: "
                "safetensors holds numbers only."
            )
    with atomic.file(path) as draft:
        save_file(arrays, draft, metadata=texts or None)
