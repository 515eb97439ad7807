"""Reads tensor files: safetensors, torch pickles (data only), npz.

A tensor is read from disk when its values are asked for, one at a time, so a large file
needs no more memory than the arrays made of it.
"""

import contextlib
import dataclasses
import json
import math
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from jaxtl.core.errors import UserError, nearest

TORCH = (".pt", ".pth", ".th", ".bin")
KINDS = (".safetensors", *TORCH, ".npz")

DTYPES = {
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
}


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """An array that is read when `numpy.asarray` asks for it.

    Attributes:
      shape, dtype: of the array.
      read: returns it, freshly.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        array = self.read()
        return array if dtype is None else array.astype(dtype, copy=False)


@dataclasses.dataclass(frozen=True)
class TensorFile:
    """What a tensor file holds.

    Attributes:
      path: the file, or the index of a sharded one.
      tensors: name -> array or `LazyTensor`.
      meta: whatever else it says (strings of a safetensors header, numbers beside a
        torch state_dict).
    """

    path: pathlib.Path
    tensors: Mapping[str, Any]
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def read(path) -> TensorFile:
    """Opens a tensor file, a shard index, or the one model in a directory.

    Raises:
      UserError: no such file, an unknown kind, a damaged file, a pickle with code.
    """
    path = _find_tensor_file(pathlib.Path(path))
    if path.name.endswith(".index.json"):
        return _sharded(path)
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix == ".npz":
        return _npz(path)
    return _torch(path)


def _find_tensor_file(path: pathlib.Path) -> pathlib.Path:
    """Returns the tensor file (or shard index) that the path means."""
    if path.is_dir():
        return _in_directory(path)
    if not path.exists():
        folder = path.parent
        there = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        raise UserError(f"no file {str(path)!r}{nearest(path.name, there)}.")
    if path.suffix not in KINDS and not path.name.endswith(".index.json"):
        raise UserError(
            f"{str(path)!r} is no tensor file: expected one of {', '.join(KINDS)}, or "
            "a directory that has one."
        )
    return path


def _in_directory(folder: pathlib.Path) -> pathlib.Path:
    names = (
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    )
    for name in names:
        if (folder / name).exists():
            return folder / name
    found = sorted(p for p in folder.iterdir() if p.suffix in KINDS)
    if len(found) == 1:
        return found[0]
    what = ", ".join(p.name for p in found) or "none"
    raise UserError(
        f"the directory {str(folder)!r} should hold model.safetensors or one tensor "
        f"file ({', '.join(KINDS)}); found: {what}."
    )


def _sharded(path: pathlib.Path) -> TensorFile:
    try:
        names = json.loads(path.read_text())["weight_map"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{str(path)!r} is no shard index (no weight_map).") from None
    shards = {}
    for name in sorted(set(names.values())):
        if not (path.parent / name).exists():
            raise UserError(
                f"{str(path)!r} names the shard {name!r}, which is missing."
            )
        shards[name] = read(path.parent / name).tensors
    lost = [n for n, shard in names.items() if n not in shards[shard]]
    if lost:
        raise UserError(f"{str(path)!r} names tensors that no shard has: {lost}.")
    return TensorFile(path, {n: shards[shard][n] for n, shard in names.items()})


def _safetensors(path: pathlib.Path) -> TensorFile:
    try:
        with safetensors.safe_open(path, "numpy"):
            pass  # the library checks the header: sizes, gaps, overlaps, types
    except safetensors.SafetensorError as error:
        raise UserError(
            f"{str(path)!r} is damaged, it is no whole safetensors file: {error}."
        ) from None
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    meta = header.pop("__metadata__", None) or {}
    tensors = {
        name: _slice(path, name, entry, 8 + length) for name, entry in header.items()
    }
    return TensorFile(path, tensors, meta)


def _slice(path: pathlib.Path, name: str, entry: dict, offset: int) -> LazyTensor:
    if entry["dtype"] not in DTYPES:
        raise UserError(
            f"{str(path)!r}: the tensor {name!r} has dtype {entry['dtype']}; "
            f"known are {', '.join(DTYPES)}."
        )
    dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
    start = offset + entry["data_offsets"][0]

    # Reading beats mapping here: touched pages of a map count as memory in use, beside
    # the arrays made of them.
    def fetch() -> np.ndarray:
        flat = np.fromfile(path, dtype, math.prod(shape), offset=start)
        return flat.reshape(shape)

    return LazyTensor(shape, dtype, fetch)


def _npz(path: pathlib.Path) -> TensorFile:
    try:
        with zipfile.ZipFile(path) as archive:
            tensors = {
                member.removesuffix(".npy"): _member(path, archive, member)
                for member in archive.namelist()
            }
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        raise UserError(f"{str(path)!r} is no whole npz file: {error}.") from None
    return TensorFile(path, tensors)


def _member(path: pathlib.Path, archive: zipfile.ZipFile, member: str) -> LazyTensor:
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = header(stream)

    def fetch() -> np.ndarray:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[member.removesuffix(".npy")]

    return LazyTensor(shape, dtype, fetch)


def _torch(path: pathlib.Path) -> TensorFile:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{str(path)!r} is a torch file: reading it needs torch "
            "(pip install 'jaxtl[torch]')."
        ) from None
    try:
        # weights_only: a pickle may run any code; this reader builds tensors alone.
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"{str(path)!r} holds more than tensors, or is damaged; it was not "
            f"executed: {reason}."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or ["it ends early"])[0].rstrip(".")
        raise UserError(f"{str(path)!r} is no whole torch file: {reason}.") from None
    state, meta = _state_dict(path, loaded, torch)
    return TensorFile(path, {n: _numpy(t, torch) for n, t in state.items()}, meta)


def _state_dict(path: pathlib.Path, loaded, torch) -> tuple[dict, dict]:
    """Finds the tensors: at the top, or one level down beside some numbers."""

    def tensors(value) -> bool:
        return (
            isinstance(value, Mapping)
            and len(value) > 0
            and all(isinstance(v, torch.Tensor) for v in value.values())
        )

    if tensors(loaded):
        return dict(loaded), {}
    inner = loaded if isinstance(loaded, Mapping) else {}
    found = [key for key, value in inner.items() if tensors(value)]
    named = [k for k in ("state_dict", "model_state_dict", "model") if k in found]
    if not named and len(found) != 1:
        raise UserError(
            f"{str(path)!r} holds no state_dict of tensors: its content is "
            f"{type(loaded).__name__} with keys {list(inner)[:10]}."
        )
    key = (named or found)[0]
    rest = {k: v for k, v in inner.items() if isinstance(v, (int, float, str))}
    return dict(inner[key]), rest


def _numpy(tensor, torch) -> np.ndarray:
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def write(path, tensors: Mapping[str, Any], meta: Mapping[str, Any] | None = None):
    """Writes a safetensors file, whole or not at all.

    Args:
      path: where to; it should end in ".safetensors".
      tensors: name -> array; read and written in the order given.
      meta: strings for the header; other values are written as JSON.
    """
    from safetensors.numpy import save_file

    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"{str(path)!r} should end in .safetensors.")
    texts = {
        str(k): v if isinstance(v, str) else json.dumps(v)
        for k, v in (meta or {}).items()
    }
    arrays = {n: np.ascontiguousarray(np.asarray(x)) for n, x in tensors.items()}
    for name, x in arrays.items():
        if x.dtype.kind in "USOMm":
            raise UserError(
                f"the array {name!r} of dtype {x.dtype} can't be written to {path}: "
                "safetensors holds numbers only."
            )
    draft = path.with_name(path.name + ".part")
    try:
        save_file(arrays, draft, metadata=texts or None)
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
        raise
