"""Evaluation of vectorized runs: one compiled forward pass for many replicas."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtl.core import compilation, lazy_leaf, sharding
from jaxtl.core import tree as trees
from jaxtl.core.types import PyTree
from jaxtl.data import device_stream, preprocess, streams
from jaxtl.evaluation import (
    answer_outputs,
    feature_cache,
    forward,
    model_selection,
    validators,
)
from jaxtl.evaluation.details import classification_details
from jaxtl.evaluation.evaluate import measure
from jaxtl.models import precision
from jaxtl.sweep import stacking
from jaxtl.sweep.vectorized_runs import VectorizedRuns
from jaxtl.sweep.vectorized_step import VMAP
from jaxtl.terms.program import Program
from jaxtl.training import step


class _ForwardInputs(NamedTuple):
    """The arrays that a forward pass of many replicas reads.

    Attributes:
      weights: the stacked weights of all replicas, as `VectorizedRuns.weights`.
      peft: the traced numbers of the reparametrization, stacked.
      stacked, shared: the constants, as in `VectorizedRuns`.
      x: inputs of all rows of a data set, or cached features of some.
      batches: int32 (batches, batch), rows of `x`.
      replicas: int32 (n,), the replicas to run.
    """

    weights: PyTree
    peft: PyTree
    stacked: Sequence[jax.Array]
    shared: Sequence[jax.Array]
    x: PyTree
    batches: np.ndarray
    replicas: np.ndarray


def evaluate_vectorized(
    replicas: VectorizedRuns,
    weights: PyTree,
    split: str,
    indices: Sequence[int],
    *,
    with_details: bool = False,
) -> dict[int, tuple[dict[str, float], dict]]:
    """Computes the metrics of replicas on a split of their target data.

    On "val" of an unlabelled target the label-free criteria are included.

    Args:
      replicas: the vectorized runs.
      weights: stacked weights of all replicas, as `VectorizedRuns.weights`.
      split: "train", "val" or "test".
      indices: the replicas to evaluate.
      with_details: compute `classification_details` as well.

    Returns:
      {replica: (metrics, details)}, without the replicas whose split is empty; details
      are {} unless asked for.
    """
    task = replicas.program.task
    predictions = _predict(replicas, weights, split, indices)
    criteria = {}
    if split == "val":
        criteria = _criteria(replicas, weights, list(predictions))
    evaluations = {}
    for replica, (logits, labels) in predictions.items():
        values = measure(replicas.runs[replica], split, logits, labels)
        details = {}
        if with_details:
            names = replicas.runs[replica].parts.datasets["target"].class_names
            details = classification_details(task, logits, labels, names)
        evaluations[replica] = {**values, **criteria.get(replica, {})}, details
    return evaluations


def _predict(
    replicas: VectorizedRuns, weights: PyTree, split: str, indices: Sequence[int]
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Computes {replica: (logits (rows, outputs) float32, labels (rows, …))}."""
    groups: dict[Any, list[int]] = {}
    for replica in indices:
        dataset = replicas.runs[replica].parts.datasets["target"]
        rows = dataset.rows.get(split, ())
        if len(rows):
            key = (id(dataset.x), np.asarray(rows).tobytes())
            groups.setdefault(key, []).append(replica)
    predictions = {}
    for members in groups.values():
        run = replicas.runs[members[0]]
        rows = streams.split_rows(run.parts.datasets["target"], split)
        size = min(run.exp.evaluate_batch, len(rows))
        logits = _predict_rows(replicas, weights, "target", rows, size, members)
        for i, replica in enumerate(members):
            dataset = replicas.runs[replica].parts.datasets["target"]
            labels = dataset.y if split == "train" else dataset.y_clean
            predictions[replica] = answer_outputs.per_example(
                dataset, rows, logits[i], labels[rows]
            )
    return predictions


def _criteria(
    replicas: VectorizedRuns, weights: PyTree, indices: Sequence[int]
) -> dict[int, dict[str, float]]:
    """Computes {replica: criteria} of the replicas whose target is unlabelled."""
    rows_of, groups, outputs = {}, {}, {}
    for replica in indices:
        datasets = replicas.runs[replica].datasets
        if model_selection.is_label_free(datasets):
            rows_of[replica] = model_selection.criteria_rows(datasets)
            for name, rows in model_selection.rows_by_dataset(rows_of[replica]).items():
                key = (name, id(datasets[name].x), rows.tobytes())
                groups.setdefault(key, (name, rows, []))[2].append(replica)
    for name, rows, members in groups.values():
        largest = replicas.runs[members[0]].exp.evaluate_batch
        size = forward.batch_width(len(rows), largest, power_of_two=True)
        pair = model_selection.logits_and_features
        logits, features = _predict_rows(
            replicas, weights, name, rows, size, members, pair
        )
        for i, replica in enumerate(members):
            outputs.setdefault(replica, {})[name] = logits[i], features[i]
    criteria = {}
    for replica, rows in rows_of.items():
        datasets = replicas.runs[replica].datasets
        evidence = model_selection.evidence(datasets, outputs[replica], rows)
        criteria[replica] = validators.measure(replicas.program.task, evidence)
    return criteria


def _predict_rows(
    replicas: VectorizedRuns,
    weights: PyTree,
    name: str,
    rows: np.ndarray,
    size: int,
    members: list[int],
    outputs: Callable[..., PyTree] = forward.logits,
) -> PyTree:
    """Runs replicas on some rows of a data set, `size` of them at a time.

    Returns:
      What `outputs` computes, as in `forward.predict`: float32 (members, rows, …).
    """
    run = replicas.runs[members[0]]
    dataset, start = run.parts.datasets[name], None
    if replicas.cached is not None:
        stages = replicas.cached.stages
        start = replicas.program.network.stages[len(stages)]
        x = _cached_features(replicas, name, rows)
        batches, is_row = streams.evaluation_batches(np.arange(len(rows)), size)
    else:
        mesh = replicas.program.mesh
        x = device_stream.inputs(dataset, sharding.replicated(mesh))
        batches, is_row = streams.evaluation_batches(rows, size)
    pre = run.parts.model.preprocess[name]
    static = (replicas.program, replicas.layout, replicas.mode, start, pre, outputs)
    options = replicas.compiler_options
    compute = compilation.cached_jit(_forward, *static, options=options)
    inputs = _ForwardInputs(
        weights=weights,
        peft=replicas.states.hypers["peft"],
        stacked=replicas.stacked,
        shared=replicas.shared,
        x=x,
        batches=batches,
        replicas=_padded(members, len(replicas.runs)),
    )
    is_row = is_row.reshape(-1) > 0

    def without_padding(values: jax.Array) -> np.ndarray:
        values = np.asarray(values, np.float32)[: len(members)]
        return values.reshape(len(members), len(is_row), *values.shape[3:])[:, is_row]

    return jax.tree.map(without_padding, compute(inputs))


def _cached_features(replicas: VectorizedRuns, name: str, rows: np.ndarray) -> PyTree:
    """Outputs of the frozen stages, computed once for all replicas."""
    key = (name, np.asarray(rows).tobytes())
    if key not in replicas.evaluation_features:
        run = replicas.runs[0]
        weights = run.packed_params, run.state.stats
        with _LOCK:  # replicas of other threads probably need the same features
            features, _ = feature_cache.load_or_compute(
                run, weights, replicas.cached.stages, name, rows
            )
        replicas.evaluation_features[key] = features.values
    return replicas.evaluation_features[key]


_LOCK = threading.Lock()


def _padded(members: Sequence[int], count: int) -> np.ndarray:
    """Repeats the last of some replicas up to a power of two, at most `count`.

    Replicas leave one by one, and every number of them would compile another program.
    """
    size = 1
    while size < len(members):
        size *= 2
    size = max(min(size, count), len(members))
    return np.asarray([*members, *[members[-1]] * (size - len(members))], np.int32)


def _forward(
    program: Program,
    layout: stacking.StackedLayout,
    mode: str,
    start: str | None,
    pre: preprocess.Preprocess,
    outputs: Callable[..., PyTree],
    inputs: _ForwardInputs,
) -> PyTree:
    """Computes outputs (replicas, batches, batch, …) of stacked weights.

    Args:
      program, layout, mode: as in `VectorizedRuns`.
      start: the stage that the pass starts from; None takes raw inputs.
      pre: how raw inputs are preprocessed.
      outputs: what is computed of a batch, as in `forward.predict`.
      inputs: the arrays.
    """
    network = precision.compute_in(program.network, program.dtype)

    def replica_outputs(i: jax.Array) -> Any:
        per_replica = (inputs.weights, inputs.peft, inputs.stacked)
        weights, hypers, stacked = jax.tree.map(lambda v: v[i], per_replica)
        fixed = layout.join(inputs.shared, stacked)["fixed"]
        params = step.packed_params(program.peft, hypers, weights, fixed)

        def batch_outputs(rows: jax.Array) -> Any:
            x = jax.tree.map(lambda values: values[rows], inputs.x)
            pair = params, weights["stats"]
            if start is not None:
                return outputs(network, pair, x, program.task, start=start)
            return outputs(network, pair, preprocess.apply(pre, x), program.task)

        return jax.lax.map(batch_outputs, inputs.batches)

    if mode == VMAP:
        return jax.vmap(replica_outputs)(inputs.replicas)
    return jax.lax.map(replica_outputs, inputs.replicas)


@jax.jit
def all_finite(stacked: PyTree) -> jax.Array:
    """Whether each replica's part of stacked arrays is finite, bools (replicas,)."""
    return jax.vmap(trees.all_finite)(stacked)


def drift(replicas: VectorizedRuns, weights: PyTree) -> np.ndarray | None:
    """Computes ‖θ − θ₀‖ over the leaves of θ₀, float (replicas,).

    Returns None without a source.
    """
    if not jax.tree.leaves(replicas.runs[0].source.params):
        return None
    compute = compilation.cached_jit(_drift, replicas.program, replicas.layout)
    hypers = replicas.states.hypers["peft"]
    return np.asarray(compute(weights, hypers, replicas.stacked, replicas.shared))


def _drift(
    program: Program,
    layout: stacking.StackedLayout,
    weights: PyTree,
    hypers: PyTree,
    stacked: Sequence[jax.Array],
    shared: Sequence[jax.Array],
) -> jax.Array:
    def replica_drift(per_replica: tuple[PyTree, PyTree, Sequence]) -> jax.Array:
        weights, hypers, leaves = per_replica
        fixed = layout.join(shared, leaves)["fixed"]
        params = step.merge_params(program.peft, hypers, weights, fixed)
        source = lazy_leaf.realized(fixed.source.params)
        return trees.sum_squares(trees.sub(params, source)) ** 0.5

    return jax.lax.map(replica_drift, (weights, hypers, stacked))
