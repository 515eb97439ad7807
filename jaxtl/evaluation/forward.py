"""Predictions of a model on rows of a data set: compiled once, run in padded batches.

`predict` serves every evaluation: of runs, criteria, probes and ensembles. What it
returns of a forward pass is decided by a function such as `logits`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from jaxtl.core import compilation, progress, sharding
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, PyTree, vectors
from jaxtl.data import device_stream, lazy_array, preprocess, streams
from jaxtl.data.dataset import Dataset
from jaxtl.models.precision import compute_in
from jaxtl.terms.losses import metric_inputs


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationModel:
    """A model without its weights, and how it is run over stored examples.

    Attributes:
      network: the model.
      dtype: that it computes in.
      preprocess: turns stored examples into its inputs.
      task: what its outputs mean.
      mesh: the devices it runs on.
      batch: examples per forward pass, at most.
      device_bytes: a data set of at most this size is put on the device as a whole.
    """

    network: Network
    dtype: str
    preprocess: preprocess.Preprocess
    task: str
    mesh: jax.sharding.Mesh
    batch: int
    device_bytes: int


class Evaluable(Protocol):
    """What evaluation reads of a run in training, or of a stored model.

    Attributes:
      datasets: name -> data set, "target" and the experiment's other streams.
      cached: the frozen stages whose features training starts from, None without.
      thresholds: of the probabilities (see `thresholds`), None for ½.
      notes: name -> a sentence part; an evaluation adds what its metrics tell.
    """

    cached: Any
    thresholds: np.ndarray | None
    notes: dict[str, str]

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Name -> metric or function, those of the experiment."""

    @property
    def datasets(self) -> Mapping[str, Dataset]: ...

    def evaluation_model(self, data: str = "target") -> EvaluationModel:
        """The model, with the preprocessing of one of the data sets."""

    def weights(self, which: str = "current") -> tuple[PyTree, PyTree]:
        """(parameters, statistics), "current" or "best"."""

    def packed_weights(self, which: str = "current") -> tuple[PyTree, PyTree]:
        """`weights` for the network alone: a quantized base stays quantized."""

    def learner(self, which: str = "current") -> Any:
        """The `episodes.Learner` of a target that consists of episodes."""


def logits(
    network: Network, weights: tuple[PyTree, PyTree], x: PyTree, task: str, **settings
) -> jax.Array:
    """Logits (batch, outputs); for language models the sums of `losses.metric_inputs`.

    Args:
      network: the model.
      weights: (parameters, statistics).
      x: its inputs.
      task: what its outputs mean.
      **settings: of `Network.apply`.
    """
    return metric_inputs(network.apply(*weights, x, **settings).logits, x, task)


def stage_vectors(
    network: Network,
    weights: tuple[PyTree, PyTree],
    x: PyTree,
    task: str,
    *,
    stages: tuple[str, ...],
) -> dict[str, jax.Array]:
    """{stage: (batch, width)}, the outputs of stages as `core.types.vectors`.

    Args:
      network, weights, x, task: as for `logits`.
      stages: of the model, in its order; those after the last are not run.
    """
    features = network.apply(*weights, x, stop=stages[-1]).features
    return {stage: vectors(features[stage]) for stage in stages}


def predict(
    model: EvaluationModel,
    weights: PyTree,
    dataset: Dataset,
    rows: np.ndarray,
    outputs: Callable[..., PyTree] = logits,
    *,
    start: str | None = None,
    features: PyTree = None,
    power_of_two: bool = False,
    axis: int = 0,
) -> PyTree:
    """Runs a model over rows of a data set, in evaluation mode.

    Args:
      model: the model and how it is run.
      weights: the first argument of `outputs` after the network, on the mesh.
      dataset: whose examples are read.
      rows: (n,) row numbers, n ≥ 1.
      outputs: `(network, weights, x, task, **settings) -> arrays`, what is computed of
        a batch: a function of a module, or a `functools.partial` of one.
      start: the stage to start from, None for the first.
      features: inputs of that stage for each of `rows`, on the device; the data set is
        not read then.
      power_of_two: whether batches are as wide as a power of two, so that few compiled
        programs serve data sets of many sizes.
      axis: of the outputs, along which examples lie.

    Returns:
      The outputs as numpy arrays, n examples in the order of `rows`.
    """
    options = compilation.options(model.mesh.devices.flat[0].platform)
    static = (outputs, model.network, model.dtype, model.preprocess, model.task)
    static += (model.mesh, start)
    if features is not None:
        rows = np.arange(len(rows))
        call = compilation.cached_jit(_gathered, *static, options=options)
        call = functools.partial(call, weights, features)
    elif device_stream.fits(dataset, model.device_bytes):
        x = device_stream.inputs(dataset, sharding.replicated(model.mesh))
        call = compilation.cached_jit(_gathered, *static, options=options)
        call = functools.partial(call, weights, x)
    else:
        streamed = compilation.cached_jit(_outputs, *static, options=options)

        def call(batch: np.ndarray) -> PyTree:
            return streamed(weights, host_batch(dataset, batch, model.mesh))

    width = batch_width(
        len(rows), model.batch, model.mesh.size, power_of_two=power_of_two
    )
    return in_batches(call, rows, width, axis)


def _gathered(*args: Any) -> PyTree:
    """`_outputs` of some rows, the last argument, of the inputs before it."""
    *args, x, rows = args
    return _outputs(*args, jax.tree.map(lambda values: values[rows], x))


def _outputs(
    outputs: Callable[..., PyTree],
    network: Network,
    dtype: str,
    pre: preprocess.Preprocess,
    task: str,
    mesh: jax.sharding.Mesh,
    start: str | None,
    weights: PyTree,
    x: PyTree,
) -> PyTree:
    network = compute_in(network, dtype)
    if start is not None:
        return outputs(network, weights, x, task, start=start)
    x = preprocess.apply(pre, sharding.constrain_batch(x, mesh))
    return outputs(network, weights, x, task)


def predict_splits(
    model: EvaluationModel,
    weights: PyTree,
    dataset: Dataset,
    splits: Mapping[str, np.ndarray],
    outputs: Callable[..., PyTree] = logits,
    *,
    axis: int = 0,
) -> dict[str, PyTree]:
    """Runs a model over several splits as over one row of batches.

    So one compiled program serves them all.

    Args:
      model, weights, dataset, outputs, axis: as for `predict`.
      splits: name -> rows.

    Returns:
      {name: outputs of these rows}, numpy arrays.

    Raises:
      UserError: a split is empty.
    """
    for name, rows in splits.items():
        if len(rows) == 0:
            raise UserError(f"the split {name!r} of {dataset.name} is empty.")
    rows = np.concatenate(list(splits.values()))
    values = predict(model, weights, dataset, rows, outputs, axis=axis)
    ends = np.cumsum([len(rows) for rows in splits.values()])
    return {
        name: jax.tree.map(lambda x, a=a, b=b: x.take(range(a, b), axis), values)
        for name, a, b in zip(splits, [0, *ends], ends)
    }


def batch_width(
    count: int, most: int, devices: int = 1, *, power_of_two: bool = False
) -> int:
    """Examples per forward pass: no more than there are, a multiple of the devices.

    Args:
      count: examples in all.
      most: examples per forward pass, at most.
      devices: that share a batch.
      power_of_two: rounds the width up to a power of two, or to `most`.
    """
    width = min(count, most)
    if power_of_two:
        width = min(1 << (width - 1).bit_length(), most)
    return -(-width // devices) * devices


def in_batches(
    call: Callable[[np.ndarray], PyTree], rows: np.ndarray, width: int, axis: int = 0
) -> PyTree:
    """Calls a function on rows in equal batches and joins its outputs.

    Args:
      call: (width,) int32 rows -> arrays with `width` examples along `axis`.
      rows: (n,) row numbers, n ≥ 1; the last batch is padded, and what comes of the
        padding is cut off.
      width: rows per batch.
      axis: of the outputs, along which examples lie.

    Returns:
      The outputs of all n rows, numpy arrays.
    """
    batches, _ = streams.evaluation_batches(rows, width)
    parts = []
    # The outputs of a data set may not fit the device, so each batch's are copied to
    # the host, while the device computes the next batch.
    with progress.Task("running the model, in batches", len(batches)) as task:
        pending = call(batches[0])
        for batch in batches[1:]:
            following = call(batch)
            parts.append(sharding.to_host(pending))
            task.advance()
            pending = following
        parts.append(sharding.to_host(pending))
    kept = (slice(None),) * axis + (slice(len(rows)),)
    return jax.tree.map(lambda *xs: np.concatenate(xs, axis)[kept], *parts)


def host_batch(dataset: Dataset, rows: np.ndarray, mesh: jax.sharding.Mesh) -> PyTree:
    """Stored examples of some rows, read on the host, split over the devices."""
    own = rows[sharding.batch_rows(mesh, len(rows))]
    return sharding.put_batch(stored_examples(dataset, own), mesh, len(rows))


def stored_examples(dataset: Dataset, rows: np.ndarray) -> PyTree:
    """Stored examples of some rows, numpy arrays."""
    return lazy_array.gather(dataset.x, rows)
