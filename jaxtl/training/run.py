"""A run: an experiment in progress, in memory."""

import copy
import dataclasses
import functools
import pathlib
from collections.abc import Iterator

import jax
import numpy as np

from jaxtl.core import config, sharding
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.data import device_stream, host_stream, preprocess, streams
from jaxtl.evaluation import metrics, model_selection
from jaxtl.optim import optimizer
from jaxtl.training import build, compiled_step, frozen_stages
from jaxtl.training import step as train_step
from jaxtl.training.experiment import Experiment

AHEAD = 64  # steps whose rows are drawn at once


class Run:
    """An experiment in progress.

    Iterating takes the remaining steps one by one and yields `(state, metrics)`.

    Attributes:
      exp: the experiment.
      parts: what it was assembled to (model, data sets, program, source, rows).
      state: what training changes.
      directory: where it is stored, None for a run that lives in memory.
      best: {"step", "value", "metrics"} of the best evaluation so far, or None.
      phase: number of the phase that the last step was taken in.
      cached: the features that training starts from, None without.
      best_delta: what a reparametrisation trained, at the best evaluation so far.
      loaded: (parameters, statistics) of a stored model that stand in for this run's
        own, None for a run in training.
      notes: name -> what terms, and the cache, decided for this run.
      curve: what `training` measured: {"step": […], "loss": […] (means since the step
        before), "val": [{"step": …, metric: …}, …]}; of this session.
      seconds: time spent in training steps, over all sessions of this run.
      resumed_at, session_seconds: the step this session began at, and its time.
    """

    def __init__(self, exp: Experiment, directory: pathlib.Path | None = None):
        self.exp = exp
        self.directory = directory
        self.parts = build.assemble(exp)
        model_selection.check(self.parts, exp.monitor)
        self.state: train_step.State = self.parts.state
        self.program: train_step.Program = self.parts.program
        self.fixed: train_step.Fixed = self.parts.fixed
        self.at = 0
        self.phase = 0
        self.cached: frozen_stages.Cached | None = None
        self.notes = dict(self.parts.notes)
        if told := model_selection.note(self.parts, exp.monitor):
            self.notes["monitor"] = told
        self.curve: dict[str, list] = {"step": [], "loss": [], "val": []}
        self.best: dict | None = None
        self._best_weights: tuple[PyTree, PyTree] | None = None
        self.best_delta: PyTree = None
        self.loaded: tuple[PyTree, PyTree] | None = None
        self.seconds = 0.0
        self.resumed_at = 0
        self.session_seconds = 0.0
        self.compiled: compiled_step.Compiled | None = None
        self.compile_seconds = 0.0
        self._hosts: dict[str, Iterator] = {}
        self._resident: tuple[range, dict] = (range(0), {})

    def sibling(self, exp: Experiment) -> "Run":
        """Returns `Run(exp)` in little time, from a run that has not begun.

        Args:
          exp: of the same `assemble.essence` as this run's.
        """
        other = copy.copy(self)
        other.exp, other.parts = exp, build.with_hyperparameters(self.parts, exp)
        # A copy: steps donate their state.
        other.state = trees.copy(other.parts.state)
        other.notes = dict(self.notes)
        other.curve = {"step": [], "loss": [], "val": []}
        other._hosts = {}
        return other

    @property
    def source(self):
        """θ₀, as the terms see it."""
        return self.fixed.source

    @property
    def network(self):
        """The model's pure functions."""
        return self.parts.network

    @property
    def params(self) -> PyTree:
        """All parameters as the network reads them, frozen and trainable, as of now."""
        return self.loaded[0] if self.loaded else self._whole(self.state.trainable)

    def _whole(self, trainable: PyTree) -> PyTree:
        peft, hypers = self.exp.peft, self.state.hypers["peft"]
        if peft is None:
            return train_step.merge_params(None, trainable, self.fixed)
        return _merged(
            config.without_hyperparameters(peft), hypers, trainable, self.fixed
        )

    @property
    def preprocess(self) -> preprocess.Preprocess:
        """How stored target examples become the model's input."""
        return self.parts.preprocess["target"]

    @property
    def monitor(self) -> str | None:
        """The metric, or the criterion, that chooses the best checkpoint."""
        return model_selection.monitor(self.parts, self.exp.monitor)

    def weights(self, which: str = "current") -> tuple[PyTree, PyTree]:
        """Returns (parameters, statistics), "current" or "best".

        Where the experiment averages weights, both are of the average.
        """
        if which not in ("current", "best"):
            raise UserError(f"which={which!r}: expected 'current' or 'best'.")
        if self.loaded is not None:
            return self.loaded
        if which == "best" and self._best_weights is not None:
            return self._best_weights
        if self.exp.average is None:
            return self.params, self.state.stats
        return self._whole(self.state.average), self.state.average["stats"]

    @property
    def best_is_recent(self) -> bool:
        """Whether the best weights are of the current phase."""
        first = self.parts.stretches[self.phase].steps.start
        return self.best is not None and self.best["step"] > first

    def enter(self, phase: int) -> None:
        """Makes a phase the current one: its program, its split of the parameters.

        Leaves that go on being trained keep their optimizer state.
        """
        if phase == self.phase:
            return
        stretch, state = self.parts.stretches[phase], self.state
        base = trees.merge(state.trainable["model"], self.fixed.frozen)
        model, frozen = trees.partition(base, stretch.mask)
        trainable = {**state.trainable, "model": model}
        self.program = build.next_program(self.program, stretch, trainable)
        average = state.average
        if self.exp.average is not None:
            known = trees.flatten(average)
            now = train_step.averaged_tree(trainable, state.stats)
            average = trees.map_with_path(lambda p, x: known.get(p, x), now)
        fresh = train_step.optimizer_state(self.program, trainable)
        state = dataclasses.replace(
            state,
            trainable=trainable,
            opt=optimizer.carry(state.opt, fresh),
            average=average,
            hypers={**state.hypers, **build.schedule(stretch)},
        )
        # A copy: leaves may stand twice in it (thawed, averaged), and it is donated.
        self.state = sharding.place(trees.copy(state), self.program.mesh)
        self.fixed = dataclasses.replace(self.fixed, frozen=frozen)
        self.phase, self.compiled, self.cached = phase, None, None
        self._hosts = {}  # compiling looks at a batch: they begin again at this step

    def compile(self) -> compiled_step.Compiled:
        """Compiles the step for this run's shapes, once per process and shape."""
        if self.compiled is None:
            self.cached, self.program, note = frozen_stages.attach(self)
            self._resident = (range(0), {})
            given = (self.program, self.state, self.fixed)
            asked = self.exp.steps_per_dispatch
            data = self._data(self.at, asked or compiled_step.LOOP)
            most = compiled_step.steps_per_dispatch(given[0], asked, *given[1:], data)
            self.compiled = compiled_step.compiled(*given, data, most)
            self.compile_seconds += self.compiled.seconds
            if self.cached is not None:
                note = self.cached.describe(self.compiled.flops)
            self._note(note)
        return self.compiled

    def _note(self, cached: str) -> None:
        """Notes what the cache did for the current phase."""
        if cached and len(self.parts.stretches) > 1:
            cached = f"phase {self.phase + 1}: {cached}"
        told = [line for line in (self.notes.pop("cache", ""), cached) if line]
        if told:
            self.notes["cache"] = "; ".join(dict.fromkeys(told))

    def step(self) -> dict[str, float]:
        """Takes one step and returns its metrics as floats."""
        return self.advance(1)[0]

    def __iter__(self):
        while self.at < self.exp.steps:
            found = self.step()
            yield self.state, found

    def advance(self, count: int) -> list[dict[str, float]]:
        """Takes `count` steps and returns the metrics of each, on the host."""
        rows = []
        for taken, table in self.dispatch(count):
            # Half the price of jax.device_get where there is a table for each step.
            found = np.asarray(table)[:taken].tolist()
            rows += [dict(zip(self.compiled.names, row)) for row in found]
        return rows

    def dispatch(self, count: int) -> list[tuple[int, jax.Array]]:
        """Takes `count` steps and returns (steps, table) per dispatch, on device.

        A table is float32 (at least steps, metrics), in the order of `compiled.names`.
        """
        pending = []
        while count > 0:
            plan = self.parts.stretches
            while self.at >= plan[self.phase].steps.stop and self.phase + 1 < len(plan):
                self.enter(self.phase + 1)
            compiled = self.compile()
            left = max(plan[self.phase].steps.stop - self.at, 0) or count
            taken = min(count, compiled.most, left)
            data = self._data(self.at, compiled.most)
            self.state, table = compiled.call(
                self.state, self.fixed, data, np.int32(taken)
            )
            pending.append((taken, table))
            self.at += taken
            count -= taken
        return pending

    def _data(self, at: int, most: int) -> dict:
        """Returns what the step reads: resident streams, and batches from the host."""
        program = self.program
        steps, data = self._resident
        if at not in steps or at + most > steps.stop:
            self._resident = steps, data = self._draw(at, max(AHEAD, most))
        if not program.host:
            return data
        data = dict(data)
        place = sharding.batch(program.mesh)
        for index, (name, size) in enumerate(program.batch.items()):
            if name not in program.host:
                continue
            if name not in self._hosts:
                self._hosts[name] = self._host(name, index, size, at)
            data[name] = jax.device_put(next(self._hosts[name]), place)
        return data

    def _draw(self, at: int, count: int) -> tuple[range, dict]:
        """Returns the resident streams with their rows of `count` steps drawn."""
        data, seed = {}, self.state.hypers["seed"]
        there = self.parts.data if self.cached is None else self.cached.streams
        for index, (name, size) in enumerate(self.program.batch.items()):
            if name in there:
                own = train_step.stream_seed(seed, index)
                stream = there[name]
                data[name] = device_stream.with_drawn_rows(
                    stream, own, np.int32(at), size, count
                )
        return range(at, at + count), data

    def _host(self, name, index, size, at):
        # Compiling looks at one batch; the iterator then starts over.
        data, split = streams.dataset_and_split_of(self.parts.datasets, name)
        found = host_stream.batches(
            self.parts.datasets[data],
            split,
            train_step.stream_seed(self.exp.seed, index),
            size,
            start_step=at,
            labels=streams.has_labels(name),
        )
        if self.compiled is None:
            first = next(found)
            return iter(_again(first, found))
        return found

    def note_best(self, found: dict[str, float]) -> bool:
        """Keeps the current weights if they beat the best so far; says whether."""
        monitor = self.monitor
        value = metrics.monitored(found, monitor)
        known = None if self.best is None else self.best["value"]
        if not metrics.beats(monitor, value, known):
            return False
        self.keep_best(self.weights(), value, found)
        if self.exp.peft is not None:
            averaged = self.exp.average is not None
            kept = self.state.average if averaged else self.state.trainable
            self.best_delta = trees.copy(kept["peft"])
        return True

    def keep_best(self, found: tuple[PyTree, PyTree], value: float, values: dict):
        """Makes (parameters, statistics) the best so far, with their metrics on val."""
        self.best = {"step": self.at, "value": value, "metrics": values}
        self.best_delta = None
        params, stats = found
        # What a step donates is copied; what is frozen is not.
        moving = trees.partition(params, self.program.moving)
        params = trees.merge(trees.copy(moving[0]), moving[1])
        self._best_weights = params, trees.copy(stats)


@functools.partial(jax.jit, static_argnums=0)
def _merge(key, hypers, trainable, fixed):
    return train_step.merge_params(
        config.with_hyperparameters(key.peft, hypers), trainable, fixed
    )


def _merged(peft, hypers, trainable, fixed) -> PyTree:
    """Returns merged parameters, by one compiled program per kind of merge."""
    return _merge(_Keyed(peft), hypers, trainable, fixed)


class _Keyed:
    """A reparametrisation that compares by its settings, for the compiler's store."""

    def __init__(self, peft):
        self.peft, self._key = peft, config.key(peft)

    def __eq__(self, other):
        return self._key == other._key

    def __hash__(self):
        return hash(self._key)


def _again(first, rest):
    yield first
    yield first
    yield from rest
