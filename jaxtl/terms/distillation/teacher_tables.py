"""Teachers' outputs for all train examples of a stream, computed once in a process."""

import functools
import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core import compilation
from jaxtl.core.types import PyTree
from jaxtl.data.preprocess import Preprocess
from jaxtl.pretrained.trained_network import TrainedNetwork
from jaxtl.terms.base import Setup
from jaxtl.terms.distillation import teacher as teachers

MAX_TABLES = 8  # in memory; the least recently used one is dropped

# (network, preprocessing, stages, digest of weights, digest of inputs) -> outputs, the
# most recently used last. The digests are of all that the outputs depend on, so that
# the runs of a study share them and none is ever stale.
_tables: dict[Any, PyTree] = {}


class _Examples(NamedTuple):
    """A stream's train examples: their rows in order, a digest of all inputs."""

    rows: np.ndarray
    digest: str


def _digest(trees: Any) -> str:
    sha = hashlib.sha256()
    for tree in trees:
        for leaf in jax.tree.leaves(tree):
            values = np.ascontiguousarray(leaf)
            sha.update(f"{values.shape}{values.dtype}".encode())
            sha.update(values.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def _examples(setup: Setup, stream: str) -> _Examples:
    def compute() -> _Examples:
        rows: list[np.ndarray] = []

        def inputs() -> Any:
            for batch in setup.batches(stream):
                rows.append(np.asarray(batch["row"]))
                yield batch["x"]

        digest = _digest(inputs())
        return _Examples(np.concatenate(rows), digest)

    return setup.once(("train examples", stream), compute)


def train_rows(setup: Setup, stream: str) -> np.ndarray:
    """The numbers of a stream's train rows in its data set, in order."""
    return _examples(setup, stream).rows


@functools.lru_cache(maxsize=MAX_TABLES)
def _compiled(pre: Preprocess, read: tuple[str, ...]) -> Any:
    def outputs(network: TrainedNetwork, x: PyTree) -> dict[str, PyTree]:
        out = network.forward(teachers.inputs_of(network, pre, x))
        return {n: out.logits if n == "" else out.features[n] for n in read}

    return jax.jit(outputs, compiler_options=compilation.default_options())


def table(
    setup: Setup, network: TrainedNetwork, stream: str, read: tuple[str, ...]
) -> tuple[dict[str, PyTree], jax.Array]:
    """A teacher's outputs for all train examples of a stream.

    Args:
      setup: of the experiment.
      network: the teacher.
      stream: whose train examples.
      read: stages, and "" for the logits.

    Returns:
      ({stage: outputs, (examples of the stream, …)}, the place of each row of the data
      set in them).
    """
    pre, examples = setup.program.preprocess[stream], _examples(setup, stream)
    weights = _digest([network.params, network.stats])
    key = (
        network.network,
        network.preprocess,
        network.has_head,
        pre,
        read,
        weights,
        examples.digest,
    )
    if key not in _tables:
        run, batches = _compiled(pre, read), setup.batches(stream)
        parts = [run(network, batch["x"]) for batch in batches]
        _tables[key] = jax.tree.map(lambda *a: jnp.concatenate(a), *parts)
    _tables[key] = _tables.pop(key)
    while len(_tables) > MAX_TABLES:
        del _tables[next(iter(_tables))]
    places = np.zeros(setup.examples[stream], np.int32)
    places[examples.rows] = np.arange(len(examples.rows))
    return _tables[key], jnp.asarray(places)
