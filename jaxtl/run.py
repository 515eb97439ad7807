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
                self._data(self.at),
                most,
            )
        return self.compiled

    def step(self) -> dict[str, float]:
        """Takes one step and returns its metrics as floats."""
        [found] = self.advance(1)
        return {name: float(value) for name, value in found.items()}

    def __iter__(self):
        while self.at < self.exp.steps:
            found = self.step()
            yield self.state, found

    def advance(self, count: int) -> list[dict[str, np.ndarray]]:
        """Takes `count` steps and returns the metrics of each, on the host."""
        pending = self.dispatch(count)
        rows = []
        for taken, found in jax.device_get(pending):
            if self.compiled.most == 1:
                rows.append(found)
            else:
                rows += [{k: v[i] for k, v in found.items()} for i in range(taken)]
        return rows

    def dispatch(self, count: int) -> list[tuple[int, dict]]:
        """Takes `count` steps and returns (steps, metrics) per dispatch, on device."""
        compiled = self.compile()
        pending = []
        while count > 0:
            taken = min(count, compiled.most)
            data = self._data(self.at)
            self.state, found = compiled.call(
                self.state, self.parts.fixed, data, np.int32(taken)
            )
            pending.append((taken, found))
            self.at += taken
            count -= taken
        return pending

    def _data(self, at: int) -> dict:
        """Returns what the step reads: resident streams, and batches from the host."""
        program = self.parts.program
        if not program.host:
            return self.parts.data
        data = dict(self.parts.data)
        place = sharding.batch(program.mesh)
        for index, (name, size) in enumerate(program.batch.items()):
            if name not in program.host:
                continue
            if name not in self._hosts:
                self._hosts[name] = self._host(name, index, size, at)
            data[name] = jax.device_put(next(self._hosts[name]), place)
        return data

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
