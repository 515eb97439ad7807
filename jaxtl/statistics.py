"""Statistics of BatchNorm, estimated anew for weights that no training step made."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import compiling, config, sharding, weights
from jaxtl import tree as trees
from jaxtl.core import Network, PyTree
from jaxtl.data import lazy, preprocess, streams
from jaxtl.step import cast


def refresh_statistics(
    run, params: PyTree, stats: PyTree, *, batch: int | None = None, seed: int = 0
) -> PyTree:
    """Returns the statistics that these parameters have on the run's train rows.

    Means and variances are the plain means of those of equally large batches, in one
    pass over the train rows in random order (a few rows that would make the batches
    unequal are left out), without augmentation, with dropout as in training. Statistics
    that stayed still in all of the run's training (frozen stages) stay as they are.

    Args:
      run: whose data, preprocessing and frozen stages are taken.
      params: of the run's model: an average, an interpolation.
      stats: the statistics to begin from; their values matter where they stay.
      batch: examples per forward pass at most; None takes as many as an evaluation.
      seed: of the order and of dropout.

    References:
      Izmailov et al., Averaging Weights Leads to Wider Optima and Better
      Generalization, UAI 2018, §3.2: an average of weights needs it.
    """
    program, (train, still) = run.program, modes(run, stats)
    moves = moving(stats, train, still)
    if not any(jax.tree.leaves(moves)):
        return stats
    dataset, devices = run.parts.datasets["target"], program.mesh.size
    rows = streams.split_rows(dataset, "train")
    count = -(-len(rows) // (batch or run.exp.evaluate_batch))
    size = max(len(rows) // count // devices, 1) * devices
    order = np.random.default_rng(seed).permutation(rows)
    key, place = jax.random.key(seed), sharding.batch(program.mesh)
    forward, average = _forward(program, run.preprocess, train, still), stats
    for i, chosen in enumerate(np.resize(order, (count, size))):
        x = jax.device_put(lazy.gather(dataset.x, chosen), place)
        found = forward(params, stats, x, jax.random.fold_in(key, i))
        average = weights.swa(average, found, i)
    return sharding.place(jax.tree.map(_chosen, moves, average, stats), program.mesh)


def _chosen(moves, new, old):
    return new if moves else old


def modes(run, stats: PyTree) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns (train, still) so that what moved in any phase of a run moves."""
    phases = [(stretch.train, stretch.still) for stretch in run.parts.stretches]
    moved = [trees.flatten(moving(stats, *phase)) for phase in phases]
    modules = {path: path.rpartition("/")[0] for path in trees.flatten(stats)}
    held = [m for path, m in modules.items() if not any(x[path] for x in moved)]
    trained = {stage for train, _ in phases for stage in train}
    train = tuple(stage for stage in run.network.stages if stage in trained)
    return train, tuple(dict.fromkeys(held))


def moving(
    stats: PyTree, train: tuple[str, ...], still: tuple[str, ...] = ()
) -> PyTree:
    """Returns a tree of bools: which statistics a pass in training mode moves.

    Args:
      stats: stage -> subtree.
      train, still: as `Network.apply` takes them.
    """

    def moves(path, _):
        held = any(path.startswith(module + "/") for module in still)
        return path.split("/")[0] in train and not held

    return trees.map_with_path(moves, stats)


def batch_statistics(
    network: Network,
    params: PyTree,
    stats: PyTree,
    x: Any,
    *,
    train: tuple[str, ...],
    still: tuple[str, ...] = (),
    key: jax.Array | None = None,
) -> PyTree:
    """Returns one batch's own statistics, not its share of a moving average.

    A pass from 0 gives (1 − m)·batch, and the derivative by what was there before
    gives m, so no layer need tell its momentum m.

    Args:
      network: the model.
      params, stats: its parameters and statistics; those that don't move are used, and
        come back as they are.
      x: a batch of inputs, preprocessed.
      train, still, key: as `Network.apply` takes them.
    """
    moves = moving(stats, train, still)
    fixed = jax.tree.map(lambda move, s: None if move else s, moves, stats)
    moved = jax.tree.map(lambda move, s: s if move else None, moves, stats)

    def step(moved):
        before = trees.merge(moved, fixed)
        out = network.apply(params, before, x, train=train, still=still, key=key)
        return trees.restrict(out.stats, moves)

    zeros, ones = (jax.tree.map(f, moved) for f in (jnp.zeros_like, jnp.ones_like))
    share, momentum = jax.jvp(step, (zeros,), (ones,))
    found = jax.tree.map(lambda s, m: s / (1 - m), share, momentum)
    return trees.merge(found, fixed)


_STORE: dict[Any, Any] = compiling.Recent(128)


def _forward(program, pre, train, still):
    """Returns the compiled pass of a program, shared by equal runs."""
    key = (program.network, program.dtype, program.mesh, train, still, config.key(pre))
    if key not in _STORE:
        network = cast(program.network, program.dtype)

        def forward(params, stats, x, key):
            x = preprocess.apply(pre, sharding.constrain_batch(x, program.mesh))
            return batch_statistics(
                network, params, stats, x, train=train, still=still, key=key
            )

        options = compiling.options(program.mesh.devices.flat[0].platform)
        _STORE[key] = jax.jit(forward, compiler_options=options)
    return _STORE[key]
