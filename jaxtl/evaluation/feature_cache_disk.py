"""Cached features on disk: a folder per entry, written whole, believed only if intact.

Nothing here raises for what the disk does: features can always be computed again, so a
folder that can't be used is told in one sentence and training goes on without it.
"""

import hashlib
import json
import os
import pathlib
import shutil
import tempfile

import jax
import numpy as np

from jaxtl.core import checkpoint
from jaxtl.core.types import PyTree, Tokens

FACTS = "features.json"


def folder(asked: str | None) -> pathlib.Path:
    """Returns the folder of all entries: the one asked for, or the user's cache."""
    if asked is not None:
        return pathlib.Path(asked)
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "jaxtl" / "features"


def write(root: pathlib.Path, key: str, values: PyTree, flops: float | None) -> str:
    """Writes an entry; returns a note where that fails, "" where it is there."""
    kept = "features are kept in memory alone"
    try:
        root.mkdir(parents=True, exist_ok=True)
        part = pathlib.Path(tempfile.mkdtemp(prefix=".part-", dir=root))
    except OSError as error:
        return (
            f"{kept}: the cache folder {str(root)!r} can't be written ({_why(error)})"
        )
    try:
        names = {}
        for i, leaf in enumerate(jax.tree.leaves(values)):
            stored = leaf.view(np.uint16) if leaf.dtype.name == "bfloat16" else leaf
            np.save(part / f"{i}.npy", stored)
            names[f"{i}.npy"] = {
                "sha256": _sha(part / f"{i}.npy"),
                "dtype": leaf.dtype.name,
            }
        facts = {"tokens": isinstance(values, Tokens), "flops": flops, "files": names}
        (part / FACTS).write_text(json.dumps(facts))
        os.replace(part, root / key)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        if (root / key / FACTS).exists():
            return ""  # another process was quicker
        return (
            f"{kept}: the cache folder {str(root)!r} can't be written ({_why(error)})"
        )
    return ""


def read(root: pathlib.Path, key: str):
    """Returns ((values, flops) or None, a note where an entry was damaged)."""
    at = root / key
    try:
        if not at.is_dir():
            return None, ""
        facts = json.loads((at / FACTS).read_text())
        leaves = []
        for name, stored in facts["files"].items():
            if _sha(at / name) != stored["sha256"]:
                raise ValueError(f"{name} is not what was written")
            leaf = np.load(at / name, allow_pickle=False)
            if stored["dtype"] == "bfloat16":
                leaf = leaf.view(jax.numpy.bfloat16.dtype)
            leaves.append(leaf)
        values = Tokens(*leaves) if facts["tokens"] else leaves[0]
        return (values, facts["flops"]), ""
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        shutil.rmtree(at, ignore_errors=True)
        return (
            None,
            f"the cached features in {str(at)!r} were damaged ({error}): rebuilt",
        )


def _sha(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _why(error: OSError) -> str:
    if checkpoint.is_full(error):
        return "the disk is full"
    return (error.strerror or type(error).__name__).lower()
