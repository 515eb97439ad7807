"""Every tensor of any file or directory, whether a model is known for it or not."""

import json
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.models import flax_msgpack
from jaxtl.pretrained import tensor_files, torch_files
from jaxtl.pretrained.tensor_files import TensorFile

# Names that files of tensors may have beyond those that models are loaded from.
_ENDINGS = (".msgpack", ".ckpt", ".npy")


def read(path: pathlib.Path) -> TensorFile:
    """Lists the tensors of a file, or of all files of a directory.

    A file's kind is told from its first bytes: safetensors, torch (zipped or not; no
    code in it runs), npz, npy, or flax's msgpack.

    Raises:
      UserError: no such file, none of these kinds, a damaged file, a pickle with code.
    """
    if not path.is_dir():
        return _read_file(path)
    if tensor_files.in_directory(path) is not None:
        return tensor_files.read(path)
    files = [p for p in sorted(path.iterdir()) if p.suffix in _all_endings()]
    indices = [p for p in sorted(path.iterdir()) if p.name.endswith(".index.json")]
    parts = [_read_file(p) for p in indices or files]
    if not parts:
        raise UserError(
            f"the directory {str(path)!r} holds no file of tensors (expected one that "
            f"ends in {', '.join(_all_endings())})."
        )
    names = [name for part in parts for name in part.tensors]
    is_unique = len(set(names)) == len(names)
    tensors = {
        name if is_unique else f"{part.path.name}:{name}": tensor
        for part in parts
        for name, tensor in part.tensors.items()
    }
    return TensorFile(path, tensors)


def _all_endings() -> tuple[str, ...]:
    return (*tensor_files.SUFFIXES, *_ENDINGS)


def _read_file(path: pathlib.Path) -> TensorFile:
    if path.name.endswith(".index.json") or not path.is_file():
        return tensor_files.read(path)
    kind = _kind(path)
    if kind == "torch":
        return TensorFile(path, *torch_files.read(path, any_depth=True))
    if kind == "msgpack":
        return TensorFile(path, dict(_leaves(flax_msgpack.read(path))))
    if kind == "npy":
        try:
            return TensorFile(path, {path.stem: np.load(path, mmap_mode="r")})
        except (ValueError, EOFError) as error:
            raise UserError(
                f"{str(path)!r} is no complete npy file: {error}."
            ) from None
    return tensor_files.read(path, kind)


def _kind(path: pathlib.Path) -> str:
    """The kind of a file by its content; that of its ending where that tells nothing.

    Raises:
      UserError: a file of another kind.
    """
    with path.open("rb") as stream:
        start = stream.read(16)
    if start[:4] == b"PK\x03\x04" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        return "torch" if any(n.endswith("data.pkl") for n in names) else "npz"
    if start[:6] == b"\x93NUMPY":
        return "npy"
    if path.suffix == ".npy":
        return "npy"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**32:
        return "safetensors"
    if path.suffix in tensor_files.SUFFIXES:
        return path.suffix.removeprefix(".") if _is_array_file(path) else "torch"
    # A pickle begins with its protocol, a map of msgpack with its size.
    if start[:1] == b"\x80" and start[1:2] in _PROTOCOLS:
        return "torch"
    if path.suffix == ".msgpack" or start[:1] in _MAPS:
        return "msgpack"
    raise UserError(
        f"{str(path)!r} is no file of tensors: expected safetensors, torch, npz, npy "
        "or flax's msgpack."
    )


def _is_array_file(path: pathlib.Path) -> bool:
    return path.suffix in (".safetensors", ".npz")


_PROTOCOLS = (b"\x02", b"\x03", b"\x04", b"\x05")
_MAPS = tuple(bytes([first]) for first in (*range(0x80, 0x90), 0xDE, 0xDF))


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from _leaves(value, f"{path}/{name}" if path else str(name))
    elif hasattr(tree, "shape") and hasattr(tree, "dtype"):
        yield path, tree


def model_type(path: pathlib.Path) -> str | None:
    """`model_type` of a directory's config.json, None where there is none."""
    config = path / "config.json"
    try:
        content = json.loads(config.read_text()) if config.is_file() else {}
    except ValueError:
        return None
    kind = content.get("model_type") if isinstance(content, dict) else None
    return kind if isinstance(kind, str) else None
