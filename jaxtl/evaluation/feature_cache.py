"""Cached features: frozen stages are run once per data set, not once per step.

Where every stage up to a cut is frozen, its output for an example is always the same:
no gradient, no dropout, no batch statistics, and without augmentation no other input.
`attach` computes these outputs once and hands them to the step, which starts after the
cut. An entry's name is a hash of all that it depends on (weights, statistics, model,
preprocessing, the examples themselves, dtype, versions), so it can't be stale: what
changes has another name.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import jaxtl
from jaxtl.core import compilation, config, serialization, sharding
from jaxtl.core import tree as trees
from jaxtl.core.types import Network, PyTree
from jaxtl.data import lazy_array, preprocess, streams
from jaxtl.data.dataset import Dataset
from jaxtl.evaluation import feature_cache_disk, forward
from jaxtl.models import precision

KEPT = 8  # entries in memory; the one used longest ago goes first


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """Features of some rows.

    Attributes:
      values: array or Tokens, an example per row.
      flops: floating-point operations that computing one example took, or None.
    """

    values: PyTree
    flops: float | None


def size(nbytes: int) -> str:
    """Returns a number of bytes for people."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.3g} {unit}"
    return f"{nbytes} bytes"


def features(run, params, stats, stages, stream: str, split: str, rows=None):
    """Returns (the entry of a split's features, a note on the folder or "").

    `rows` stand in for the split's own.
    """
    name, _ = streams.dataset_and_split_of(run.parts.datasets, stream)
    dataset, pre = run.parts.datasets[name], run.parts.model.preprocess[name]
    rows = streams.split_rows(dataset, split) if rows is None else rows
    key = digest(run, params, stats, stages, dataset, pre, rows)
    if key in _MEMORY:
        _MEMORY[key] = _MEMORY.pop(key)
        return _MEMORY[key], ""
    found, note = None, ""
    folder = None
    if run.exp.cache == "disk" and isinstance(_model(run), dict):
        folder = feature_cache_disk.folder(run.exp.cache_dir)
        found, note = feature_cache_disk.read(folder, key)
    if found is None:
        entry = _compute(run, params, stats, stages, dataset, pre, rows)
        if folder is not None:
            note = "; ".join(
                filter(
                    None, (note, feature_cache_disk.write(folder, key, *_plain(entry)))
                )
            )
    else:
        entry = _placed(run, *found)
    _MEMORY[key] = entry
    while len(_MEMORY) > KEPT:
        del _MEMORY[next(iter(_MEMORY))]
    return entry, note


_MEMORY: dict[str, Entry] = {}


def forget() -> None:
    """Lets go of all features in memory."""
    _MEMORY.clear()


def digest(run, params, stats, stages, dataset, pre, rows) -> str:
    """Returns the name of the features of some rows: a hash of what they depend on."""
    made = hashlib.sha256()
    device = jax.devices()[0]
    facts = {
        "versions": [jaxtl.__version__, jax.__version__, device.device_kind],
        "model": _model(run),
        "stages": list(stages),
        "dtype": run.exp.dtype,
        "preprocess": preprocess.to_json(pre),
        "peft": serialization.to_json(run.exp.peft),
        "rows": len(rows),
    }
    made.update(json.dumps(facts, sort_keys=True).encode())
    weights = [{s: tree[s] for s in stages if s in tree} for tree in (params, stats)]
    for tree in weights:
        for path, leaf in trees.flatten(tree).items():
            _update(made, path, np.asarray(leaf))
    for at in range(0, len(rows), 4096):
        x = lazy_array.gather(dataset.x, rows[at : at + 4096])
        for name, values in sorted((x if isinstance(x, dict) else {"x": x}).items()):
            _update(made, name, np.asarray(values))
    return made.hexdigest()


def _update(made, name: str, values: np.ndarray) -> None:
    made.update(f"{name}{values.shape}{values.dtype}".encode())
    made.update(np.ascontiguousarray(values).tobytes())


def _model(run) -> Any:
    """Returns the model's configuration; a plain pair of functions by its identity."""
    model = run.parts.model.config
    return (
        f"network {id(model)}"
        if isinstance(model, Network)
        else serialization.to_json(model)
    )


def predict(
    run: Any,
    weights: tuple[PyTree, PyTree],
    data: str,
    rows: np.ndarray,
    outputs: Callable[..., PyTree] = forward.logits,
    *,
    power_of_two: bool = False,
) -> PyTree:
    """`forward.predict` for a run, from cached features where its phase caches some.

    Args:
      run: the run.
      weights: (parameters, statistics).
      data: one of the run's data sets.
      rows, outputs, power_of_two: as for `forward.predict`.
    """
    model, dataset = run.evaluation_model(data), run.datasets[data]
    start = {}
    if run.cached is not None:
        entry, _ = features(run, *weights, run.cached.stages, data, "", rows)
        after = model.network.stages[len(run.cached.stages)]
        start = {"start": after, "features": entry.values}
    return forward.predict(
        model, weights, dataset, rows, outputs, power_of_two=power_of_two, **start
    )


def _compute(
    run: Any,
    params: PyTree,
    stats: PyTree,
    stages: tuple[str, ...],
    dataset: Dataset,
    pre: preprocess.Preprocess,
    rows: np.ndarray,
) -> Entry:
    """Runs the frozen stages over rows, in batches."""
    program, flops = run.program, None
    width = forward.batch_width(len(rows), run.exp.evaluate_batch, program.mesh.size)

    def call(batch: np.ndarray) -> PyTree:
        nonlocal flops
        x = forward.host_batch(dataset, batch, program.mesh)
        apply, flops = _compiled(program, stages, pre, params, stats, x)
        return apply(params, stats, x)

    values = forward.in_batches(call, rows, width)
    return _placed(run, values, flops and flops / width)


def _placed(run: Any, values: PyTree, flops: float | None) -> Entry:
    return Entry(sharding.replicate(values, run.program.mesh), flops)


def _plain(entry: Entry) -> tuple[PyTree, float | None]:
    return jax.tree.map(np.asarray, entry.values), entry.flops


def _compiled(program, stages, pre, params, stats, x) -> tuple[Callable, float | None]:
    """(Compiled pass of the frozen stages, its operations), shared by equal runs."""
    settings = (program.network, program.dtype, stages, program.mesh, config.key(pre))
    key = (*settings, compilation.shapes((params, stats, x)))

    def build() -> tuple[Callable, float | None]:
        def apply(params, stats, x):
            x = preprocess.apply(pre, sharding.constrain_batch(x, program.mesh))
            return stage_output(
                program.network, program.dtype, stages, params, stats, x
            )

        options = compilation.options(program.mesh.devices.flat[0].platform)
        compiled = jax.jit(apply).lower(params, stats, x).compile(options)
        cost = compiled.cost_analysis() or {}
        return compiled, cost.get("flops")

    return compilation.cached(_compiled, key, build)


def stage_output(
    network: Network,
    dtype: str,
    stages: tuple[str, ...],
    params: PyTree,
    stats: PyTree,
    x: PyTree,
) -> PyTree:
    """Output of the last of the leading stages, as the next stage reads it.

    Where that is the head, what it does first without parameters is done already.
    """
    network = precision.compute_in(network, dtype)
    values = network.apply(params, stats, x, stop=stages[-1]).logits
    last = stages[-1] == network.stages[-2]
    return network.reduce(values) if last and network.reduce is not None else values
