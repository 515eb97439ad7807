"""Cached features: frozen stages are run once per data set, not once per step.

Where all stages up to some stage are frozen, their output for an example is always the
same: no gradient, no dropout, no batch statistics and, without augmentation, no other
input. `load_or_compute` computes these outputs once; training (`frozen_stages`) and
evaluation start after them. The key of an entry is a hash of all that it depends on
(weights, statistics, model, preprocessing, the examples themselves, dtype, versions),
so no entry is ever stale.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

import jaxtl
from jaxtl.core import compilation, config, devices, progress, serialization, sharding
from jaxtl.core import tree as trees
from jaxtl.core.types import Network, PyTree
from jaxtl.data import lazy_array, preprocess
from jaxtl.data.dataset import Dataset
from jaxtl.evaluation import feature_cache_disk, forward
from jaxtl.models import precision
from jaxtl.terms.program import Program

MAX_ENTRIES = 8  # in memory; the least recently used one is dropped
_HASHED_ROWS = 4096  # read at once to be hashed


@dataclasses.dataclass(frozen=True, eq=False)
class CachedFeatures:
    """Outputs of a stage for some rows.

    Attributes:
      values: array or Tokens with an example per row, on the device.
      flops: floating-point operations that computing one example took, or None.
      model: that computed them. The key names a plain network by its identity, which
        no other network has as long as this one lives.
    """

    values: PyTree
    flops: float | None
    model: Any


# Key -> features, the most recently used last.
entries: dict[str, CachedFeatures] = {}


def clear() -> None:
    """Drops all features in memory."""
    entries.clear()


def format_bytes(nbytes: int) -> str:
    """A number of bytes to read: 3840 is "3.84 kB"."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.3g} {unit}"
    return f"{nbytes} bytes"


def load_or_compute(
    run: Any,
    weights: tuple[PyTree, PyTree],
    stages: tuple[str, ...],
    data: str,
    rows: np.ndarray,
) -> tuple[CachedFeatures, str]:
    """Features of some rows, from memory, from disk (cache="disk") or computed.

    Args:
      run: the run.
      weights: (parameters, statistics).
      stages: the leading stages of the model, whose last one's output is returned.
      data: one of the run's data sets.
      rows: of that data set.

    Returns:
      (The features, a note on what is wrong with the cache folder or "").
    """
    dataset, pre = run.datasets[data], run.evaluation_model(data).preprocess
    key = cache_key(run, weights, stages, dataset, pre, rows)
    if key in entries:
        entries[key] = entries.pop(key)
        return entries[key], ""
    folder = None
    # Processes of a job could differ in what they find.
    is_alone = jax.process_count() == 1
    if (
        run.exp.cache == "disk"
        and is_alone
        and not isinstance(run.parts.model.config, Network)
    ):
        folder = feature_cache_disk.folder(run.exp.cache_dir)
    stored, note = None, ""
    if folder is not None:
        stored, note = feature_cache_disk.read(folder, key)
    if stored is None:
        stored = _compute(run, weights, stages, dataset, pre, rows)
        if folder is not None:
            notes = (note, feature_cache_disk.write(folder, key, *stored))
            note = "; ".join(filter(None, notes))
    values, flops = stored
    values = sharding.replicate(values, run.program.mesh)
    entries[key] = CachedFeatures(values, flops, run.parts.model.config)
    while len(entries) > MAX_ENTRIES:
        del entries[next(iter(entries))]
    return entries[key], note


def cache_key(
    run: Any,
    weights: tuple[PyTree, PyTree],
    stages: Iterable[str],
    dataset: Dataset,
    pre: preprocess.Preprocess,
    rows: np.ndarray,
) -> str:
    """The key of the features of some rows: a hash of all that they depend on.

    Args:
      run: whose model computes them.
      weights: (parameters, statistics).
      stages: the leading stages of the model.
      dataset: whose examples are read.
      pre: their preprocessing.
      rows: of the data set.
    """
    device, stages = devices.first(), list(stages)
    settings = {
        "versions": [jaxtl.__version__, jax.__version__, device.device_kind],
        "model": _model_json(run.parts.model.config),
        "stages": stages,
        "dtype": run.exp.dtype,
        "preprocess": preprocess.to_json(pre),
        "peft": serialization.to_json(run.exp.peft),
        "rows": len(rows),
    }
    sha = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for tree in weights:
        of_stages = {stage: tree[stage] for stage in stages if stage in tree}
        for path, leaf in trees.flatten(of_stages).items():
            _hash_array(sha, path, sharding.to_host(leaf))
    starts = range(0, len(rows), _HASHED_ROWS)
    for start in progress.track(starts, "hashing the examples, in blocks"):
        x = lazy_array.gather(dataset.x, rows[start : start + _HASHED_ROWS])
        for name, values in sorted((x if isinstance(x, dict) else {"x": x}).items()):
            _hash_array(sha, name, np.asarray(values))
    return sha.hexdigest()


def _hash_array(sha: Any, name: str, values: np.ndarray) -> None:
    sha.update(f"{name}{values.shape}{values.dtype}".encode())
    sha.update(np.ascontiguousarray(values).tobytes())


def _model_json(model: Any) -> Any:
    """A model's configuration as JSON; a plain pair of functions by its identity."""
    if isinstance(model, Network):
        return f"network {id(model)}"
    return serialization.to_json(model)


def predict(
    run: Any,
    weights: tuple[PyTree, PyTree],
    data: str,
    rows: np.ndarray,
    outputs: Callable[..., PyTree] = forward.logits,
    *,
    power_of_two: bool = False,
) -> PyTree:
    """`forward.predict` of a run, from cached features where its phase caches some.

    Args:
      run: the run, or a stored model.
      weights: (parameters, statistics).
      data: one of the run's data sets.
      rows, outputs, power_of_two: as for `forward.predict`.
    """
    model, dataset = run.evaluation_model(data), run.datasets[data]
    start = {}
    if run.cached is not None:
        stages = run.cached.stages
        cached, _ = load_or_compute(run, weights, stages, data, rows)
        first = model.network.stages[len(stages)]
        start = {"start": first, "features": cached.values}
    return forward.predict(
        model, weights, dataset, rows, outputs, power_of_two=power_of_two, **start
    )


def _compute(
    run: Any,
    weights: tuple[PyTree, PyTree],
    stages: tuple[str, ...],
    dataset: Dataset,
    pre: preprocess.Preprocess,
    rows: np.ndarray,
) -> tuple[PyTree, float | None]:
    """Runs the frozen stages over rows in batches.

    Returns:
      (Features on the host, operations per example or None).
    """
    program, flops = run.program, None
    width = forward.batch_width(len(rows), run.exp.evaluate_batch, program.mesh.size)

    def call(batch: np.ndarray) -> PyTree:
        nonlocal flops
        x = forward.host_batch(dataset, batch, program.mesh)
        apply, flops = _compiled(program, stages, pre, weights, x)
        return apply(weights, x)

    with progress.Task("caching the features of frozen stages"):
        values = forward.in_batches(call, rows, width)
    return values, flops and flops / width


def _compiled(
    program: Program,
    stages: tuple[str, ...],
    pre: preprocess.Preprocess,
    weights: tuple[PyTree, PyTree],
    x: PyTree,
) -> tuple[Callable[..., PyTree], float | None]:
    """The compiled pass of the frozen stages, and its number of operations."""
    settings = (program.network, program.dtype, stages, program.mesh, config.key(pre))

    def build() -> tuple[Callable[..., PyTree], float | None]:
        def apply(weights: tuple[PyTree, PyTree], x: PyTree) -> PyTree:
            x = preprocess.apply(pre, sharding.constrain_batch(x, program.mesh))
            return stage_output(program.network, program.dtype, stages, weights, x)

        options = compilation.options(program.mesh.devices.flat[0].platform)
        compiled = jax.jit(apply).lower(weights, x).compile(options)
        return compiled, (compiled.cost_analysis() or {}).get("flops")

    key = (*settings, compilation.shapes((weights, x)))
    return compilation.cached(_compiled, key, build)


def stage_output(
    network: Network,
    dtype: str,
    stages: tuple[str, ...],
    weights: tuple[PyTree, PyTree],
    x: PyTree,
) -> PyTree:
    """The output of the last of the leading stages, as the next stage reads it.

    Where that is the head, `network.reduce` is applied already.

    Args:
      network: the model.
      dtype: that it computes in.
      stages: the leading stages.
      weights: (parameters, statistics).
      x: inputs of the model.
    """
    network = precision.compute_in(network, dtype)
    values = network.apply(*weights, x, stop=stages[-1]).logits
    before_head = stages[-1] == network.stages[-2]
    reduces = before_head and network.reduce is not None
    return network.reduce(values) if reduces else values
