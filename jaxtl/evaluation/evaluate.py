"""Evaluation: logits over a split, counted exactly, and metrics in float64."""

import functools
from typing import Any

import jax
import numpy as np

from jaxtl.core import compilation, config, sharding
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network
from jaxtl.data import device_stream, lazy_array, preprocess, streams
from jaxtl.evaluation import feature_cache, metrics, model_selection
from jaxtl.models.precision import compute_in
from jaxtl.terms.losses import scores


def evaluate(run, split: str = "val", *, which: str = "current") -> dict[str, float]:
    """Returns the task's metrics on a split of the target data.

    On "val" of a target without labelled train rows the criteria are there as well
    that choose without its labels (see choosing.py).

    Args:
      run: what `tl.setup` returned.
      split: "train", "val" or "test".
      which: "current" for the parameters as they are, "best" for those with the best
        monitored value so far.

    Raises:
      UserError: for an unknown split.
    """
    found = metrics.compute(run.parts.program.task, *outputs(run, split, which))
    return {**found, **_criteria(run, split, which)}


def _criteria(run, split: str, which: str) -> dict[str, float]:
    return model_selection.measure(run, *run.weights(which)) if split == "val" else {}


def outputs(run, split: str, which: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (logits, labels) of a split; arguments as for `evaluate`."""
    params, stats = run.weights(which)
    if run.cached is not None and (which == "current" or run.best_is_recent):
        return _from_cache(run, params, stats, split)
    return logits_of(run, params, stats, split)


def evaluate_with_details(run, split: str, which: str) -> tuple[dict[str, float], dict]:
    """Returns (metrics, `metrics.details`) of a split; arguments as for `evaluate`."""
    task, names = run.parts.program.task, run.parts.datasets["target"].class_names
    found = outputs(run, split, which)
    values = {**metrics.compute(task, *found), **_criteria(run, split, which)}
    return values, metrics.details(task, *found, names)


def evaluate_weights(run, params, stats, split: str) -> dict[str, float]:
    """Returns what `evaluate` does, of weights that the run need not hold."""
    found = metrics.compute(run.program.task, *logits_of(run, params, stats, split))
    return {
        **found,
        **(model_selection.measure(run, params, stats) if split == "val" else {}),
    }


def logits_of(run, params, stats, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (logits, labels) of a split, in its rows' order, padding removed.

    For language the logits are `losses.scores`: sums per example.
    """
    dataset = run.parts.datasets["target"]
    program = run.parts.program
    size = run.exp.evaluate_batch
    rows = streams.split_rows(dataset, split)
    if len(rows) == 0:
        raise UserError(f"the split {split!r} is empty; there is nothing to evaluate.")
    # No larger than what there is, and a multiple of the devices that share it.
    size = min(size, len(rows))
    size = -(-size // program.mesh.size) * program.mesh.size
    batches, weights = streams.evaluation_batches(rows, size)
    pre = run.preprocess
    if device_stream.fits(dataset, run.exp.device_bytes):
        whole = jax.sharding.NamedSharding(program.mesh, jax.sharding.PartitionSpec())
        stream = device_stream.from_split(dataset, split, whole)
        forward = _resident(program, pre)
        out = [forward(params, stats, stream.x, b) for b in batches]
    else:
        forward = _streamed(program, pre)
        place = sharding.batch(program.mesh)
        out = [
            forward(
                params, stats, jax.device_put(lazy_array.gather(dataset.x, b), place)
            )
            for b in batches
        ]
    return _unpadded(out, weights), _labels(dataset, split)


def _unpadded(out, weights) -> np.ndarray:
    logits = np.concatenate([np.asarray(x, np.float32) for x in out])
    return logits[weights.reshape(-1) > 0]


def _labels(dataset, split: str) -> np.ndarray:
    rows = streams.split_rows(dataset, split)
    return dataset.y_clean[rows] if split != "train" else dataset.y[rows]


def _from_cache(run, params, stats, split: str) -> tuple[np.ndarray, np.ndarray]:
    """`logits_of`, frozen stages being run once for a split's rows and no more."""
    dataset, program = run.parts.datasets["target"], run.program
    rows = streams.split_rows(dataset, split)
    if len(rows) == 0 or program.task == "language":  # whose scores need the inputs
        return logits_of(run, params, stats, split)
    entry, _ = feature_cache.features(
        run, params, stats, run.cached.stages, "target", split
    )
    size = min(run.exp.evaluate_batch, len(rows))
    size = -(-size // program.mesh.size) * program.mesh.size
    batches, weights = streams.evaluation_batches(np.arange(len(rows)), size)
    key = (program.network, run.cached.stages, program.dtype, program.mesh)
    if key not in _STORE:
        after = program.network.stages[len(run.cached.stages)]

        def forward(params, stats, values, rows):
            values = jax.tree.map(lambda x: x[rows], values)
            network = compute_in(program.network, program.dtype)
            return network.apply(params, stats, values, start=after).logits

        options = compilation.options(program.mesh.devices.flat[0].platform)
        _STORE[key] = jax.jit(forward, compiler_options=options)
    out = [_STORE[key](params, stats, entry.values, b) for b in batches]
    return _unpadded(out, weights), _labels(dataset, split)


def _resident(program, pre):
    return _forwards(program.network, pre, program.dtype, program.mesh, program.task)[0]


def _streamed(program, pre):
    return _forwards(program.network, pre, program.dtype, program.mesh, program.task)[1]


_STORE: dict[Any, Any] = compilation.Recent(128)


def _forwards(network: Network, pre, dtype, mesh, task):
    """Returns the two compiled forward passes of a model, shared by equal runs."""
    key = (network, config.key(pre), dtype, mesh, task)
    if key not in _STORE:
        apply = functools.partial(_scores, compute_in(network, dtype), pre, mesh, task)

        def resident(params, stats, x, rows):
            x = jax.tree.map(lambda values: values[rows], x)
            return apply(params, stats, x)

        options = compilation.options(mesh.devices.flat[0].platform)
        _STORE[key] = tuple(
            jax.jit(f, compiler_options=options) for f in (resident, apply)
        )
    return _STORE[key]


def _scores(network, pre: preprocess.Preprocess, mesh, task, params, stats, x):
    x = preprocess.apply(pre, sharding.constrain_batch(x, mesh))
    return scores(network.apply(params, stats, x).logits, x, task)
