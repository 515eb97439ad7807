"""Training from cached features of the stages that are frozen."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxtl.core import sharding
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.data import device_stream, streams
from jaxtl.data.device_stream import DeviceStream
from jaxtl.evaluation import feature_cache
from jaxtl.terms.program import Program
from jaxtl.training import step


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
    streams: dict[str, DeviceStream]
    nbytes: int
    flops: float | None
    notes: tuple[str, ...]

    def describe(self, remaining_flops: float | None) -> str:
        """One line; `remaining_flops` are the operations of a step that still run."""
        names = self.stages[0] + (f"…{self.stages[-1]}" if len(self.stages) > 1 else "")
        noun = "stages" if len(self.stages) > 1 else "stage"
        line = f"{noun} {names} cached: {feature_cache.format_bytes(self.nbytes)}"
        if self.flops and remaining_flops:
            share = self.flops / (self.flops + remaining_flops)
            line += f", saves {100 * share:.0f} % of a step"
        return "; ".join([line, *self.notes])


def attach(
    run: Any, rows: Mapping[str, np.ndarray] | None = None
) -> tuple[Cached | None, Program, str]:
    """Caches the features of a phase's frozen stages, where that is possible.

    Args:
      run: the run.
      rows: {stream: rows} to cache, if others than the run's own (those of several
        runs, say).

    Returns:
      (the features or None, the run's program that starts from them, why nothing is
      cached although stages are frozen, "" where there is nothing to say).
    """
    uncached = dataclasses.replace(run.program, cached_until=None, cached_source=False)
    stages, why = frozen_stages(run)
    if not stages or why:
        return None, uncached, why
    program = dataclasses.replace(
        uncached,
        cached_until=stages[-1],
        cached_source=_is_source(run, stages),
        host_streams=(),
    )
    feature_streams, entries, notes = {}, {}, []
    weights = run.packed_params, run.state.stats
    for name in program.streams:
        read, split = streams.dataset_and_split_of(run.parts.datasets, name)
        dataset = run.parts.datasets[read]
        needed = dataset.rows[split] if rows is None else rows[name]
        entries[name], note = feature_cache.load_or_compute(
            run, weights, stages, read, needed
        )
        stream = run.parts.device_streams.get(name)
        if stream is None:  # too large for the device; only its features go there
            stream = device_stream.without_inputs(
                dataset,
                split,
                sharding.replicated(program.mesh),
                labels=streams.has_labels(name),
            )
        feature_streams[name] = device_stream.with_features(
            stream, entries[name].values, needed
        )
        notes += [note] if note else []
    try:
        _check_traces(run, program, feature_streams)
    except UserError as error:
        return None, uncached, f"frozen stages are not cached: {error}"
    cached = Cached(
        stages=stages,
        streams=feature_streams,
        nbytes=sum(trees.nbytes(entry.values) for entry in entries.values()),
        flops=_saved_flops(entries, program.batch_sizes),
        notes=tuple(dict.fromkeys(notes)),
    )
    return cached, program, ""


def _saved_flops(
    entries: Mapping[str, Any], batch_sizes: Mapping[str, int]
) -> float | None:
    """Operations per step that the cache saves, None where XLA does not count them."""
    flops = [
        entry.flops and entry.flops * batch_sizes[n] for n, entry in entries.items()
    ]
    return sum(flops) if all(flops) else None


def _check_traces(
    run: Any, program: Program, feature_streams: Mapping[str, DeviceStream]
) -> None:
    """Raises where a term reads inputs of a stream that has its features alone."""
    if not run.program.host_streams:
        return
    data = {
        name: device_stream.with_drawn_rows(
            stream, np.uint32(0), 0, program.batch_sizes[name], 1
        )
        for name, stream in feature_streams.items()
    }
    jax.eval_shape(functools.partial(step.step, program), run.state, run.fixed, data)


def frozen_stages(run: Any) -> tuple[tuple[str, ...], str]:
    """The leading stages that can be cached now, and why not if they can't."""
    exp, program = run.exp, run.program
    trained = {
        path.split("/")[0]
        for path, is_trained in trees.flatten(program.trainable_mask).items()
        if is_trained
    }
    frozen = tuple(
        itertools.takewhile(
            lambda stage: stage not in trained and stage not in program.train_stages,
            program.network.stages[:-1],
        )
    )
    if not frozen or exp.cache == "off" or exp.steps == 0:
        return (), ""
    reason = _why_not(run, frozen)
    if reason:
        return (), f"frozen stages are not cached: {reason}"
    return frozen, ""


def _why_not(run: Any, frozen: tuple[str, ...]) -> str:
    """Why frozen stages can't be cached, or are not worth it; "" where they can."""
    exp, program = run.exp, run.program
    if exp.augment:
        return "augmentation gives other inputs at every step"
    if not program.network.can_start:
        reason = program.network.no_start
        return f"this model can't start at a stage{reason and f' ({reason})'}"
    steps = run.parts.phases[run.phase].steps
    for name, batch in program.batch_sizes.items():
        read, split = streams.dataset_and_split_of(run.parts.datasets, name)
        rows = len(run.parts.datasets[read].rows[split])
        if exp.cache == "auto" and len(steps) * batch < rows:
            return (
                f"{len(steps):,} steps see fewer examples of {name!r} than "
                f"its {rows:,} (cache='memory' does it all the same)"
            )
    nbytes = sum(_expected(run, name, frozen) for name in program.streams)
    if nbytes > exp.cache_bytes:
        return (
            f"features of {frozen[-1]!r} would take "
            f"{feature_cache.format_bytes(nbytes)}, more than "
            f"cache_bytes={exp.cache_bytes:,}"
        )
    return ""


def _expected(run: Any, name: str, stages: tuple[str, ...]) -> int:
    """Bytes that a stream's features will take."""
    program = run.program
    read, split = streams.dataset_and_split_of(run.parts.datasets, name)
    data = run.parts.datasets[read]
    x = streams.example_batch(data, program.preprocess[name])
    shapes = jax.eval_shape(
        functools.partial(
            feature_cache.stage_output, program.network, program.dtype, stages
        ),
        (run.packed_params, run.state.stats),
        x,
    )
    rows = len(data.rows[split])
    leaves = jax.tree.leaves(shapes)
    return rows * sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in leaves)


def _is_source(run: Any, stages: tuple[str, ...]) -> bool:
    """Whether the frozen stages are θ₀'s own, never trained since."""
    source = run.source
    if source.params is None:
        return False
    phases = run.parts.phases[: run.phase + 1]
    source_paths = {*trees.flatten(source.params), *trees.flatten(source.stats or {})}
    for stage in stages:
        for tree in (run.packed_params, run.state.stats):
            if not set(trees.flatten({stage: tree.get(stage, {})})) <= source_paths:
                return False
        if any(any(jax.tree.leaves(p.trainable_mask.get(stage, {}))) for p in phases):
            return False
    return True
