"""Scores of many lanes on a split, by one compiled forward pass."""

import functools
import threading
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxtl.core import compilation, config
from jaxtl.core import tree as trees
from jaxtl.data import device_stream, preprocess, streams
from jaxtl.evaluation import feature_cache, model_selection, validators
from jaxtl.models import precision
from jaxtl.sweep import stacking
from jaxtl.terms import losses
from jaxtl.training import step


def scores(lanes, kept, split: str, which: Sequence[int]) -> dict[int, tuple]:
    """Returns {lane: (logits (N, outputs) float32, labels (N,))}.

    Args:
      lanes: a `lanes.Lanes`.
      kept: the weights of all lanes, as it keeps them.
      split: of the target data; {} is returned where it is empty.
      which: the lanes to evaluate.
    """
    groups: dict[Any, list[int]] = {}
    for lane in which:
        dataset = lanes.runs[lane].parts.datasets["target"]
        rows = dataset.rows.get(split, ())
        if len(rows):
            at = (id(dataset.x), np.asarray(rows).tobytes())
            groups.setdefault(at, []).append(lane)
    found = {}
    for members in groups.values():
        found.update(_group(lanes, kept, split, members))
    return found


def _group(lanes, kept, split: str, members: list[int]) -> dict[int, tuple]:
    """Scores lanes that are evaluated on the same examples."""
    run = lanes.runs[members[0]]
    rows = streams.split_rows(run.parts.datasets["target"], split)
    size = min(run.exp.evaluate_batch, len(rows))
    flat = _pass(lanes, kept, "target", rows, size, members)
    labels = [lanes.runs[lane].parts.datasets["target"] for lane in members]
    labels = [d.y_clean[rows] if split != "train" else d.y[rows] for d in labels]
    return {lane: (flat[i], labels[i]) for i, lane in enumerate(members)}


def criteria_of(lanes, kept, which: Sequence[int]) -> dict[int, dict[str, float]]:
    """Returns {lane: criteria} of the lanes whose target is unlabelled."""
    there, groups, read = {}, {}, {}
    for lane in which:
        parts = lanes.runs[lane].parts
        if model_selection.label_free(parts):
            there[lane] = model_selection.rows(parts)
            for name, rows in model_selection.wanted(there[lane]).items():
                at = (name, id(parts.datasets[name].x), rows.tobytes())
                groups.setdefault(at, (name, rows, []))[2].append(lane)
    for name, rows, members in groups.values():
        most = lanes.runs[members[0]].exp.evaluate_batch
        size = model_selection.padded(rows, most).shape[1]
        logits, features = _pass(lanes, kept, name, rows, size, members, features=True)
        for i, lane in enumerate(members):
            read.setdefault(lane, {})[name] = logits[i], features[i]
    task = lanes.program.task
    return {
        lane: validators.measure(
            task,
            model_selection.evidence(lanes.runs[lane].parts, read[lane], there[lane]),
        )
        for lane in there
    }


def _pass(lanes, kept, name, rows, size, members: list[int], *, features=False):
    """Returns outputs of some rows of a data set, float32 (members, rows, …).

    With `features` it is a pair: the logits, and what `choosing.readout` adds to them.
    """
    run = lanes.runs[members[0]]
    dataset, start = run.parts.datasets[name], None
    if lanes.cached is not None:
        stages = lanes.cached.stages
        start = lanes.program.network.stages[len(stages)]
        entry, _ = _features(lanes, run, stages, name, rows)
        x = entry.values
        batches, weights = streams.evaluation_batches(np.arange(len(rows)), size)
    else:
        mesh = lanes.program.mesh
        whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        x = device_stream.from_split(dataset, "train", whole).x
        batches, weights = streams.evaluation_batches(rows, size)
    call = _compiled(lanes, start, run.parts.model.preprocess[name], features)
    hypers = lanes.states.hypers["peft"]
    index = padded(members, len(lanes.runs))
    given = (kept, hypers, lanes.own, lanes.shared, x, batches, index)
    used = weights.reshape(-1) > 0

    def flat(values):
        values = np.asarray(values, np.float32)[: len(members)]
        return values.reshape(len(members), len(used), *values.shape[3:])[:, used]

    return jax.tree.map(flat, call(*given))


def _features(lanes, run, stages, name: str, rows):
    """Returns the cached outputs of the frozen stages, found once for all lanes."""
    known = lanes.__dict__.setdefault("features", {})
    at = (name, np.asarray(rows).tobytes())
    if at not in known:
        with _LOCK:  # lanes of other threads want the same, most likely
            known[at] = feature_cache.features(
                run, run.params, run.state.stats, stages, name, "", rows
            )
    return known[at]


_LOCK = threading.Lock()


def padded(members: Sequence[int], most: int) -> np.ndarray:
    """Returns int32 lanes, the last repeated up to the next power of two (or `most`).

    Lanes leave one by one; a program for each number of them would be one too many.
    """
    size = 1
    while size < len(members):
        size *= 2
    size = max(min(size, most), len(members))
    return np.asarray([*members, *[members[-1]] * (size - len(members))], np.int32)


_STORE: dict[Any, Any] = compilation.Recent(128)


def _compiled(lanes, start: str | None, pre: preprocess.Preprocess, features: bool):
    program, layout = lanes.program, lanes.layout
    options = lanes.options
    made = (start, config.key(pre), features, str(options))
    key = (program.key(), layout, lanes.mode, *made)
    if key not in _STORE:
        kind = (start, pre, lanes.mode, features)
        make = functools.partial(_forward, program, layout, *kind)
        _STORE[key] = jax.jit(make, compiler_options=options)
    return _STORE[key]


def _forward(program, layout, start, pre, mode, features, *given):
    """Returns logits (lanes, batches, batch, …), with `features` those as well."""
    kept, hypers, own, shared, x, batches, index = given
    network = precision.compute_in(program.network, program.dtype)

    def one(i):
        mine, numbers, leaves = jax.tree.map(lambda v: v[i], (kept, hypers, own))
        fixed = layout.join(shared, leaves)["fixed"]
        params = weights(program.peft, numbers, mine, fixed)

        def batch(rows):
            given = jax.tree.map(lambda values: values[rows], x)
            settings = {} if start is None else {"start": start}
            if start is None:
                given = preprocess.apply(pre, given)
            out = network.apply(params, mine["stats"], given, **settings)
            if features:
                return model_selection.logits_and_features(program.network, out, given)
            return losses.scores(out.logits, given, program.task)

        return jax.lax.map(batch, batches)

    return jax.vmap(one)(index) if mode == "vmap" else jax.lax.map(one, index)


def weights(peft, numbers, kept, fixed):
    """Returns the parameters as the network reads them."""
    if peft is not None:
        peft = config.with_hyperparameters(peft, numbers)
    return step.merge_params(peft, kept, fixed)


def drift(lanes, kept) -> np.ndarray | None:
    """Returns float (lanes,): ‖θ − θ₀‖ over what has a source, None without one."""
    if not jax.tree.leaves(lanes.runs[0].source.params):
        return None
    key = (lanes.program.key(), lanes.layout, "drift")
    if key not in _STORE:
        _STORE[key] = jax.jit(functools.partial(_drift, lanes.program, lanes.layout))
    hypers = lanes.states.hypers["peft"]
    return np.asarray(_STORE[key](kept, hypers, lanes.own, lanes.shared))


def _drift(program, layout: stacking.Layout, kept, hypers, own, shared):
    def one(given):
        mine, numbers, leaves = given
        fixed = layout.join(shared, leaves)["fixed"]
        params = weights(program.peft, numbers, mine, fixed)
        return trees.sum_squares(trees.sub(params, fixed.source.params)) ** 0.5

    return jax.lax.map(one, (kept, hypers, own))
