"""Importance on disk: one safetensors file, which knows what weights it belongs to.

Its header holds the kind, the examples it was computed from, and a digest of every leaf
of the weights; another model's importance is an error and not a silent nonsense.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.pretrained import tensor_files
from jaxtl.terms import checks
from jaxtl.terms.base import Setup

FOLDER = "importance"  # of a run's directory


@dataclasses.dataclass(frozen=True)
class Importance:
    """What an importance file holds.

    Attributes:
      kind: "fisher", "empirical", "mas", … (the names of `jaxtl importance --kind`).
      arrays: name -> array; for the diagonal kinds a leaf's path -> its importance.
      digests: path of each leaf of the weights it belongs to -> `digest`.
      examples, split: what it was computed from.
    """

    kind: str
    arrays: Mapping[str, Any]
    digests: Mapping[str, str]
    examples: int
    split: str


def digest(leaf) -> str:
    """Returns the sha256 of an array's bytes, dtype and shape."""
    array = np.ascontiguousarray(leaf)
    found = hashlib.sha256(f"{array.dtype.name}{np.shape(leaf)}".encode())
    found.update(array.tobytes())
    return found.hexdigest()


def digests(params: PyTree) -> dict[str, str]:
    """Returns path -> digest of every leaf."""
    return {path: digest(leaf) for path, leaf in trees.flatten(params).items()}


def write(path: pathlib.Path, importance: Importance) -> None:
    """Writes an importance file, whole or not at all; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = {
        "kind": importance.kind,
        "digests": dict(importance.digests),
        "examples": importance.examples,
        "split": importance.split,
    }
    tensor_files.write(path, importance.arrays, meta)


def read(path: pathlib.Path) -> Importance:
    """Reads an importance file; its arrays are read when their values are asked for.

    Raises:
      UserError: if it is damaged, or holds something else.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"{str(path)!r} should be a .safetensors file.")
    found = tensor_files.read(path)
    try:
        return Importance(
            kind=found.meta["kind"],
            arrays=found.tensors,
            digests=json.loads(found.meta["digests"]),
            examples=int(found.meta["examples"]),
            split=found.meta["split"],
        )
    except (KeyError, ValueError):
        raise UserError(f"{str(path)!r} holds tensors, but no importance.") from None


def locate(importance: str, kind: str) -> pathlib.Path:
    """Returns the file that a term's path means: itself, or the one of its run."""
    path = pathlib.Path(importance)
    if path.is_dir() or not path.suffix:
        return path / FOLDER / f"{kind}.safetensors"
    return path


def command(path: pathlib.Path, kind: str) -> str:
    """Returns the command that makes an importance file."""
    if path.parent.name == FOLDER:
        return f"`jaxtl importance {path.parent.parent} --kind {kind}`"
    return f"`jaxtl importance FILE --kind {kind} --out {path}`"


def difference(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str | None:
    """Returns the first of our leaves whose digest is not theirs, None for none."""
    return next((p for p, found in ours.items() if theirs.get(p) != found), None)


def load(
    setup: Setup, importance: str, kinds: tuple[str, ...], field: str = "importance"
) -> Importance:
    """Returns the importance that a term names.

    Args:
      setup: what the term is checked against.
      importance: a file, or a run's directory that holds one of the first kind.
      kinds: what the term can read.
      field: the path's field, for the message.

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
            f"{command(path, kinds[0])}."
        )
    try:
        found = read(path)
    except UserError as error:
        raise UserError(
            f"{name}={importance!r}: {str(error).rstrip('.')}; make it anew with "
            f"{command(path, kinds[0])}."
        ) from None
    if found.kind not in kinds:
        raise UserError(
            f"{name}={importance!r}: {str(path)!r} holds importance of kind "
            f"{found.kind!r}, expected {' or '.join(map(repr, kinds))}; make it with "
            f"`jaxtl importance … --kind {kinds[0]}`."
        )
    return found


def check(
    setup: Setup, importance: str, kinds: tuple[str, ...], field: str = "importance"
) -> Importance:
    """`load`, and raises UserError too if it belongs to other weights than θ₀.

    Only leaves that have a source are compared: a new head is nobody's.
    """
    found = load(setup, importance, kinds, field)
    other = difference(digests(setup.source.params), found.digests)
    if other is not None:
        path = locate(importance, kinds[0])
        raise UserError(
            f"{checks.where(setup, field)}={importance!r}: {str(path)!r} is importance "
            f"from another model: its weights differ from those that init= loaded at "
            f"{other!r} first; compute it for that model with `jaxtl importance`."
        )
    return found
