"""Statistics of BatchNorm, estimated anew for weights that no training step made."""

import jax
import numpy as np

from jaxtl.core import compilation, sharding
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import Network, PyTree
from jaxtl.data import preprocess, streams
from jaxtl.evaluation import forward
from jaxtl.models import merging
from jaxtl.models.layers import batch_norm_stats
from jaxtl.models.layers.batch_norm_stats import batch_statistics, moving_mask
from jaxtl.models.precision import compute_in


def refresh_statistics(
    run,
    params: PyTree,
    stats: PyTree,
    *,
    batch: int | None = None,
    seed: int = 0,
    stream: str | None = None,
    pooled: bool = False,
) -> PyTree:
    """Returns the statistics that these parameters have on the run's train rows.

    Means and variances are the plain means of those of equally large batches, in one
    pass over the rows in random order (a few rows that would make the batches
    unequal are left out), without augmentation, with dropout as in training. Statistics
    that stayed still in all of the run's training (frozen stages) stay as they are.

    Args:
      run: whose data, preprocessing and frozen stages are taken.
      params: of the run's model: an average, an interpolation.
      stats: the statistics to begin from; their values matter where they stay.
      batch: examples per forward pass at most; None takes as many as an evaluation.
      seed: of the order and of dropout.
      stream: whose rows are read: "unlabelled", "source", …; None takes the target's
        train rows, the unlabelled ones where none has a label.
      pooled: variances are those of all rows together, so the spread of the batches'
        means counts as well.

    References:
      Izmailov et al., Averaging Weights Leads to Wider Optima and Better
      Generalization, UAI 2018, §3.2: an average of weights needs it.
    """
    program, (train, still) = run.program, modes(run, stats)
    moves = moving_mask(stats, train, still)
    if not any(jax.tree.leaves(moves)):
        return stats
    dataset, rows, pre = _read(run, stream)
    devices = program.mesh.size
    count = -(-len(rows) // (batch or run.exp.evaluate_batch))
    size = max(len(rows) // count // devices, 1) * devices
    order = np.random.default_rng(seed).permutation(rows)
    key = jax.random.key(seed)
    static = (program.network, program.dtype, pre, program.mesh, train, still)
    options = compilation.options(program.mesh.devices.flat[0].platform)
    statistics_of = compilation.cached_jit(_forward, *static, options=options)
    average = stats
    combine = batch_norm_stats.pool_statistics if pooled else merging.swa
    for i, chosen in enumerate(np.resize(order, (count, size))):
        x = forward.host_batch(dataset, chosen, program.mesh)
        found = statistics_of(params, stats, x, jax.random.fold_in(key, i))
        average = combine(average, found, i)
    return sharding.place(jax.tree.map(_chosen, moves, average, stats), program.mesh)


def _read(run, stream: str | None):
    """Returns (data set, rows, preprocessing) of a stream."""
    datasets = run.parts.datasets
    if stream is None:
        labelled = len(datasets["target"].rows["train"])
        stream = "target" if labelled else "unlabelled"
    name, split = streams.dataset_and_split_of(datasets, stream)
    if name not in datasets or not len(datasets[name].rows.get(split, ())):
        there = [n for n, d in datasets.items() if len(d.rows["train"])]
        there += ["unlabelled"] * bool(
            len(datasets["target"].rows.get("unlabelled", ()))
        )
        raise UserError(
            f"stream={stream!r}: the experiment's data give it no rows"
            f"{nearest(stream, there)} (streams: {', '.join(there)})."
        )
    return datasets[name], datasets[name].rows[split], run.parts.model.preprocess[name]


def _chosen(moves, new, old):
    return new if moves else old


def modes(run, stats: PyTree) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns (train, still) so that what moved in any phase of a run moves."""
    phases = [(phase.train_stages, phase.frozen_stats) for phase in run.parts.phases]
    moved = [trees.flatten(moving_mask(stats, *phase)) for phase in phases]
    modules = {path: path.rpartition("/")[0] for path in trees.flatten(stats)}
    held = [m for path, m in modules.items() if not any(x[path] for x in moved)]
    trained = {stage for train, _ in phases for stage in train}
    train = tuple(stage for stage in run.network.stages if stage in trained)
    return train, tuple(dict.fromkeys(held))


def _forward(
    network: Network,
    dtype: str,
    pre: preprocess.Preprocess,
    mesh: jax.sharding.Mesh,
    train: tuple[str, ...],
    still: tuple[str, ...],
    params: PyTree,
    stats: PyTree,
    x: PyTree,
    key: jax.Array,
) -> PyTree:
    """Statistics of one batch of stored examples."""
    x = preprocess.apply(pre, sharding.constrain_batch(x, mesh))
    network = compute_in(network, dtype)
    return batch_statistics(
        network, params, stats, x, train=train, frozen_stats=still, key=key
    )
