"""Importance of parameters on disk: one safetensors file.

Its header holds the kind, the examples it was computed from, and a digest of every leaf
of the weights it belongs to, so that a file of another model raises an error.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.pretrained import tensor_files
from jaxtl.terms import checks
from jaxtl.terms.base import Setup

FOLDER = "importance"  # in a run's directory


@dataclasses.dataclass(frozen=True)
class Importance:
    """The content of an importance file.

    Attributes:
      kind: "fisher", "empirical", "mas", … (the names of `jaxtl importance --kind`).
      arrays: name -> array; for the diagonal kinds a leaf's path -> its importance.
      digests: path of each leaf of the weights it belongs to -> `digest`.
      examples: number of examples it was computed from.
      split: their split of the data.
    """

    kind: str
    arrays: Mapping[str, Any]
    digests: Mapping[str, str]
    examples: int
    split: str


def digest(leaf: ArrayLike) -> str:
    """The sha256 of an array's bytes, dtype and shape, in hexadecimal."""
    array = np.ascontiguousarray(leaf)
    sha256 = hashlib.sha256(f"{array.dtype.name}{np.shape(leaf)}".encode())
    sha256.update(array.tobytes())
    return sha256.hexdigest()


def digests(params: PyTree) -> dict[str, str]:
    """Path -> `digest` of every leaf."""
    return {path: digest(leaf) for path, leaf in trees.flatten(params).items()}


def write(path: pathlib.Path, importance: Importance) -> None:
    """Writes an importance file atomically, and creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = {
        "kind": importance.kind,
        "digests": dict(importance.digests),
        "examples": importance.examples,
        "split": importance.split,
    }
    tensor_files.write(path, importance.arrays, meta)


def read(path: pathlib.Path) -> Importance:
    """Reads an importance file; each array is read when its values are first used.

    Raises:
      UserError: if it is damaged or is not an importance file.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"{str(path)!r} should be a .safetensors file.")
    file = tensor_files.read(path)
    try:
        return Importance(
            kind=file.meta["kind"],
            arrays=file.tensors,
            digests=json.loads(file.meta["digests"]),
            examples=int(file.meta["examples"]),
            split=file.meta["split"],
        )
    except (KeyError, ValueError):
        raise UserError(f"{str(path)!r} holds tensors, but no importance.") from None


def locate(importance: str, kind: str) -> pathlib.Path:
    """The importance file that a term's field names.

    Args:
      importance: the field: a run's directory, or the file itself.
      kind: the kind of importance, for the file's name in a run.
    """
    path = pathlib.Path(importance)
    if path.is_dir() or not path.suffix:
        return path / FOLDER / f"{kind}.safetensors"
    return path


def _command(path: pathlib.Path, kind: str) -> str:
    """The command that writes an importance file."""
    if path.parent.name == FOLDER:
        return f"`jaxtl importance {path.parent.parent} --kind {kind}`"
    return f"`jaxtl importance FILE --kind {kind} --out {path}`"


def difference(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str | None:
    """Path of the first leaf of `ours` whose digest differs in `theirs`, or None."""
    return next((path for path, d in ours.items() if theirs.get(path) != d), None)


def load(
    setup: Setup, importance: str, kinds: tuple[str, ...], field: str = "importance"
) -> Importance:
    """Reads the importance that a term names.

    Args:
      setup: what the term is checked against.
      importance: a file, or a run's directory that holds one of the first kind.
      kinds: the kinds that the term can read.
      field: name of the field, for the message.

    Raises:
      UserError: if there is no such file, it is damaged or of another kind.
    """
    name = checks.where(setup, field)
    if not isinstance(importance, str) or not importance:
        raise UserError(
            f"{name}={importance!r}: expected the path of a run or of a file that "
            "`jaxtl importance` wrote."
        )
    path = locate(importance, kinds[0])
    if not path.is_file():
        raise UserError(
            f"{name}={importance!r}: there is no file {str(path)!r}; make it with "
            f"{_command(path, kinds[0])}."
        )
    try:
        stored = read(path)
    except UserError as error:
        raise UserError(
            f"{name}={importance!r}: {str(error).rstrip('.')}; make it anew with "
            f"{_command(path, kinds[0])}."
        ) from None
    if stored.kind not in kinds:
        raise UserError(
            f"{name}={importance!r}: {str(path)!r} holds importance of kind "
            f"{stored.kind!r}, expected {' or '.join(map(repr, kinds))}; make it with "
            f"`jaxtl importance … --kind {kinds[0]}`."
        )
    return stored


def check(
    setup: Setup, importance: str, kinds: tuple[str, ...], field: str = "importance"
) -> None:
    """Checks that a term's importance can be read and belongs to θ₀.

    Only leaves that have a source are compared, since a new head has none.

    Args:
      setup, importance, kinds, field: as in `load`.

    Raises:
      UserError: as `load` does, or if it belongs to other weights than θ₀.
    """
    stored = load(setup, importance, kinds, field)
    leaf = difference(digests(setup.source.params), stored.digests)
    if leaf is not None:
        path = locate(importance, kinds[0])
        raise UserError(
            f"{checks.where(setup, field)}={importance!r}: {str(path)!r} is importance "
            f"from another model: its weights differ from those that init= loaded at "
            f"{leaf!r} first; compute it for that model with `jaxtl importance`."
        )
