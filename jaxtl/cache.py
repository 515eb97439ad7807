"""Cached features: frozen stages are run once per data set, not once per step.

Where every stage up to a cut is frozen, its output for an example is always the same:
no gradient, no dropout, no batch statistics, and without augmentation no other input.
`attach` computes these outputs once and hands them to the step, which starts after the
cut. An entry's name is a hash of all that it depends on (weights, statistics, model,
preprocessing, the examples themselves, dtype, versions), so it can't be stale: what
changes has another name.
"""

import dataclasses
import functools
import hashlib
import json
from typing import Any

import jax
import numpy as np

import jaxtl
from jaxtl import (
    cache_disk,
    compiling,
    config,
    feeds,
    sharding,
    snapshot,
    step,
)
from jaxtl import tree as trees
from jaxtl.core import Network, PyTree, UserError
from jaxtl.data import lazy, preprocess, streams

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


@dataclasses.dataclass(frozen=True, eq=False)
class Cached:
    """The features that a run's phase starts from.

    Attributes:
      stages: the frozen stages; the last is the cut.
      streams: stream name -> device stream with features.
      nbytes: of the features of all streams.
      flops: operations per step that are saved, or None.
      notes: what went wrong with the folder, if anything.
    """

    stages: tuple[str, ...]
    streams: dict[str, streams.DeviceStream]
    nbytes: int
    flops: float | None
    notes: tuple[str, ...]

    def describe(self, left: float | None) -> str:
        """Returns one line; `left` counts the operations of a step that remain."""
        names = self.stages[0] + (f"…{self.stages[-1]}" if len(self.stages) > 1 else "")
        many = "stages" if len(self.stages) > 1 else "stage"
        line = f"{many} {names} cached: {size(self.nbytes)}"
        if self.flops and left:
            line += f", saves {100 * self.flops / (self.flops + left):.0f} % of a step"
        return "; ".join([line, *self.notes])


def size(nbytes: int) -> str:
    """Returns a number of bytes for people."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.3g} {unit}"
    return f"{nbytes} bytes"


def attach(run, rows=None) -> tuple[Cached | None, step.Program, str]:
    """Caches what can be for a run's phase.

    Args:
      run: the run.
      rows: {stream: rows} to cache, if others than the run's own (those of several
        runs, say).

    Returns:
      (the features or None, the run's program that starts from them, why nothing is
      cached although stages are frozen, "" where there is nothing to say).
    """
    plain = dataclasses.replace(run.program, cut=None, cut_source=False)
    stages, why = frozen_stages(run)
    if not stages or why:
        return None, plain, why
    cut = stages[-1]
    program = dataclasses.replace(
        plain,
        cut=cut,
        cut_source=_is_source(run, stages),
        host=tuple(n for n in plain.host if n not in plain.batch),
    )
    made, entries, notes = {}, [], []
    params, stats = run.params, run.state.stats
    for name in plain.batch:
        read, split = feeds.read_of(run.parts.datasets, name)
        dataset = run.parts.datasets[read]
        wanted = dataset.rows[split] if rows is None else rows[name]
        entry, note = features(run, params, stats, stages, name, split, wanted)
        stream = run.parts.data.get(name)
        if stream is None:  # too large for the device; only its features go there
            stream = streams.label_stream(
                dataset,
                split,
                _replicated(program.mesh),
                labels=feeds.labelled(name),
            )
        made[name] = streams.with_features(stream, entry.values, wanted)
        entries.append((entry, plain.batch[name]))
        notes += [note] if note else []
    # A term may ask for the inputs of a stream whose features alone are there.
    try:
        probe = Cached(stages, made, 0, None, ())
        _trace(run, program, probe)
    except UserError as error:
        return None, plain, f"frozen stages are not cached: {error}"
    nbytes = sum(trees.nbytes(entry.values) for entry, _ in entries)
    flops = [e.flops and e.flops * n for e, n in entries]
    saved = sum(flops) if all(flops) else None
    found = Cached(stages, made, nbytes, saved, tuple(dict.fromkeys(notes)))
    return found, program, ""


def _trace(run, program, cached: Cached) -> None:
    if not run.program.host:
        return
    data = {
        name: streams.draw(stream, np.uint32(0), 0, program.batch[name], 1)
        for name, stream in cached.streams.items()
    }
    jax.eval_shape(functools.partial(step.step, program), run.state, run.fixed, data)


def frozen_stages(run) -> tuple[tuple[str, ...], str]:
    """Returns the leading stages that can be cached now, and why not if they can't."""
    exp, program = run.exp, run.program
    moving = {
        path.split("/")[0] for path, m in trees.flatten(program.moving).items() if m
    }
    stages = program.network.stages
    frozen = []
    for stage in stages[:-1]:
        if stage in moving or stage in program.train:
            break
        frozen.append(stage)
    if not frozen or exp.cache == "off" or exp.steps == 0:
        return (), ""
    never = "frozen stages are not cached: "
    if exp.augment:
        return (), never + "augmentation gives other inputs at every step"
    if not _starts(program.network, frozen[-1]):
        return (), never + "this model can't start at a stage"
    steps = run.parts.stretches[run.phase].steps
    if exp.cache == "auto":
        for name, batch in program.batch.items():
            read, split = feeds.read_of(run.parts.datasets, name)
            rows = len(run.parts.datasets[read].rows[split])
            if len(steps) * batch < rows:
                return (), (
                    f"{never}{len(steps):,} steps see fewer examples of {name!r} than "
                    f"its {rows:,} (cache='memory' does it all the same)"
                )
    nbytes = sum(_expected(run, name, tuple(frozen)) for name in program.batch)
    if nbytes > exp.cache_bytes:
        return (), (
            f"{never}features of {frozen[-1]!r} would take {size(nbytes)}, more than "
            f"cache_bytes={exp.cache_bytes:,}"
        )
    return tuple(frozen), ""


@functools.cache
def _starts(network: Network, cut: str) -> bool:
    """Returns whether a model can begin after a stage; a plain pair can't."""
    after = network.stages[network.stages.index(cut) + 1]
    try:
        network.apply({}, {}, None, start=after, stop=cut)
    except UserError as error:
        return "can't start" not in str(error)
    except Exception:  # it tried
        return True
    return True


def _expected(run, name: str, stages) -> int:
    """Returns the bytes that a stream's features will take."""
    program = run.program
    read, split = feeds.read_of(run.parts.datasets, name)
    data = run.parts.datasets[read]
    x = feeds.example(data, program.preprocess[name])
    one = jax.eval_shape(
        functools.partial(_apply, program.network, program.dtype, stages),
        run.params,
        run.state.stats,
        x,
    )
    rows = len(data.rows[split])
    leaves = jax.tree.leaves(one)
    return rows * sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in leaves)


def _is_source(run, stages) -> bool:
    """Returns whether the frozen stages are θ₀'s own, never trained since."""
    source = run.source
    if source.params is None:
        return False
    before = run.parts.stretches[: run.phase + 1]
    known = {*trees.flatten(source.params), *trees.flatten(source.stats or {})}
    for stage in stages:
        own = (
            {stage: run.params.get(stage, {})},
            {stage: run.state.stats.get(stage, {})},
        )
        if not all(set(trees.flatten(tree)) <= known for tree in own):
            return False
        for stretch in before:
            if any(jax.tree.leaves(stretch.moving.get(stage, {}))):
                return False
    return True


def features(run, params, stats, stages, stream: str, split: str, rows=None):
    """Returns (the entry of a split's features, a note on the folder or "").

    `rows` stand in for the split's own.
    """
    name, _ = feeds.read_of(run.parts.datasets, stream)
    dataset, pre = run.parts.datasets[name], run.parts.preprocess[name]
    rows = streams.split_rows(dataset, split) if rows is None else rows
    key = digest(run, params, stats, stages, dataset, pre, rows)
    if key in _MEMORY:
        _MEMORY[key] = _MEMORY.pop(key)
        return _MEMORY[key], ""
    found, note = None, ""
    folder = None
    if run.exp.cache == "disk" and isinstance(_model(run), dict):
        folder = cache_disk.folder(run.exp.cache_dir)
        found, note = cache_disk.read(folder, key)
    if found is None:
        entry = _compute(run, params, stats, stages, dataset, pre, rows)
        if folder is not None:
            note = "; ".join(
                filter(None, (note, cache_disk.write(folder, key, *_plain(entry))))
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
        "peft": snapshot.to_json(run.exp.peft),
        "rows": len(rows),
    }
    made.update(json.dumps(facts, sort_keys=True).encode())
    weights = [{s: tree[s] for s in stages if s in tree} for tree in (params, stats)]
    for tree in weights:
        for path, leaf in trees.flatten(tree).items():
            _update(made, path, np.asarray(leaf))
    for at in range(0, len(rows), 4096):
        x = lazy.gather(dataset.x, rows[at : at + 4096])
        for name, values in sorted((x if isinstance(x, dict) else {"x": x}).items()):
            _update(made, name, np.asarray(values))
    return made.hexdigest()


def _update(made, name: str, values: np.ndarray) -> None:
    made.update(f"{name}{values.shape}{values.dtype}".encode())
    made.update(np.ascontiguousarray(values).tobytes())


def _model(run) -> Any:
    """Returns the model's configuration; a plain pair of functions by its identity."""
    model = run.parts.model
    return f"network {id(model)}" if isinstance(model, Network) else _json(model)


def _json(model) -> dict:
    return snapshot.to_json(model)


def _compute(run, params, stats, stages, dataset, pre, rows) -> Entry:
    """Runs the frozen stages over rows, in batches."""
    program = run.program
    count = min(run.exp.evaluate_batch, len(rows))
    count = -(-count // program.mesh.size) * program.mesh.size
    batches, _ = streams.evaluation_batches(rows, count)
    forward, flops = None, None
    parts = []
    for batch in batches:
        x = jax.device_put(lazy.gather(dataset.x, batch), sharding.batch(program.mesh))
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


_FORWARDS: dict[Any, tuple] = compiling.Recent(64)


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

        options = compiling.options(program.mesh.devices.flat[0].platform)
        built = jax.jit(run).lower(params, stats, x).compile(options)
        cost = built.cost_analysis() or {}
        _FORWARDS[key] = built, cost.get("flops")
    return _FORWARDS[key]


def _apply(network: Network, dtype: str, stages, params, stats, x) -> PyTree:
    out = step.cast(network, dtype).apply(params, stats, x, stop=stages[-1]).logits
    last = stages[-1] == network.stages[-2]
    return network.reduce(out) if last and network.reduce is not None else out
