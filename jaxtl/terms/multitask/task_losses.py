"""The loss of each task as a term of one task would compute it."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxtl.core.types import Batch, Output, PyTree
from jaxtl.data.task_outputs import TaskOutputs, tasks_of
from jaxtl.optim import schedules
from jaxtl.terms import losses
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.context import View
from jaxtl.terms.program import Program


class TaskLosses(NamedTuple):
    """What the terms of the tasks compute of a batch.

    Attributes:
      values: (T,) losses, each times its term's weight.
      states: task -> its term's state after the step, of terms that have one.
      counts: of `View.ratio`, as in `Context.counts`.
    """

    values: jax.Array
    states: dict[str, PyTree]
    counts: dict[str, jax.Array]


def default_loss(kind: str, stream: str) -> Term:
    """The usual loss of a kind of task."""
    if kind == "classification":
        return losses.CrossEntropy(stream=stream)
    if kind == "multilabel":
        return losses.BinaryCrossEntropy(stream=stream)
    return losses.SquaredError(stream=stream)


def _program_of(program: Program, task: TaskOutputs) -> Program:
    return dataclasses.replace(
        program,
        task=task.kind,
        outputs=len(task.names),
        output_names=(),
        joint_pass=(),
    )


def setup_of(setup: Setup, name: str, stream: str) -> Setup:
    """What the term of one task may read: its outputs, labels and counts alone.

    Args:
      setup: of the experiment.
      name: of the task.
      stream: that has the labels.
    """
    task = tasks_of(setup.program.output_names)[name]
    head = setup.program.network.stages[-1]
    shape = jax.ShapeDtypeStruct((2, len(task.names)), jnp.float32)

    def batches(name: str) -> Iterator[Batch]:
        return (labels_of(batch, task) for batch in setup.batches(name))

    return dataclasses.replace(
        setup,
        name=f"{setup.name}.losses.{name}",
        program=_program_of(setup.program, task),
        features={**setup.features, head: shape},
        batches=batches,
        label_counts={s: c[task.outputs] for s, c in setup.label_counts.items()},
        classes={stream: task.names, "": task.names},
    )


def labels_of(batch: Batch, task: TaskOutputs) -> Batch:
    """The batch with the labels of one task, of weight 0 where it has none."""
    y = batch["y"][:, task.columns]
    labelled = ~jnp.isnan(y).any(axis=1)
    y = jnp.nan_to_num(y)
    if task.kind == "classification":
        y = y[:, 0].astype(jnp.int32)
    weight = batch.get("weight", jnp.ones(len(y), jnp.float32))
    return {**batch, "y": y, "weight": jnp.where(labelled, weight, 0.0)}


def labelled(tasks: Mapping[str, TaskOutputs], batch: Batch) -> jax.Array:
    """(T,) bool: whether a batch has a label, of a weight above 0, of each task."""
    return jnp.stack(
        [(labels_of(batch, t)["weight"] > 0).any() for t in tasks.values()]
    )


def compute(
    terms: Mapping[str, Term], context: View, stream: str, out: Output
) -> TaskLosses:
    """The losses of all tasks on a stream's batch.

    Args:
      terms: task -> the term that computes its loss.
      context: of the step.
      stream: whose batch.
      out: a pass of it, whose logits are those of all tasks.
    """
    values: list[jax.Array] = []
    states: dict[str, PyTree] = {}
    counts: dict[str, jax.Array] = {}
    tasks = tasks_of(context.program.output_names)
    for index, (name, task) in enumerate(tasks.items()):
        view = context.of_task(
            name,
            index,
            stream,
            labels_of(context.batches[stream], task),
            out._replace(logits=out.logits[:, task.outputs]),
            _program_of(context.program, task),
            context.constants.get(name, {}),
        )
        result = terms[name](view)
        value = result[0] if isinstance(result, tuple) else result
        weight = schedules.value(terms[name].weight, view.step, view.steps)
        values.append(weight.astype(value.dtype) * value)
        if state := view.term_states[view.name]:
            states[name] = state
        counts |= view.counts
    return TaskLosses(jnp.stack(values), states, counts)
