"""Teachers' outputs for all train examples of a stream, computed once in a process."""

import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core import compilation
from jaxtl.core import tree as trees
from jaxtl.core.types import PyTree
from jaxtl.data.preprocess import Preprocess
from jaxtl.pretrained.trained_network import TrainedNetwork
from jaxtl.terms.base import Setup
from jaxtl.terms.distillation import teacher as teachers

# (network, preprocessing, stages, digest of weights, digest of inputs) -> outputs, the
# most recently used last. The digests are of all that the outputs depend on, so that
# the runs of a study share them and none is ever stale. `cache_bytes` of the last run
# bounds the bytes of each table and of all that are kept here for later runs, of which
# the least recently used are dropped; the terms of one run may hold more together.
_tables: dict[Any, PyTree] = {}


def _digest(trees: Any) -> str:
    sha = hashlib.sha256()
    for tree in trees:
        for leaf in jax.tree.leaves(tree):
            values = np.ascontiguousarray(leaf)
            sha.update(f"{values.shape}{values.dtype}".encode())
            sha.update(values.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def _digest_of_inputs(setup: Setup, stream: str) -> str:
    """A digest of the inputs of a stream's train examples, in order."""

    def compute() -> str:
        return _digest(batch["x"] for batch in setup.batches(stream))

    return setup.memo.once(("digest of inputs", stream), compute)


@functools.lru_cache(maxsize=8)
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
    pre, rows = setup.program.preprocess[stream], setup.train_rows[stream]
    key = (
        network.network,
        network.preprocess,
        network.has_head,
        pre,
        read,
        _digest([network.params, network.stats]),
        _digest_of_inputs(setup, stream),
    )
    if key not in _tables:
        run, batches = _compiled(pre, read), setup.batches(stream)
        parts = [run(network, batch["x"]) for batch in batches]
        _tables[key] = jax.tree.map(lambda *a: jnp.concatenate(a), *parts)
    _tables[key] = _tables.pop(key)
    while len(_tables) > 1 and trees.nbytes(list(_tables.values())) > setup.cache_bytes:
        del _tables[next(iter(_tables))]
    places = np.zeros(setup.examples[stream], np.int32)
    places[rows] = np.arange(len(rows))
    return _tables[key], jnp.asarray(places)
