"""Lanes: many runs of one program, trained side by side by one compiled function.

Runs that differ in traced numbers, in seeds or in labels take the same steps with
other arrays. Stacked along a leading axis they are lanes of one program: by vmap on
accelerators, one after the other inside one device loop on CPUs, where batched products
of small matrices are slow. What all lanes share (data, frozen parameters, cached
features, θ₀) is there once.
"""

import dataclasses
import functools
import threading
import time
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core import compilation
from jaxtl.core import tree as trees
from jaxtl.core.types import PyTree
from jaxtl.data import device_stream, streams
from jaxtl.evaluation import metrics
from jaxtl.sweep import stacking, vectorized_eval
from jaxtl.training import compiled_step, frozen_stages, step
from jaxtl.training.run import Run

VMAP, MAP, ALONE = "vmap", "map", "alone"


def why_alone(run: Run) -> str:
    """Returns why a run's kind can't be lanes, "" if it can."""
    program, exp = run.program, run.exp
    if len(run.parts.phases) > 1:
        return "phases"
    if exp.wise_ft:
        return "wise_ft"
    if program.host_streams:
        return "data streamed from the host"
    if program.mesh.size > 1:
        return "several devices"
    if program.task == "language":
        return "language models"
    if exp.steps == 0:
        return "no steps"
    return ""


def mode_of(run: Run) -> str:
    """Returns how runs of this kind are trained: "vmap", "map" or "alone".

    On CPUs, XLA's convolutions are several times slower inside a loop than outside, so
    networks with convolutions in what a step runs take their steps alone there.
    """
    if why_alone(run):
        return ALONE
    if run.program.mesh.devices.flat[0].platform != "cpu":
        return VMAP
    stages, _ = frozen_stages.frozen_stages(run)
    if stages and stages[-1] == run.program.network.stages[-2]:
        return MAP  # the head alone
    return (
        ALONE
        if compilation.has_convolution(
            functools.partial(step.step, run.program), run.state, run.fixed, _drawn(run)
        )
        else MAP
    )


def _drawn(run: Run) -> dict:
    return {
        name: device_stream.with_drawn_rows(
            stream, np.uint32(0), 0, run.program.batch_sizes[name], 1
        )
        for name, stream in run.parts.device_streams.items()
    }


def bytes_of(run: Run) -> int:
    """Returns the memory that one lane takes: its state, and its best weights."""
    kept = step.averaged_tree(run.state.trainable, run.state.stats)
    return trees.nbytes(run.state) + trees.nbytes(kept)


class VectorizedRuns:
    """Runs in training side by side.

    Attributes:
      runs: as set up, not begun.
      mode: "vmap" or "map".
      one_core: whether other lanes are trained on the other cores at the same time.
      active: the lanes that still train.
      at: steps taken.
      states: the runs' states, stacked.
      best: lane -> {"step", "value", "metrics"} or None, as `Run.best`.

    Raises:
      stacking.Unlike: the runs' arrays differ in shape, so that no program fits all.
    """

    def __init__(self, runs: Sequence[Run], mode: str, *, one_core: bool = False):
        self.runs, self.mode, self.one_core = tuple(runs), mode, one_core
        first = self.runs[0]
        self.exp, self.program = first.exp, first.program
        if len({run.program.key() for run in self.runs}) > 1:
            raise stacking.Unlike("their programs differ")
        self.cached = None
        self.layout, self.shared, self.own = stacking.divide(self._constants())
        self._cache()
        self.states = stacking.stack([run.state for run in self.runs])
        self.kept = jax.tree.map(jnp.copy, self._weights())
        self.best: list[dict | None] = [None] * len(self.runs)
        self.curves = [{"step": [], "loss": [], "val": []} for _ in self.runs]
        self.failures: dict[int, str] = {}
        self.stopped: set[int] = set()
        self.active = list(range(len(self.runs)))
        self.at, self.seconds, self.compile_seconds = 0, 0.0, 0.0
        self._compiled: tuple | None = None

    def _constants(self) -> list[dict]:
        """Returns what each lane reads and never changes."""
        there = None if self.cached is None else self.cached.streams
        found = []
        for run in self.runs:
            data = run.parts.device_streams
            if there is not None:  # features of all lanes' rows, each lane its own rows
                data = {
                    name: dataclasses.replace(
                        stream, rows=data[name].rows, n=data[name].n, y=data[name].y
                    )
                    for name, stream in there.items()
                }
            found.append({"fixed": run.fixed, "data": data})
        return found

    def _cache(self) -> None:
        """Caches frozen stages' outputs of all lanes' rows, if all freeze alike."""
        first = self.runs[0]
        stages, _ = frozen_stages.frozen_stages(first)
        whose = self.layout.join([True] * len(self.shared), [False] * len(self.own))
        same = all(jax.tree.leaves(whose["fixed"].frozen))
        stats = [run.state.stats for run in self.runs]
        same = same and all(stacking.equal(stats[0], other) for other in stats[1:])
        same = same and all(
            run.parts.datasets[name].x is data.x
            for run in self.runs
            for name, data in first.parts.datasets.items()
        )
        if not stages or not same:
            return
        rows = {
            name: np.unique(np.concatenate([_rows(run, name) for run in self.runs]))
            for name in self.program.batch_sizes
        }
        self.cached, self.program, _ = frozen_stages.attach(first, rows)
        if self.cached is not None:
            made = stacking.divide(self._constants())
            self.layout, self.shared, self.own = made

    def _weights(self) -> PyTree:
        """Returns what is evaluated and kept: the averages where there are any."""
        if self.program.average is not None:
            return self.states.average
        return step.averaged_tree(self.states.trainable, self.states.stats)

    def chosen_weights(self) -> PyTree:
        """The best weights on val so far; without a monitor the current ones."""
        return self._weights() if self.runs[0].monitor is None else self.kept

    def advance(self, count: int, most: int) -> np.ndarray:
        """Takes `count` ≤ `most` steps in every active lane.

        Returns:
          float32 (lanes, count, metrics); rows of lanes that are not active mean
          nothing.
        """
        begin = time.perf_counter()
        drawn = self._draw(most)
        args = (self.states, self.own, self.shared, drawn, *self._order())
        if self._compiled is None:
            self._compiled = compiled(self, args, most)
            self.compile_seconds = time.perf_counter() - begin
            begin = time.perf_counter()
        self.states, table = self._compiled[0](*args, np.int32(count))
        self.at += count
        table = np.asarray(table)[:, :count]
        self.seconds += time.perf_counter() - begin
        return table

    @property
    def options(self) -> dict[str, str]:
        """Compiler options of the lanes' programs."""
        platform = self.program.mesh.devices.flat[0].platform
        made = compilation.single if self.one_core else compilation.options
        return made(platform)

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics of a step, in the order of `advance`'s last axis."""
        return self._compiled[1]

    def _order(self) -> tuple[np.ndarray, np.int32]:
        order = np.zeros(len(self.runs), np.int32)
        order[: len(self.active)] = self.active
        return order, np.int32(len(self.active))

    def _draw(self, most: int) -> dict:
        """Returns {stream: int32 (lanes, most, batch)}, the rows of the next steps."""
        known, found = {}, {}
        for index, (name, size) in enumerate(self.program.batch_sizes.items()):
            lanes = []
            for run in self.runs:
                stream, seed = run.parts.device_streams[name], run.exp.seed
                at = (name, seed, _rows(run, name).tobytes())
                if at not in known:
                    own = np.uint32(step.stream_seed(seed, index))
                    bare = dataclasses.replace(stream, x=None)
                    made = device_stream.with_drawn_rows(
                        bare, own, np.int32(self.at), size, most
                    )
                    known[at] = np.asarray(made.drawn_rows)
                lanes.append(known[at])
            found[name] = np.stack(lanes)
        return found

    def evaluate(self) -> None:
        """Measures the active lanes on val; each keeps its weights if they are best."""
        found = vectorized_eval.scores(self, self._weights(), "val", self.active)
        if not found:
            return
        better = np.zeros(len(self.runs), bool)
        blind = vectorized_eval.criteria_of(self, self._weights(), list(found))
        for lane, (logits, labels) in found.items():
            values = metrics.compute(self.program.task, logits, labels)
            values = {**values, **blind.get(lane, {})}
            self.curves[lane]["val"].append({"step": self.at, **rounded(values)})
            better[lane] = self._improves(lane, values)
        if better.any():
            self.kept = _chosen(better, self._weights(), self.kept)

    def _improves(self, lane: int, values: dict) -> bool:
        monitor = self.runs[lane].monitor
        if monitor is None:
            return False
        value = metrics.monitored(values, monitor)
        known = self.best[lane]
        if not metrics.beats(monitor, value, known and known["value"]):
            return False
        self.best[lane] = {"step": self.at, "value": value, "metrics": values}
        return True

    def drop(self, lanes: Iterable[int]) -> None:
        """Takes lanes out of training."""
        out = set(lanes)
        self.active = [lane for lane in self.active if lane not in out]

    def stop(self, lanes: Iterable[int]) -> None:
        """Takes lanes out of training for doing worse than others."""
        lanes = list(lanes)
        self.stopped.update(lanes)
        self.drop(lanes)


def _rows(run: Run, stream: str) -> np.ndarray:
    name, split = streams.dataset_and_split_of(run.parts.datasets, stream)
    return run.parts.datasets[name].rows[split]


_COMPILED: dict = compilation.Recent(64)
_LOCKS: dict = compilation.Recent(64)
_LOCK = threading.Lock()


def compiled(lanes: VectorizedRuns, args: tuple, most: int) -> tuple:
    """Returns (call, names of a step's metrics), from the process's store.

    The call takes (states, own, shared, drawn rows, order, active lanes, n) and returns
    the states and float32 (lanes, most, metrics). Steps and active lanes are traced.
    """
    leaves, treedef = jax.tree.flatten(args)
    shapes = tuple((x.shape, str(x.dtype)) for x in leaves)
    layout, mode = lanes.layout, lanes.mode
    options = lanes.options
    key = (lanes.program.key(), layout, mode, most, treedef, shapes, str(options))
    with _LOCK:
        if key not in _LOCKS:
            _LOCKS[key] = threading.Lock()
        waiting = _LOCKS[key]
    with waiting:  # lanes of another thread may be compiling just this
        if key not in _COMPILED:
            made = _compile(lanes.program, layout, mode, args, most, options)
            _COMPILED[key] = made
        return _COMPILED[key]


def _compile(
    program, layout: stacking.Layout, mode: str, args, most: int, options
) -> tuple:
    first = jax.tree.map(lambda x: x[0], (args[0], args[1], args[3]))

    def read(shared, own, drawn, at):
        made = layout.join(shared, own)
        data = {
            name: dataclasses.replace(stream, drawn_rows=drawn[name], first_step=at)
            for name, stream in made["data"].items()
            if name in drawn
        }
        return made["fixed"], data

    names, single = compiled_step.measured(
        program, first[0], *read(args[2], first[1], first[2], jnp.int32(0))
    )

    def lane(state, own, drawn, shared, n):
        fixed, data = read(shared, own, drawn, state.step)

        def body(i, carry):
            state, table = carry
            state, row = single(state, fixed, data)
            return state, table.at[i].set(row)

        table = jnp.zeros((most, len(names)), jnp.float32)
        return jax.lax.fori_loop(0, n, body, (state, table))

    def side_by_side(states, own, shared, drawn, order, count, n):
        return jax.vmap(lane, (0, 0, 0, None, None))(states, own, drawn, shared, n)

    def in_turn(states, own, shared, drawn, order, count, n):
        def body(j, carry):
            i = order[j]
            pick = functools.partial(jax.tree.map, lambda x: x[i])
            found = lane(*pick((carry[0], own, drawn)), shared, n)
            return jax.tree.map(lambda xs, x: xs.at[i].set(x), carry, found)

        tables = jnp.zeros((len(order), most, len(names)), jnp.float32)
        return jax.lax.fori_loop(0, count, body, (states, tables))

    run = jax.jit(side_by_side if mode == VMAP else in_turn, donate_argnums=0)
    built = run.lower(*args, np.int32(1)).compile(options)
    return built, names


@jax.jit
def _chosen(better, new, old):
    def one(a, b):
        return jnp.where(better.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(one, new, old)


def rounded(values: dict) -> dict:
    """Returns numbers of six digits: curves are many."""
    return {name: float(f"{value:.6g}") for name, value in values.items()}
