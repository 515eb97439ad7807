"""A run: an experiment in progress, in memory."""

import copy
import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxtl.core import allocator, lazy_leaf, process_group, sharding
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.ranges import check_ranges
from jaxtl.core.types import Network, PyTree, Source
from jaxtl.data import preprocess
from jaxtl.data.dataset import Dataset
from jaxtl.evaluation import (
    answer_threshold,
    episodes,
    forward,
    metrics,
    model_selection,
    thresholds,
)
from jaxtl.evaluation.metrics import experiment_metrics
from jaxtl.optim import update as optim_update
from jaxtl.peft import quantized_base
from jaxtl.terms.base import Term
from jaxtl.terms.program import Program
from jaxtl.training import (
    build,
    compiled_step,
    evaluation_only,
    frozen_stages,
    inputs,
    phase_program,
    setting_paths,
)
from jaxtl.training import step as step_lib
from jaxtl.training.experiment import Experiment
from jaxtl.training.step_data import StepData


class Run:
    """An experiment in progress.

    Iterating takes the remaining steps one by one and yields `(state, metrics)`.

    Attributes:
      exp: the experiment.
      parts: what it was assembled to (model, data sets, program, source, …).
      state: what training changes.
      program, fixed: the static description of the step, and the arrays that it reads
        and never changes, in the current phase.
      steps_done: number of steps taken.
      directory: where it is stored, None for a run that lives in memory.
      best: {"step", "value", "metrics"} of the best evaluation so far, or None.
      best_weights: (parameters, statistics) at that evaluation, or None.
      best_peft_params: parameters of the reparametrization at that evaluation.
      best_learner: parameters of the term that learns from episodes, likewise.
      thresholds: of the probabilities, chosen at the end; None before, and for ½.
      phase: number of the phase that the last step was taken in.
      cached: the features that training starts from, None without.
      loaded: (parameters, statistics) of a stored model that take the place of this
        run's own, None for a run in training; `loaded_learner` likewise.
      notes: name -> what loading, terms and the feature cache decided for this run.
      curve: what training measured in this session: {"step": […], "loss": […] (means
        since the step before), "val": [{"step": …, metric: …}, …]}.
      seconds: time spent in training steps, over all sessions of this run.
      resumed_at, session_seconds: the step this session began at, and its time.
    """

    def __init__(
        self,
        exp: Experiment,
        directory: pathlib.Path | None = None,
        *,
        terms: Mapping[str, Term] | None = None,
        datasets: Mapping[str, Dataset] | None = None,
    ):
        allocator.keep_freed_memory()
        check_ranges(exp)
        datasets = inputs.load_datasets(exp) if datasets is None else datasets
        evaluation_note = ""
        if terms is None and evaluation_only.applies(exp, datasets["target"]):
            evaluation_note = evaluation_only.describe(exp)
            exp = evaluation_only.without_training(exp, datasets["target"])
            terms, datasets = {}, {"target": datasets["target"]}
        is_untrained, self.exp = bool(evaluation_note), exp
        self.directory = directory
        self.parts = build.assemble(exp, terms, datasets)
        if is_untrained:
            evaluation_only.check_weights(exp, self.parts.model.loading)
        target = self.datasets["target"]
        experiment_metrics.check(exp.metrics, target.task, target.label_names)
        added = experiment_metrics.names(exp.metrics, target.label_names)
        model_selection.check_monitor(self.datasets, exp.monitor, added)
        threshold_note = _check_threshold(exp, target)
        self.state: step_lib.State = self.parts.state
        self.program: Program = self.parts.program
        self.fixed: step_lib.Fixed = self.parts.fixed
        self.steps_done = 0
        self.phase = 0
        self.cached: frozen_stages.Cached | None = None
        self.notes = {**self.parts.model.notes, **self.parts.terms.notes}
        if note := model_selection.monitor_note(*self._choice()):
            self.notes["monitor"] = note
        fresh = evaluation_only.describe_fresh(exp, self.parts.model.loading)
        if note := evaluation_note or fresh:
            self.notes["evaluation"] = note
        if threshold_note:
            self.notes["threshold"] = threshold_note
        if process_group.count() > 1:
            self.notes["devices"] = _spread(self.program.mesh.size)
        self.curve: dict[str, list] = {"step": [], "loss": [], "val": []}
        self.best: dict | None = None
        self.best_weights: tuple[PyTree, PyTree] | None = None
        self.best_peft_params: PyTree = None
        self.best_learner: PyTree = None
        self.thresholds: np.ndarray | None = None
        if is_untrained:
            meta = self.parts.model.meta
            self.thresholds = evaluation_only.stored_thresholds(exp, meta)
            self.notes |= evaluation_only.threshold_note(exp, target, self.thresholds)
        self.loaded: tuple[PyTree, PyTree] | None = None
        self.loaded_learner: episodes.Learner | None = None
        self.seconds = 0.0
        self.resumed_at = 0
        self.session_seconds = 0.0
        self.compiled: compiled_step.CompiledSteps | None = None
        self.compile_seconds = 0.0
        self._step_data = StepData(self.datasets, exp.seed)

    def with_experiment(self, exp: Experiment) -> "Run":
        """Makes `Run(exp)` in little time, from a run that has not begun.

        Args:
          exp: of the same `build.static_key` as this run's.

        Returns:
          The other run, with a state of its own; both share the data and compiled
          programs.
        """
        other = copy.copy(self)
        other.exp, other.parts = exp, build.with_hyperparameters(self.parts, exp)
        # A copy: steps donate their state.
        other.state = trees.copy(other.parts.state)
        other.notes = dict(self.notes)
        other.curve = {"step": [], "loss": [], "val": []}
        other._step_data = self._step_data.copy()
        return other

    def _placed(self, state: step_lib.State) -> step_lib.State:
        return sharding.place(state, self.program.mesh, self.program.tensor_rules)

    def in_memory(self) -> "Run":
        """A copy that trains on from here without a directory; this run stays."""
        other = copy.copy(self)
        other.directory, other._step_data = None, self._step_data.copy()
        other.state = self._placed(trees.copy(self.state))
        return other

    @property
    def datasets(self) -> Mapping[str, Dataset]:
        """Name -> data set, "target" and the experiment's streams."""
        return self.parts.datasets

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Name -> metric or function, those of the experiment."""
        return self.exp.metrics

    @property
    def directions(self) -> Mapping[str, bool]:
        """Name of each of them -> whether larger values are better."""
        return experiment_metrics.directions(self.exp.metrics)

    def evaluation_model(self, data: str = "target") -> forward.EvaluationModel:
        """The model for evaluation, with the preprocessing of a data set.

        Args:
          data: name of the data set, a stream's other than the target's say.

        Returns:
          The model without weights; `forward` runs it with those of `packed_weights`.
        """
        program = self.parts.program
        return forward.EvaluationModel(
            network=program.network,
            dtype=program.dtype,
            preprocess=self.parts.model.preprocess[data],
            task=program.task,
            mesh=program.mesh,
            batch=self.exp.evaluate_batch,
            device_bytes=self.exp.device_bytes,
        )

    @property
    def source(self) -> Source:
        """θ₀, as the terms see it."""
        return _realized(self.fixed.source)

    @property
    def network(self) -> Network:
        """The model's pure functions."""
        return self.parts.model.network

    @property
    def params(self) -> PyTree:
        """All parameters as the network reads them, frozen and trainable, as of now."""
        return _realized(self.packed_params)

    @property
    def packed_params(self) -> PyTree:
        """The same for the network alone: a quantized base stays quantized."""
        return self.loaded[0] if self.loaded else self.pack(self.state.trainable)

    def pack(self, trainable: PyTree) -> PyTree:
        """Puts together all parameters as the network reads them.

        Args:
          trainable: {"model", "peft"} as in `State.trainable`.

        Returns:
          Stage -> parameters: frozen ones beside trainable ones, merged with those of
          `peft`; a quantized base stays quantized.
        """
        peft, hypers = self.exp.peft, self.state.hypers["peft"]
        if peft is None:
            return step_lib.packed_params(None, hypers, trainable, self.fixed)
        settings = quantized_base.PeftSettings.of(peft)
        if lazy_leaf.has_lazy(self.fixed.frozen):
            # A compiled program would copy the base.
            return step_lib.packed_params(settings.peft, hypers, trainable, self.fixed)
        return _merge_peft(settings, hypers, trainable, self.fixed)

    @property
    def preprocess(self) -> preprocess.Preprocess:
        """How stored target examples become the model's input."""
        return self.parts.model.preprocess["target"]

    @property
    def monitor(self) -> str | None:
        """The metric, or the criterion, that chooses the best checkpoint."""
        return model_selection.resolve_monitor(*self._choice())

    def _choice(self) -> tuple[Any, ...]:
        """The arguments of `model_selection.resolve_monitor`."""
        return self.datasets, self.exp.monitor, self.exp.metrics, self.trains_head

    @property
    def trains_head(self) -> bool:
        """Whether a term trains the head, or there is none."""
        terms = self.parts.terms.terms.values()
        return not terms or any(term.trains_head for term in terms)

    def weights(self, which: str = "current") -> tuple[PyTree, PyTree]:
        """The model's weights as plain arrays.

        Where the experiment averages weights, both are of the average.

        Args:
          which: "current" or "best"; as "best" the current ones before an evaluation.

        Returns:
          (parameters, statistics), each stage -> subtree; a quantized base is made
          float.

        Raises:
          UserError: another value of `which`.
        """
        params, stats = self.packed_weights(which)
        return _realized(params), stats

    def packed_weights(self, which: str = "current") -> tuple[PyTree, PyTree]:
        """`weights` for the network alone: a quantized base stays quantized.

        Args:
          which: "current" or "best"; as "best" the current ones before an evaluation.

        Returns:
          (parameters, statistics). For a run that was read from its directory the
          loaded ones, whatever `which`.

        Raises:
          UserError: another value of `which`.
        """
        if which not in ("current", "best"):
            raise UserError(f"which={which!r}: expected 'current' or 'best'.")
        if self.loaded is not None:
            return self.loaded
        if which == "best" and self.best_weights is not None:
            return self.best_weights
        if self.exp.average is None:
            return self.packed_params, self.state.stats
        return self.pack(self.state.average), self.state.average["stats"]

    def learner(self, which: str = "current") -> episodes.Learner:
        """What learns from the support of an episode.

        Args:
          which: "current" or "best": values of the term's own parameters.

        Returns:
          The first term over episodes with these values, and what it may adapt.
        """
        if self.loaded_learner is not None:
            return self.loaded_learner
        name, term = episodes.learning_term(self.parts.terms.terms)
        own = self.state.trainable["terms"].get(name, {})
        if which == "best" and self.best_learner is not None:
            own = self.best_learner
        moves = trees.flatten(self.program.trainable_mask)
        return episodes.Learner(
            term=term,
            term_params=own,
            trainable=tuple(path for path, is_trained in moves.items() if is_trained),
            train_stages=self.program.train_stages,
            frozen_stats=self.program.frozen_stats,
        )

    @property
    def best_is_recent(self) -> bool:
        """Whether the best weights are of the current phase."""
        first = self.parts.phases[self.phase].steps.start
        return self.best is not None and self.best["step"] > first

    def enter_phase(self, number: int) -> None:
        """Makes a phase the current one: its program, its split of the parameters.

        Leaves that go on being trained keep their optimizer state.

        Args:
          number: place of the phase in `parts.phases`; the current one changes nothing.
        """
        if number == self.phase:
            return
        phase, state = self.parts.phases[number], self.state
        base = trees.merge(state.trainable["model"], self.fixed.frozen)
        model, frozen = trees.partition(base, phase.base_mask)
        trainable = {**state.trainable, "model": model}
        self.program = phase_program.of_phase(
            self.program, phase, trainable["peft"], trainable["terms"]
        )
        average = state.average
        if self.exp.average is not None:
            averaged = trees.flatten(average)
            weights = step_lib.averaged_tree(trainable, state.stats)
            average = trees.map_with_path(lambda p, x: averaged.get(p, x), weights)
        fresh = step_lib.optimizer_state(self.program, trainable)
        state = dataclasses.replace(
            state,
            trainable=trainable,
            opt=optim_update.carry(state.opt, fresh),
            average=average,
            hypers={**state.hypers, **phase_program.hypers(phase)},
        )
        # A copy: a leaf may stand twice in it (unfrozen, averaged), and it is donated.
        self.state = self._placed(trees.copy(state))
        self.fixed = dataclasses.replace(self.fixed, frozen=frozen)
        self.phase, self.compiled, self.cached = number, None, None

    def compile(self) -> compiled_step.CompiledSteps:
        """Compiles the step for this run's shapes, once per process and shape."""
        if not self.program.terms:
            raise UserError(
                "this run has no terms, as it was reopened or its data have no train "
                "rows: it can be evaluated but not trained; tl.resume opens a run to "
                "train on."
            )
        if self.compiled is None:
            self.cached, self.program, note = frozen_stages.attach(self)
            streams = self.cached.streams if self.cached else self.parts.device_streams
            self._step_data.use(streams)
            asked_steps = self.exp.steps_per_dispatch
            steps = self._next_steps(asked_steps or compiled_step.LOOP)
            data = self._step_data.shapes(*steps)
            arguments = (self.program, self.state, self.fixed, data)
            most = compiled_step.steps_per_dispatch(*arguments, asked_steps)
            starts = self.parts.phases[self.phase].term_starts
            self.compiled = compiled_step.compiled_steps(*arguments, most, starts)
            self.compile_seconds += self.compiled.seconds
            if self.cached is not None:
                note = self.cached.describe(self.compiled.flops)
            self._note_cache(note)
        return self.compiled

    def _note_cache(self, note: str) -> None:
        """Notes what the feature cache did for the current phase."""
        if note and len(self.parts.phases) > 1:
            note = f"phase {self.phase + 1}: {note}"
        notes = [line for line in (self.notes.pop("cache", ""), note) if line]
        if notes:
            self.notes["cache"] = "; ".join(dict.fromkeys(notes))

    def _repr_html_(self) -> str:
        place = "in memory" if self.directory is None else f"in {self.directory}"
        title = f"Run {place}: step {self.steps_done:,} of {self.exp.steps:,}"
        return setting_paths.html_table(self.exp, title)

    def step(self) -> dict[str, float]:
        """Takes one step and returns its metrics as floats."""
        return self.advance(1)[0]

    def __iter__(self) -> Iterator[tuple[step_lib.State, dict[str, float]]]:
        while self.steps_done < self.exp.steps:
            step_metrics = self.step()
            yield self.state, step_metrics

    def advance(self, count: int) -> list[dict[str, float]]:
        """Takes steps, and waits for them.

        Args:
          count: number of steps, may go on into later phases.

        Returns:
          The metrics of each step, {name: value}, "loss" among them.
        """
        rows = []
        for steps, names, table in self.dispatch(count):
            # Half the price of jax.device_get where there is a table for each step.
            values = np.asarray(table)[:steps].tolist()
            rows += [dict(zip(names, row)) for row in values]
        return rows

    def dispatch(self, count: int) -> list[tuple[int, tuple[str, ...], jax.Array]]:
        """Takes steps without waiting for their results.

        Args:
          count: number of steps, may go on into later phases.

        Returns:
          (steps, names, table) for each call of the compiled program: the table is
          float32 (at least steps, metrics) on the device, its columns in the order of
          the names; rows from `steps` on hold nothing.
        """
        pending = []
        phases = self.parts.phases
        while count > 0:
            is_over = self.steps_done >= phases[self.phase].steps.stop
            while is_over and self.phase + 1 < len(phases):
                self.enter_phase(self.phase + 1)
                is_over = self.steps_done >= phases[self.phase].steps.stop
            compiled = self.compile().at(self.steps_done)
            left_in_phase = max(phases[self.phase].steps.stop - self.steps_done, 0)
            steps = min(count, compiled.most, left_in_phase or count)
            data = self._step_data.at(*self._next_steps(compiled.most))
            self.state, table = compiled.call(
                self.state, self.fixed, data, np.int32(steps)
            )
            pending.append((steps, compiled.names, table))
            self.steps_done += steps
            count -= steps
        return pending

    def _next_steps(self, most: int) -> tuple[Program, jax.Array, int, int]:
        """The arguments that `StepData` reads the next `most` steps by."""
        return self.program, self.state.hypers["seed"], self.steps_done, most

    def update_best(self, values: dict[str, float]) -> bool:
        """Keeps the current weights if they beat the best so far.

        Args:
          values: metrics on val of the current weights, the monitored one among them.

        Returns:
          Whether they are the best now; False where nothing chooses a checkpoint.

        Raises:
          UserError: the monitored metric is not among `values`.
        """
        monitor = self.monitor
        if monitor is None:  # nothing chooses a checkpoint
            return False
        value = metrics.monitored_value(values, monitor)
        best = None if self.best is None else self.best["value"]
        if not metrics.beats(monitor, value, best, self.directions):
            return False
        self.set_best(self.packed_weights(), value, values)
        if self.exp.peft is not None:
            has_average = self.exp.average is not None
            weights = self.state.average if has_average else self.state.trainable
            self.best_peft_params = trees.copy(weights["peft"])
        return True

    def set_best(
        self, weights: tuple[PyTree, PyTree], value: float, values: dict[str, float]
    ) -> None:
        """Makes weights the best so far.

        Args:
          weights: (parameters, statistics), as of `packed_weights`; what is trained is
            copied.
          value: of the monitored metric.
          values: all metrics on val.
        """
        self.best = {"step": self.steps_done, "value": value, "metrics": values}
        self.best_peft_params = None
        params, stats = weights
        # Arrays that the step donates are copied; frozen ones are not.
        trained, frozen = trees.partition(params, self.program.trainable_mask)
        params = trees.merge(trees.copy(trained), frozen)
        self.best_weights = params, trees.copy(stats)
        if self.datasets["target"].episodes is not None:
            self.best_learner = trees.copy(self.learner().term_params)


def _check_threshold(exp: Experiment, target: Dataset) -> str:
    """Checks `exp.threshold`; returns what is decided where it is None, or ""."""
    if target.questions is not None:
        return answer_threshold.check(exp.threshold, target)
    val = len(target.rows.get("val", ()))
    thresholds.check(exp.threshold, target.task, target.label_names, val)
    return ""


def _spread(devices: int) -> str:
    """How many devices of each process of a job take part."""
    count = process_group.count()
    return f"{devices}, {devices // count} of each of {count} processes"


def _realized(tree: PyTree) -> PyTree:
    """The tree with arrays in place of lazy leaves, the others as they are."""
    return _realize(tree) if lazy_leaf.has_lazy(tree) else tree


_realize = jax.jit(lazy_leaf.realized)


@functools.partial(jax.jit, static_argnums=0)
def _merge_peft(
    settings: quantized_base.PeftSettings,
    hypers: PyTree,
    trainable: PyTree,
    fixed: step_lib.Fixed,
) -> PyTree:
    """Merged parameters, by one compiled program per kind of reparametrization."""
    return step_lib.merge_params(settings.peft, hypers, trainable, fixed)
