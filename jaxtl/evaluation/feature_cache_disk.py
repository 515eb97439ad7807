"""Cached features on disk: a folder per entry, read only if it is intact.

Nothing here raises for what the disk does: features can always be computed again, so a
folder that can't be used is described in a note and training goes on without it.
"""

import hashlib
import json
import os
import pathlib
import shutil

import jax
import numpy as np

from jaxtl.core import atomic, resource_errors
from jaxtl.core.types import PyTree, Tokens

METADATA = "features.json"


def folder(path: str | None) -> pathlib.Path:
    """The folder of all entries: `path`, or one in the user's cache directory."""
    if path is not None:
        return pathlib.Path(path)
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "jaxtl" / "features"


def write(root: pathlib.Path, key: str, values: PyTree, flops: float | None) -> str:
    """Writes an entry, completely or not at all.

    Args:
      root: the folder of all entries, created if missing.
      key: of the entry.
      values: array or Tokens, on the host or on the device.
      flops: operations per example, or None.

    Returns:
      A note on why it was not written, "" where it is there.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with atomic.folder(root / key, replace=False) as draft:
            _write_files(draft, values, flops)
    except OSError as error:
        if (root / key / METADATA).exists():
            return ""  # another process has written it meanwhile
        return _not_written(root, error)
    return ""


def _write_files(path: pathlib.Path, values: PyTree, flops: float | None) -> None:
    files = {}
    for i, leaf in enumerate(jax.tree.leaves(values)):
        name, leaf = f"{i}.npy", np.asarray(leaf)
        # numpy files have no bfloat16.
        stored = leaf.view(np.uint16) if leaf.dtype.name == "bfloat16" else leaf
        np.save(path / name, stored)
        files[name] = {"sha256": _sha256(path / name), "dtype": leaf.dtype.name}
    content = {"tokens": isinstance(values, Tokens), "flops": flops, "files": files}
    (path / METADATA).write_text(json.dumps(content))


def _not_written(root: pathlib.Path, error: OSError) -> str:
    reason = (error.strerror or type(error).__name__).lower()
    if resource_errors.disk_error(error) in resource_errors.FULL:
        reason = "the disk is full"
    return (
        "features are kept in memory alone: the cache folder "
        f"{str(root)!r} can't be written ({reason})"
    )


def read(
    root: pathlib.Path, key: str
) -> tuple[tuple[PyTree, float | None] | None, str]:
    """Reads an entry; a damaged one is removed.

    Returns:
      ((values, flops) or None, a note where the entry was damaged, else "").
    """
    path = root / key
    try:
        if not path.is_dir():
            return None, ""
        content = json.loads((path / METADATA).read_text())
        leaves = [_read_leaf(path / name, f) for name, f in content["files"].items()]
        values = Tokens(*leaves) if content["tokens"] else leaves[0]
        return (values, content["flops"]), ""
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        shutil.rmtree(path, ignore_errors=True)
        note = f"the cached features in {str(path)!r} were damaged ({error}): rebuilt"
        return None, note


def _read_leaf(path: pathlib.Path, stored: dict[str, str]) -> np.ndarray:
    if _sha256(path) != stored["sha256"]:
        raise ValueError(f"{path.name} is not what was written")
    leaf = np.load(path, allow_pickle=False)
    is_bfloat16 = stored["dtype"] == "bfloat16"
    return leaf.view(jax.numpy.bfloat16.dtype) if is_bfloat16 else leaf


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
