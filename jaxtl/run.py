"""A run: an experiment in progress, in memory."""

import pathlib
from collections.abc import Iterator

import jax
import numpy as np

from jaxtl import assemble, evaluation, metrics, sharding, step
from jaxtl import tree as trees
from jaxtl.core import PyTree, UserError
from jaxtl.data import preprocess, streams
from jaxtl.experiment import Experiment

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
      seconds: time spent in training steps, over all sessions of this run.
      resumed_at, session_seconds: the step this session began at, and its time.
    """

    def __init__(self, exp: Experiment, directory: pathlib.Path | None = None):
        self.exp = exp
        self.directory = directory
        self.parts = assemble.assemble(exp)
        evaluation.check_monitor(self.parts.datasets["target"], exp.monitor)
        self.state: step.State = self.parts.state
        self.at = 0
        self.best: dict | None = None
        self._best_weights: tuple[PyTree, PyTree] | None = None
        self.seconds = 0.0
        self.resumed_at = 0
        self.session_seconds = 0.0
        self.compiled: step.Compiled | None = None
        self._hosts: dict[str, Iterator] = {}
        self._resident: tuple[range, dict] = (range(0), {})

    @property
    def source(self):
        """θ₀, as the terms see it."""
        return self.parts.fixed.source

    @property
    def network(self):
        """The model's pure functions."""
        return self.parts.network

    @property
    def params(self) -> PyTree:
        """All parameters, frozen and trainable, as they are now."""
        return trees.merge(self.state.trainable["model"], self.parts.fixed.frozen)

    @property
    def preprocess(self) -> preprocess.Preprocess:
        """How stored target examples become the model's input."""
        return self.parts.preprocess["target"]

    @property
    def monitor(self) -> str | None:
        """The metric that chooses the best checkpoint."""
        if self.exp.monitor == "auto":
            return metrics.main(self.parts.program.task)
        return self.exp.monitor

    def weights(self, which: str = "current") -> tuple[PyTree, PyTree]:
        """Returns (parameters, statistics), "current" or "best"."""
        if which not in ("current", "best"):
            raise UserError(f"which={which!r}: expected 'current' or 'best'.")
        if which == "best" and self._best_weights is not None:
            trainable, stats = self._best_weights
            return trees.merge(trainable, self.parts.fixed.frozen), stats
        return self.params, self.state.stats

    def compile(self) -> step.Compiled:
        """Compiles the step for this run's shapes, once per process and shape."""
        if self.compiled is None:
            most = step.steps_per_dispatch(
                self.parts.program, self.exp.steps_per_dispatch
            )
            self.compiled = step.compiled(
                self.parts.program,
                self.state,
                self.parts.fixed,
                self._data(self.at, most),
                most,
            )
        return self.compiled

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
        compiled = self.compile()
        pending = []
        while count > 0:
            taken = min(count, compiled.most)
            data = self._data(self.at, compiled.most)
            self.state, table = compiled.call(
                self.state, self.parts.fixed, data, np.int32(taken)
            )
            pending.append((taken, table))
            self.at += taken
            count -= taken
        return pending

    def _data(self, at: int, most: int) -> dict:
        """Returns what the step reads: resident streams, and batches from the host."""
        program = self.parts.program
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
        for index, (name, size) in enumerate(self.parts.program.batch.items()):
            if name in self.parts.data:
                own = step.stream_seed(seed, index)
                stream = self.parts.data[name]
                data[name] = streams.draw(stream, own, np.int32(at), size, count)
        return range(at, at + count), data

    def _host(self, name, index, size, at):
        # Compiling looks at one batch; the iterator then starts over.
        found = streams.host_batches(
            self.parts.datasets[assemble.data_of(name)],
            assemble.split_of(name),
            step.stream_seed(self.exp.seed, index),
            size,
            start_step=at,
        )
        if self.compiled is None:
            first = next(found)
            return iter(_again(first, found))
        return found

    def note_best(self, found: dict[str, float]) -> bool:
        """Keeps the current weights if they beat the best so far; says whether."""
        monitor = self.monitor
        value = metrics.monitored(found, monitor)
        sign = 1 if metrics.higher_is_better(monitor) else -1
        # A NaN beats nothing, and everything beats a NaN.
        known = self.best is not None and not np.isnan(self.best["value"])
        if known and not sign * value > sign * self.best["value"]:
            return False
        self.best = {"step": self.at, "value": value, "metrics": found}
        kept = self.state.trainable["model"], self.state.stats
        self._best_weights = trees.copy(kept)
        return True


def _again(first, rest):
    yield first
    yield first
    yield from rest
