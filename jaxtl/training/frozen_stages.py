"""Training from cached features of the stages that are frozen."""

import dataclasses
import functools

import jax
import numpy as np

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network
from jaxtl.data import device_stream, streams
from jaxtl.evaluation.feature_cache import _apply, _replicated, features, size
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
    streams: dict[str, device_stream.DeviceStream]
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
        read, split = streams.dataset_and_split_of(run.parts.datasets, name)
        dataset = run.parts.datasets[read]
        wanted = dataset.rows[split] if rows is None else rows[name]
        entry, note = features(run, params, stats, stages, name, split, wanted)
        stream = run.parts.data.get(name)
        if stream is None:  # too large for the device; only its features go there
            stream = device_stream.without_inputs(
                dataset,
                split,
                _replicated(program.mesh),
                labels=streams.has_labels(name),
            )
        made[name] = device_stream.with_features(stream, entry.values, wanted)
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
        name: device_stream.with_drawn_rows(
            stream, np.uint32(0), 0, program.batch[name], 1
        )
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
            read, split = streams.dataset_and_split_of(run.parts.datasets, name)
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
    read, split = streams.dataset_and_split_of(run.parts.datasets, name)
    data = run.parts.datasets[read]
    x = streams.example_batch(data, program.preprocess[name])
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
