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
from typing import Any

import jax
import numpy as np

import jaxtl
from jaxtl.core import compilation, config, serialization, sharding
from jaxtl.core import tree as trees
from jaxtl.core.types import Network, PyTree
from jaxtl.data import lazy_array, preprocess, streams
from jaxtl.evaluation import feature_cache_disk
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
    return f"network {id(model)}" if isinstance(model, Network) else _json(model)


def _json(model) -> dict:
    return serialization.to_json(model)


def _compute(run, params, stats, stages, dataset, pre, rows) -> Entry:
    """Runs the frozen stages over rows, in batches."""
    program = run.program
    count = min(run.exp.evaluate_batch, len(rows))
    count = -(-count // program.mesh.size) * program.mesh.size
    batches, _ = streams.evaluation_batches(rows, count)
    forward, flops = None, None
    parts = []
    for batch in batches:
        x = jax.device_put(
            lazy_array.gather(dataset.x, batch), sharding.batch(program.mesh)
        )
        if forward is None:
            forward, flops = _forward(program, stages, pre, params, stats, x)
        # Kept on the host meanwhile: one copy on the device is enough.
        parts.append(jax.tree.map(np.asarray, forward(params, stats, x)))
    values = jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(rows)], *parts)
    return _placed(run, values, flops and flops / count)


def _placed(run, values, flops) -> Entry:
    return Entry(jax.device_put(values, _replicated(run.program.mesh)), flops)


def _plain(entry: Entry):
    return jax.tree.map(np.asarray, entry.values), entry.flops


def _replicated(mesh):
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


_FORWARDS: dict[Any, tuple] = compilation.Recent(64)


def _forward(program, stages, pre, params, stats, x):
    """Returns (compiled pass of the frozen stages, its operations), shared by runs."""
    shapes = jax.tree.map(lambda a: (a.shape, str(a.dtype)), (params, stats, x))
    leaves, treedef = jax.tree.flatten(shapes)
    settings = (program.network, program.dtype, stages, program.mesh)
    key = (*settings, config.key(pre), treedef, tuple(leaves))
    if key not in _FORWARDS:

        def run(params, stats, x):
            x = preprocess.apply(pre, sharding.constrain_batch(x, program.mesh))
            return _apply(program.network, program.dtype, stages, params, stats, x)

        options = compilation.options(program.mesh.devices.flat[0].platform)
        built = jax.jit(run).lower(params, stats, x).compile(options)
        cost = built.cost_analysis() or {}
        _FORWARDS[key] = built, cost.get("flops")
    return _FORWARDS[key]


def _apply(network: Network, dtype: str, stages, params, stats, x) -> PyTree:
    out = (
        precision.compute_in(network, dtype)
        .apply(params, stats, x, stop=stages[-1])
        .logits
    )
    last = stages[-1] == network.stages[-2]
    return network.reduce(out) if last and network.reduce is not None else out
