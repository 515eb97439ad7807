"""BatchNorm statistics, estimated again for weights that no training step made."""

from typing import Any

import jax
import numpy as np

from jaxtl.core import compilation, progress, sharding
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import Network, PyTree
from jaxtl.data import preprocess, streams
from jaxtl.data.dataset import Dataset
from jaxtl.evaluation import forward
from jaxtl.models import merging
from jaxtl.models.layers import batch_norm_stats
from jaxtl.models.layers.batch_norm_stats import batch_statistics, moving_mask
from jaxtl.models.precision import compute_in


def refresh_statistics(
    run: Any,
    params: PyTree,
    stats: PyTree,
    *,
    batch: int | None = None,
    seed: int = 0,
    stream: str | None = None,
    pooled: bool = False,
) -> PyTree:
    """Estimates the statistics that some parameters have on the run's train rows.

    Means and variances are the unweighted means of those of equally large batches, in
    one pass over the rows in random order (a few rows that would make the batches
    unequal are left out), without augmentation, with dropout as in training. Statistics
    that no phase of the run's training updated (frozen stages) are kept.

    Args:
      run: whose data, preprocessing and frozen stages are used.
      params: parameters of the run's model: an average, an interpolation.
      stats: the statistics to start from; their values matter where they are kept.
      batch: examples per forward pass at most; None takes as many as an evaluation.
      seed: of the order and of dropout.
      stream: whose rows are read: "unlabelled", "source", …; None takes the target's
        train rows, the unlabelled ones where none has a label.
      pooled: whether variances are those of all rows together, which adds the variance
        of the batches' means.

    Returns:
      The statistics, in the structure of `stats`.

    Raises:
      UserError: the stream has no rows.

    References:
      Izmailov et al., Averaging Weights Leads to Wider Optima and Better
      Generalization, UAI 2018, §3.2: an average of weights needs it.
    """
    program = run.program
    train, frozen_stats = updated_in_training(run, stats)
    updated = moving_mask(stats, train, frozen_stats)
    if not any(jax.tree.leaves(updated)):
        return stats
    dataset, rows, pre = _read(run, stream)
    static = (program.network, program.dtype, pre, program.mesh, train, frozen_stats)
    options = compilation.options(program.mesh.devices.flat[0].platform)
    batch_stats = compilation.cached_jit(_batch_statistics, *static, options=options)
    combine = batch_norm_stats.pool_statistics if pooled else merging.swa
    average, key = stats, jax.random.key(seed)
    batches = _equal_batches(
        rows, batch or run.exp.evaluate_batch, program.mesh.size, seed
    )
    for i, batch_rows in enumerate(progress.track(batches, "BatchNorm's statistics")):
        x = forward.host_batch(dataset, batch_rows, program.mesh)
        new = batch_stats(params, stats, x, jax.random.fold_in(key, i))
        average = combine(average, new, i)
    refreshed = jax.tree.map(_select, updated, average, stats)
    return sharding.place(refreshed, program.mesh)


def _select(condition: bool, new: jax.Array, old: jax.Array) -> jax.Array:
    return new if condition else old


def _equal_batches(rows: np.ndarray, most: int, devices: int, seed: int) -> np.ndarray:
    """Shuffled rows, (batches, batch), a batch a multiple of the devices."""
    count = -(-len(rows) // most)
    size = max(len(rows) // count // devices, 1) * devices
    return np.resize(np.random.default_rng(seed).permutation(rows), (count, size))


def _read(
    run: Any, stream: str | None
) -> tuple[Dataset, np.ndarray, preprocess.Preprocess]:
    """(Data set, rows, preprocessing) of a stream; UserError where it has no rows."""
    datasets = run.datasets
    unlabelled = len(datasets["target"].rows.get("unlabelled", ()))
    if stream is None:
        has_labels = len(datasets["target"].rows["train"])
        stream = "target" if has_labels else "unlabelled"
    name, split = streams.dataset_and_split_of(datasets, stream)
    if name not in datasets or not len(datasets[name].rows.get(split, ())):
        names = [n for n, dataset in datasets.items() if len(dataset.rows["train"])]
        names += ["unlabelled"] * bool(unlabelled)
        raise UserError(
            f"stream={stream!r}: the experiment's data have no rows for it"
            f"{nearest(stream, names)} (streams: {', '.join(names)})."
        )
    rows = datasets[name].rows[split]
    return datasets[name], rows, run.evaluation_model(name).preprocess


def updated_in_training(
    run: Any, stats: PyTree
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The statistics that any phase of a run updates.

    Returns:
      `train` and `frozen_stats` as `Network.apply` takes them: the stages that any
      phase trains, and the modules whose statistics none of them updates.
    """
    phases = [(phase.train_stages, phase.frozen_stats) for phase in run.parts.phases]
    masks = [trees.flatten(moving_mask(stats, *phase)) for phase in phases]
    frozen = [
        path.rpartition("/")[0]
        for path in trees.flatten(stats)
        if not any(mask[path] for mask in masks)
    ]
    trained = {stage for train, _ in phases for stage in train}
    train = tuple(stage for stage in run.network.stages if stage in trained)
    return train, tuple(dict.fromkeys(frozen))


def _batch_statistics(
    network: Network,
    dtype: str,
    pre: preprocess.Preprocess,
    mesh: jax.sharding.Mesh,
    train: tuple[str, ...],
    frozen_stats: tuple[str, ...],
    params: PyTree,
    stats: PyTree,
    x: PyTree,
    key: jax.Array,
) -> PyTree:
    """Statistics of one batch of stored examples."""
    x = preprocess.apply(pre, sharding.constrain_batch(x, mesh))
    settings = {"train": train, "frozen_stats": frozen_stats, "key": key}
    return batch_statistics(compute_in(network, dtype), params, stats, x, **settings)
