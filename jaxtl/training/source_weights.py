"""θ₀ of a stored run, which is read again whenever the run is continued.

Regularizers towards θ₀, WiSE-FT and the drift all read it, and a run that is continued
from other initial weights under the same path would mix two sources.
"""

import pathlib

import jax

from jaxtl.core import process_group, sharding
from jaxtl.core.errors import UserError
from jaxtl.core.types import Source
from jaxtl.terms.regularizers import importance_file
from jaxtl.training import run_dir


def save(directory: pathlib.Path, source: Source) -> None:
    """Writes a digest of every array of θ₀; nothing for a run from scratch."""
    digests = _digests(source)  # of all processes of a job, which hold its parts
    if digests:
        path = directory / run_dir.SOURCE
        process_group.on_first(lambda: run_dir.write_json(path, digests))


def check(directory: pathlib.Path, source: Source) -> None:
    """Compares θ₀ as it was read now with the one that a run began from.

    Raises:
      UserError: an array differs.
    """
    if not (directory / run_dir.SOURCE).exists():
        return
    stored, current = run_dir.read_json(directory / run_dir.SOURCE), _digests(source)
    names = sorted({*stored, *current})
    changed = [name for name in names if stored.get(name) != current.get(name)]
    if changed:
        raise UserError(
            f"the weights that {directory} began from (init=) have changed since: "
            f"{len(changed)} of {len(names)} arrays differ, {changed[0]} for one. "
            "Restore them, or start a new run."
        )


def _digests(source: Source) -> dict[str, str]:
    """Name of each array of θ₀ -> its digest; the pass takes 1 s per GB."""
    trees = {"params": source.params, "stats": source.stats, "head": source.head}
    leaves = {name: tree for name, tree in trees.items() if jax.tree.leaves(tree)}
    return importance_file.digests(sharding.to_host(leaves))
