"""What learned from episodes in a stored run: its term, and the term's parameters."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core import checkpoint
from jaxtl.core import tree as trees
from jaxtl.evaluation import episodes
from jaxtl.evaluation.episodes import Learner


def read_learner(
    directory: pathlib.Path, meta: Mapping[str, Any], which: str
) -> Learner | None:
    """The learner of a run's checkpoint, None where its data were single examples.

    Args:
      directory: of the run.
      meta: of the checkpoint.
      which: "best" or "last" parameters.
    """
    if "learner" not in meta:
        return None
    folder, step, own = directory / "checkpoints", meta["step"], {}
    if "learner" in checkpoint.items(folder, step):
        prefix = {"best": "best.", "last": "current."}[which]
        leaves = checkpoint.read(folder, step, "learner").items()
        paths = {p.replace(".", "/"): x for p, x in leaves if p.startswith(prefix)}
        [own] = trees.nested(paths).values()
    return episodes.from_json(meta["learner"], jax.tree.map(jnp.asarray, own))
