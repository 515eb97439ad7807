"""The term of several tasks: their losses, balanced, over one shared model."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import Output, PyTree
from jaxtl.data.dataset import MULTITASK
from jaxtl.data.task_outputs import TaskOutputs, tasks_of
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup, Term, feature_stage, stream_field
from jaxtl.terms.context import View
from jaxtl.terms.multitask import task_gradients, task_losses
from jaxtl.terms.multitask.balancer import (
    Balance,
    Balancer,
    TaskValues,
    cosines,
    with_absent_tasks,
)
from jaxtl.terms.multitask.equal_weights import EqualWeights

PARAMETERS = "parameters"
_PAIRS = 6  # pairs of tasks whose cosines are reported one by one


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiTask(Term):
    """Σ_k w_k · loss_k over the tasks of a stream, with weights from a balancer.

    The last stage of the model is the heads of all tasks side by side, the stages
    before it are shared. A loss is a mean over the examples that have a label of the
    task, 0 in a batch without any. With a balancer of gradients the shared stages get
    Σ_k w_k · ∂loss_k, and each head the gradient of its own loss; the reported value is
    the sum of the losses. Reports "loss[task]" and "weight[task]", and of gradients
    "cosine[a,b]" of each two tasks (of many the least and the mean), and "conflicts",
    the share of the pairs whose cosine is below 0.

    Attributes:
      losses: task -> the term that computes its loss, such as
        `tl.losses.CrossEntropy(label_smoothing=0.1)`, whose `weight` is a factor of the
        loss; a task that is left out takes the usual loss of its kind.
      balancer: decides the weights.
      wrt: what a balancer's gradients are taken by: "features", the output of the last
        shared stage for every example (costs one pass through the heads per task); the
        name of an earlier stage; or "parameters", all shared parameters that are
        trained (one backward pass per task). Under a reparametrization (LoRA) these
        are the weights that it changes.
      report_conflicts: whether to report cosines where the balancer reads no gradients,
        at the cost of computing them.
      stream: name of the stream.
    """

    reads_weights: ClassVar[bool] = True
    moves_once: ClassVar[bool] = True

    losses: Mapping[str, Term] = dataclasses.field(default_factory=dict)
    balancer: Balancer = dataclasses.field(default_factory=EqualWeights)
    wrt: str = "features"
    report_conflicts: bool = False
    stream: str = stream_field("target")

    @property
    def compares(self) -> str:  # type: ignore[override]
        return self.balancer.compares

    def check(self, setup: Setup) -> None:
        checks.labelled(setup, "stream", self.stream)
        checks.task(setup, "MultiTask", MULTITASK)
        checks.classes(setup, "stream", self.stream)
        if not isinstance(self.balancer, Balancer):
            raise UserError(
                f"{checks.where(setup, 'balancer')}={self.balancer!r}: expected a "
                "balancer such as tl.multitask.EqualWeights()."
            )
        tasks = tasks_of(setup.program.output_names)
        self._check_outputs(setup)
        self._check_losses(setup, tasks)
        if self._reads_gradients:
            self._check_shared(setup)
        self.balancer.check(setup, tuple(tasks))

    def _check_outputs(self, setup: Setup) -> None:
        """Raises UserError unless the heads are one vector of all outputs."""
        last = setup.features.get(setup.program.network.stages[-1])
        shape = getattr(last, "shape", None)
        names = setup.program.output_names
        if shape is None or len(shape) != 2 or shape[1] != len(names):
            sizes = ", ".join(
                f"{name} {len(task.names)}" for name, task in tasks_of(names).items()
            )
            raise UserError(
                f"model: its heads must give (batch, {len(names)}) for the tasks "
                f"({sizes}), but it gives {shape or type(last).__name__}."
            )

    def _check_losses(self, setup: Setup, tasks: Mapping[str, TaskOutputs]) -> None:
        counts = setup.label_counts.get(self.stream)
        for name, term in self.losses.items():
            where = checks.where(setup, f"losses[{name!r}]")
            if name not in tasks:
                raise UserError(
                    f"{where}: there is no such task{nearest(name, tasks)} (tasks: "
                    f"{', '.join(tasks)})."
                )
            if not isinstance(term, Term):
                raise UserError(
                    f"{where}={term!r}: expected a term such as "
                    "tl.losses.CrossEntropy()."
                )
            if term.streams != (self.stream,):
                raise UserError(
                    f"{where} reads {', '.join(term.streams)}; expected the stream of "
                    f"the tasks alone, {self.stream!r}."
                )
            labels = None if counts is None else sum(counts[tasks[name].outputs])
            train = setup.train_examples(self.stream)
            if not term.reads_weights and labels != train:
                raise UserError(
                    f"{where}: {type(term).__name__} counts every example, and some "
                    f"have no label of {name!r}; take a loss that reads weights, such "
                    "as tl.losses.CrossEntropy()."
                )
        for name, term in self._terms(setup.program.output_names).items():
            term.check(task_losses.setup_of(setup, name, self.stream))

    def _check_shared(self, setup: Setup) -> None:
        stages = setup.program.network.stages
        if self.wrt not in ("features", PARAMETERS):
            checks.one_of(setup, "wrt", self.wrt, ("features", PARAMETERS, *stages))
            checks.stage(setup, "wrt", self.wrt)
        if self.wrt == stages[-1] or len(stages) < 2:
            raise UserError(
                f"{checks.where(setup, 'wrt')}={self.wrt!r}: {stages[-1]!r} holds the "
                "tasks' own heads; name a stage before it."
            )
        if not setup.program.network.can_start:
            why = setup.program.network.no_start
            raise UserError(
                f"terms.{setup.name}: gradients of tasks need a model that runs from a "
                f"stage on, and this one can't{f' ({why})' if why else ''}."
            )

    @property
    def _reads_gradients(self) -> bool:
        return self.balancer.reads_gradients or self.report_conflicts

    def _terms(self, output_names: tuple[str, ...]) -> dict[str, Term]:
        """Task -> the term of its loss, in the order of the outputs."""
        return {
            name: self.losses.get(name) or task_losses.default_loss(t.kind, self.stream)
            for name, t in tasks_of(output_names).items()
        }

    def _each(self, setup: Setup, method: str) -> dict[str, Any]:
        """Task -> what a method of its term returns of its setup, where not empty."""
        values = {
            name: getattr(term, method)(task_losses.setup_of(setup, name, self.stream))
            for name, term in self._terms(setup.program.output_names).items()
        }
        return {name: value for name, value in values.items() if value}

    def describe(self, setup: Setup) -> str:
        told = [
            f"{name}: {text}" for name, text in self._each(setup, "describe").items()
        ]
        stages = setup.program.network.stages[:-1]
        shared = [setup.program.trainable_mask.get(stage, {}) for stage in stages]
        if not self.balancer.weighs_heads and not any(jax.tree.leaves(shared)):
            told.append("all shared stages are frozen, so the balancer changes nothing")
        by_features = self._reads_gradients and self.wrt == "features"
        if by_features and self._one_label(setup):
            told.append(
                "each example has the label of one task, so the tasks' gradients by "
                f"features are orthogonal; wrt={PARAMETERS!r} compares them"
            )
        return "; ".join(told)

    def _one_label(self, setup: Setup) -> bool:
        """Whether the train examples have one label each, as far as counts tell."""
        counts = setup.label_counts.get(self.stream)
        tasks = tasks_of(setup.program.output_names).values()
        if counts is None or any(task.kind == "multilabel" for task in tasks):
            return False
        labels = [
            counts[task.outputs].sum()
            if task.kind == "classification"
            else counts[task.outputs.start]
            for task in tasks
        ]
        return sum(labels) == len(setup.train_rows[self.stream])

    def init(self, key: jax.Array, setup: Setup) -> PyTree:
        terms = self._terms(setup.program.output_names)
        parts = {
            name: term.init(
                jax.random.fold_in(key, index),
                task_losses.setup_of(setup, name, self.stream),
            )
            for index, (name, term) in enumerate(terms.items())
        }
        return _with_parts(self.balancer.init(tuple(terms)), parts)

    def init_state(self, setup: Setup) -> PyTree:
        tasks = tuple(tasks_of(setup.program.output_names))
        state = self.balancer.init_state(tasks)
        return _with_parts(state, self._each(setup, "init_state"))

    def constants(self, setup: Setup) -> PyTree:
        return self._each(setup, "constants")

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        terms = self._terms(context.program.output_names)
        out = context.forward(self.stream)
        computed = task_losses.compute(terms, context, self.stream, out)
        context.counts.update(computed.counts)

        def losses(out: Output) -> jax.Array:
            return task_losses.compute(terms, context, self.stream, out).values

        gram, jacobian = None, None
        if self._reads_gradients:
            gram, jacobian = self._gram(context, losses)
        balance = self._balance(context, computed.values, gram)
        states = {**context.state.get("losses", {}), **computed.states}
        if state := _with_parts(balance.state, states):
            context.set_state(state)
        if self.balancer.weighs_heads:
            value = jnp.sum(balance.weights * computed.values) + balance.penalty
        else:
            weights = jax.lax.stop_gradient(balance.weights)
            value = task_gradients.weighted_value(
                context, self.stream, losses, weights, jacobian
            )
        metrics = {}
        for i, name in enumerate(terms):
            metrics[f"loss[{name}]"] = computed.values[i]
            metrics[f"weight[{name}]"] = balance.weights[i]
        if gram is not None:
            metrics |= _conflicts(gram, tuple(terms))
        return value, metrics

    def _gram(
        self, context: View, losses: task_gradients.Losses
    ) -> tuple[jax.Array, list[jax.Array] | None]:
        """(Inner products of the tasks' gradients, (T, T), gradients by features).

        The latter are None where these were not computed.
        """
        if self.wrt == PARAMETERS:
            gradients = task_gradients.by_parameters(context, self.stream, losses)
            return task_gradients.gram_matrix(gradients), None
        stages = context.program.network.stages
        last = feature_stage(stages)
        stage = last if self.wrt == "features" else self.wrt
        gradients = task_gradients.by_features(context, self.stream, losses, stage)
        gram = task_gradients.gram_matrix(gradients)
        return gram, gradients if stage == last else None

    def _balance(
        self, context: View, losses: jax.Array, gram: jax.Array | None
    ) -> Balance:
        tasks = tasks_of(context.program.output_names)
        labelled = task_losses.labelled(tasks, context.batches[self.stream])
        losses, gram = jax.lax.stop_gradient((losses, gram))
        values = TaskValues(
            losses=losses,
            tasks=tuple(tasks),
            labelled=labelled,
            gram=None if gram is None else with_absent_tasks(gram, labelled),
            params=context.term_params.get("balancer", {}),
            state=context.state.get("balancer", {}),
            step=context.step,
            key=context.key,
        )
        return self.balancer.balance(values)


def _with_parts(balancer: PyTree, losses: Mapping[str, PyTree]) -> PyTree:
    """A tree of the balancer's part and of those of the tasks' terms, if any."""
    parts = {"balancer": balancer, "losses": {n: p for n, p in losses.items() if p}}
    return {name: part for name, part in parts.items() if part}


def _conflicts(gram: jax.Array, tasks: tuple[str, ...]) -> Metrics:
    """Cosines of the tasks' gradients, and the share of those below 0."""
    table, pairs = cosines(gram), list(itertools.combinations(range(len(tasks)), 2))
    values = jnp.stack([table[i, j] for i, j in pairs])
    metrics = {"conflicts": jnp.mean((values < 0).astype(jnp.float32))}
    if len(pairs) > _PAIRS:
        return {**metrics, "cosine_min": values.min(), "cosine_mean": values.mean()}
    names = [f"cosine[{tasks[i]},{tasks[j]}]" for i, j in pairs]
    return {**metrics, **dict(zip(names, values))}
