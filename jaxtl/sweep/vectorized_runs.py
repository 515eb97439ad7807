"""Vectorized runs: many runs of one program, trained by one compiled function.

Runs that differ in traced numbers, in seeds or in labels take the same steps on other
arrays. Stacked along a leading axis, they are replicas of one program. The arrays that
are equal in all of them (data, frozen parameters, cached features, θ₀) exist once.
"""

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core import compilation
from jaxtl.core.types import PyTree
from jaxtl.data import device_stream, streams
from jaxtl.evaluation import metrics
from jaxtl.sweep import stacking, vectorized_step
from jaxtl.training import frozen_stages, step
from jaxtl.training.run import Run


class VectorizedRuns:
    """Runs of one program in training, each a replica of it.

    Args:
      runs: set up and not begun.
      mode: "vmap" or "map".
      one_core: whether other replicas train on the other cores at the same time.

    Attributes:
      runs: as given; they keep their initial states.
      mode: as given.
      exp: the experiment of the first run.
      program: the static description that all replicas share.
      layout: how `constants` are divided into `shared` and `stacked` leaves.
      shared: constant leaves that are equal in all replicas.
      stacked: constant leaves that differ, (replicas, …).
      states: the runs' states, stacked.
      cached: features of frozen stages that training starts from, None without.
      steps_done: of every active replica.
      active: indices of the replicas that still train.
      failures: replica -> why its training failed.
      stopped: replicas that were stopped for doing worse than others.
      best: of each replica {"step", "value", "metrics"} or None, as `Run.best`.
      best_weights: stacked weights at each replica's best evaluation so far.
      curves: of each replica, as `Run.curve`.
      evaluation_features: cached features of the rows that are evaluated.
      seconds: time spent in training steps.
      compile_seconds: time spent in compiling them.

    Raises:
      stacking.IncompatibleRuns: the runs' programs or shapes differ.
    """

    def __init__(self, runs: Sequence[Run], mode: str, *, one_core: bool = False):
        self.runs, self.mode, self._one_core = tuple(runs), mode, one_core
        first = self.runs[0]
        self.exp, self.program = first.exp, first.program
        if len({run.program.key() for run in self.runs}) > 1:
            raise stacking.IncompatibleRuns("the programs of the runs differ")
        self.cached: frozen_stages.Cached | None = None
        self.layout, self.shared, self.stacked = stacking.divide(self._constants())
        self._cache_frozen_stages()
        self.states = stacking.stack([run.state for run in self.runs])
        self.best_weights = jax.tree.map(jnp.copy, self.weights())
        self.best: list[dict | None] = [None] * len(self.runs)
        self.curves = [{"step": [], "loss": [], "val": []} for _ in self.runs]
        self.evaluation_features: dict[Any, PyTree] = {}
        self.failures: dict[int, str] = {}
        self.stopped: set[int] = set()
        self.active = list(range(len(self.runs)))
        self.steps_done, self.seconds, self.compile_seconds = 0, 0.0, 0.0
        self._step: vectorized_step.VectorizedStep | None = None

    def _constants(self) -> list[dict]:
        """The arrays that each replica reads and never changes."""
        constants = []
        for run in self.runs:
            data = run.parts.device_streams
            if self.cached is not None:
                # One set of features for all; each replica has its rows and labels.
                data = {
                    name: dataclasses.replace(
                        data[name],
                        x=stream.x,
                        features=stream.features,
                        feature_index=stream.feature_index,
                    )
                    for name, stream in self.cached.streams.items()
                }
            constants.append({"fixed": run.fixed, "data": data})
        return constants

    def _cache_frozen_stages(self) -> None:
        """Caches the frozen stages' outputs for the rows of all replicas.

        Only where the frozen parameters, the statistics and the inputs are equal in
        all of them.
        """
        first = self.runs[0]
        stages, _ = frozen_stages.frozen_stages(first)
        if not stages or not self._same_frozen_stages():
            return
        rows = {
            name: np.unique(np.concatenate([_rows(run, name) for run in self.runs]))
            for name in self.program.batch_sizes
        }
        self.cached, self.program, _ = frozen_stages.attach(first, rows)
        if self.cached is not None:
            divided = stacking.divide(self._constants())
            self.layout, self.shared, self.stacked = divided

    def _same_frozen_stages(self) -> bool:
        is_shared = self.layout.join(
            [True] * len(self.shared), [False] * len(self.stacked)
        )
        if not all(jax.tree.leaves(is_shared["fixed"].frozen)):
            return False
        stats = [run.state.stats for run in self.runs]
        if not all(stacking.equal(stats[0], x) for x in stats[1:]):
            return False
        return all(
            run.parts.datasets[name].x is dataset.x
            for run in self.runs
            for name, dataset in self.runs[0].parts.datasets.items()
        )

    def weights(self) -> PyTree:
        """The current stacked weights to evaluate: averages where there are any."""
        if self.program.average is not None:
            return self.states.average
        return step.averaged_tree(self.states.trainable, self.states.stats)

    def chosen_weights(self) -> PyTree:
        """The best stacked weights on val; the current ones without a monitor."""
        return self.weights() if self.runs[0].monitor is None else self.best_weights

    def advance(self, count: int, max_steps: int) -> np.ndarray:
        """Takes `count` ≤ `max_steps` steps in every active replica.

        Returns:
          The metrics of each step, float32 (replicas, count, metrics); rows of replicas
          that are not active are undefined.
        """
        start = time.perf_counter()
        order = np.zeros(len(self.runs), np.int32)
        order[: len(self.active)] = self.active
        inputs = vectorized_step.StepInputs(
            stacked=self.stacked,
            shared=self.shared,
            rows=self._draw(max_steps),
            order=order,
            active=np.int32(len(self.active)),
        )
        if self._step is None:
            self._step = vectorized_step.compiled(
                self.program,
                self.layout,
                self.mode,
                self.states,
                inputs,
                max_steps,
                self.compiler_options,
            )
            self.compile_seconds = time.perf_counter() - start
            start = time.perf_counter()
        self.states, table = self._step.call(self.states, inputs, np.int32(count))
        self.steps_done += count
        table = np.asarray(table)[:, :count]
        self.seconds += time.perf_counter() - start
        return table

    @property
    def compiler_options(self) -> dict[str, str]:
        """Options of XLA for all programs of these replicas."""
        platform = self.program.mesh.devices.flat[0].platform
        if self._one_core:
            return compilation.single(platform)
        return compilation.options(platform)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names along the last axis of `advance`'s result; after its first call."""
        return self._step.names

    def _draw(self, max_steps: int) -> dict[str, np.ndarray]:
        """Draws the rows of the next steps: {stream: (replicas, max_steps, batch)}."""
        drawn: dict[Any, np.ndarray] = {}
        rows = {}
        for index, (name, size) in enumerate(self.program.batch_sizes.items()):
            columns = []
            for run in self.runs:
                seed = run.exp.seed
                key = (name, seed, _rows(run, name).tobytes())
                if key not in drawn:
                    stream = dataclasses.replace(run.parts.device_streams[name], x=None)
                    stream_seed = np.uint32(step.stream_seed(seed, index))
                    first = np.int32(self.steps_done)
                    stream = device_stream.with_drawn_rows(
                        stream, stream_seed, first, size, max_steps
                    )
                    drawn[key] = np.asarray(stream.drawn_rows)
                columns.append(drawn[key])
            rows[name] = np.stack(columns)
        return rows

    def note_best(self, evaluations: Mapping[int, dict[str, float]]) -> None:
        """Keeps the weights of each replica whose evaluation is its best so far.

        Args:
          evaluations: replica -> metrics on val of the current weights.
        """
        improved = np.zeros(len(self.runs), bool)
        for replica, values in evaluations.items():
            improved[replica] = self._improves(replica, values)
        if improved.any():
            self.best_weights = _where(improved, self.weights(), self.best_weights)

    def _improves(self, replica: int, values: dict[str, float]) -> bool:
        monitor = self.runs[replica].monitor
        if monitor is None:
            return False
        value, best = metrics.monitored_value(values, monitor), self.best[replica]
        directions = self.runs[replica].directions
        if not metrics.beats(monitor, value, best and best["value"], directions):
            return False
        self.best[replica] = {
            "step": self.steps_done,
            "value": value,
            "metrics": values,
        }
        return True

    def fail(self, replica: int, error: str) -> None:
        """Takes a replica out of training because of an error."""
        self.failures[replica] = error
        self.active = [i for i in self.active if i != replica]

    def stop(self, replicas: Iterable[int]) -> None:
        """Takes replicas out of training for doing worse than others."""
        self.stopped.update(replicas)
        self.active = [i for i in self.active if i not in self.stopped]


def _rows(run: Run, stream: str) -> np.ndarray:
    name, split = streams.dataset_and_split_of(run.parts.datasets, stream)
    return run.parts.datasets[name].rows[split]


@jax.jit
def _where(condition: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """Selects whole replicas of stacked trees; `condition` is bool (replicas,)."""

    def select(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(condition.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(select, new, old)
