"""Checks of terms before a run starts: one clear sentence each, with the nearest name.

Every function takes the `Setup` a term is checked against and raises `UserError`.
"""

import math
import numbers
from collections.abc import Iterable
from typing import Any

import jax

from jaxtl.core import selection as selections
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.names import listing
from jaxtl.core.types import PyTree
from jaxtl.data.dataset import CONTRASTIVE, MULTITASK, QUESTION_ANSWERING, TAG_TASKS
from jaxtl.optim.schedules import Schedule
from jaxtl.terms.base import Setup


def where(setup: Setup, field: str) -> str:
    """The field's full name, as an override on the command line spells it."""
    return f"terms.{setup.name}.{field}"


def stream(setup: Setup, field: str, name: str) -> None:
    """Raises if the experiment has no stream of that name."""
    streams = setup.program.streams
    if name not in streams:
        raise UserError(
            f"{where(setup, field)}={name!r}: the data give no such stream"
            f"{nearest(name, streams)} (streams: {', '.join(streams)})."
        )


def labelled(setup: Setup, field: str, name: str) -> None:
    """Raises if there is no stream of that name, or it carries no labels."""
    stream(setup, field, name)
    if name == "unlabelled":
        labelled_streams = (
            ", ".join(s for s in setup.program.streams if s != name) or "none"
        )
        raise UserError(
            f"{where(setup, field)}={name!r}: this stream has no labels "
            f"(streams with labels: {labelled_streams})."
        )
    if name in setup.program.episodes:
        raise UserError(
            f"{where(setup, field)}={name!r}: labels of this stream are places of "
            "classes in episodes (sampling=Episodes), which mean nothing outside; take "
            "a term of tl.fewshot, such as tl.fewshot.ProtoNet()."
        )


def classes(setup: Setup, field: str, name: str) -> None:
    """Raises if a stream's classes or targets are not the target's, in this order.

    The shorter list may be the beginning of the longer one, as for a target with only
    the first of the source's classes.
    """
    ours = setup.classes.get("", ())
    theirs = setup.classes.get(name, ours)
    common = min(len(ours), len(theirs))
    if ours[:common] != theirs[:common]:
        is_class = setup.program.task == "classification"
        what, option = ("classes", "classes") if is_class else ("outputs", "target")
        raise UserError(
            f"{where(setup, field)}={name!r}: the stream's {what} "
            f"({listing(theirs)}) are not the target's ({listing(ours)}), in this "
            f"order; bring them into it with streams[{name!r}].{option}=."
        )


def class_labels(setup: Setup, term: str, field: str, name: str, *others: str) -> None:
    """Raises unless the task is classification and the stream has the target's classes.

    Args:
      setup: what the term is checked against.
      term: name of the term's class, for the message.
      field: the field that names the stream, for the message.
      name: of the stream.
      others: further tasks with classes that the term is for.
    """
    labelled(setup, field, name)
    task(setup, term, "classification", *others)
    classes(setup, field, name)


def output_places(setup: Setup) -> None:
    """Raises unless the model's outputs are those of examples, pieces or spans."""
    last = setup.features.get(setup.program.network.stages[-1])
    shape: tuple[int, ...] = getattr(last, "shape", ())
    if setup.program.task == QUESTION_ANSWERING:
        if len(shape) != 3 or shape[2] != 2:
            raise UserError(
                f"model: the task {QUESTION_ANSWERING!r} needs the logits of an "
                f"answer's first and last token, (batch, length, 2), but this model "
                f"gives {shape or type(last).__name__}; take predict='span'."
            )
        return
    has_tags = setup.program.task in TAG_TASKS
    if len(shape) in (0, 3 if has_tags else 2):
        return
    needed = "token" if has_tags else "class"
    outputs = "one output vector per piece" if has_tags else "one per example"
    raise UserError(
        f"model: the task {setup.program.task!r} needs {outputs}, but this model gives "
        f"{shape}; take predict={needed!r}."
    )


_OTHER_OUTPUTS = {
    QUESTION_ANSWERING: "positions in a text",
    CONTRASTIVE: "embeddings of images and of texts",
    MULTITASK: "those of several tasks",
}


def outputs_of_examples(setup: Setup, term: str, allowed: tuple[str, ...] = ()) -> None:
    """Raises where the outputs are no vector for each example or token.

    Args:
      setup: of the run.
      term: its name in messages.
      allowed: tasks with other outputs that the term can read nevertheless.
    """
    task = setup.program.task
    if task in _OTHER_OUTPUTS and task not in allowed:
        raise UserError(
            f"terms.{setup.name}: {term} reads one output vector for each example or "
            f"token, and those of the task {task!r} are {_OTHER_OUTPUTS[task]}; take a "
            "term of parameters or features, such as tl.regularizers.L2SP."
        )


def stage(setup: Setup, field: str, name: str) -> None:
    """Raises if the model has no stage of that name, or shows no feature of it."""
    if name not in setup.program.network.stages:
        raise UserError(
            f"{where(setup, field)}={name!r}: the model has no such stage"
            f"{nearest(name, setup.program.network.stages)} "
            f"(stages: {', '.join(setup.program.network.stages)})."
        )
    if name not in setup.features:
        raise UserError(
            f"{where(setup, field)}={name!r}: this model gives no feature of that "
            f"stage (it gives: {', '.join(setup.features)})."
        )


def task(setup: Setup, term: str, *expected: str) -> None:
    """Raises if the experiment's task is none of the expected."""
    if setup.program.task not in expected:
        raise UserError(
            f"terms.{setup.name}: {term} is a term for "
            f"{' or '.join(expected)}, and the task of this experiment is "
            f"{setup.program.task!r}."
        )


def one_of(setup: Setup, field: str, value: Any, options: Iterable[str]) -> None:
    """Raises if the value is none of the options."""
    options = tuple(options)
    if value not in options:
        raise UserError(
            f"{where(setup, field)}={value!r} is unknown{nearest(value, options)} "
            f"(known: {', '.join(options)})."
        )


def number(
    setup: Setup, field: str, value: Any, low: float, high: float = math.inf
) -> None:
    """Raises if a number lies outside [low, high]; schedules are let through."""
    if not isinstance(value, Schedule) and not low <= value <= high:
        span = f"at least {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"
        raise UserError(f"{where(setup, field)}={value!r}: expected a number {span}.")


def positive(setup: Setup, field: str, value: Any) -> None:
    """Raises if a value is not a number above 0; a schedule is not one."""
    if not isinstance(value, numbers.Real) or not float(value) > 0:
        raise UserError(f"{where(setup, field)}={value!r}: expected a number above 0.")


def count(setup: Setup, field: str, value: Any, least: int = 1) -> None:
    """Raises if a value is not a whole number of at least `least`."""
    if not isinstance(value, int) or value < least:
        raise UserError(
            f"{where(setup, field)}={value!r}: expected a whole number of at least "
            f"{least}."
        )


def batch_of(setup: Setup, term: str, stream: str, least: int) -> None:
    """Raises if the (micro-)batches of a stream have too few examples to compare."""
    parts, size = setup.program.accumulate, setup.program.batch_sizes[stream]
    if size // parts < least:
        cut = f" in {parts} micro-batches" if parts > 1 else ""
        raise UserError(
            f"batch={size}{cut}: {term} compares the examples of a batch of "
            f"{stream!r}, so it needs {least} or more at once."
        )


def sourced(setup: Setup) -> None:
    """Raises if training starts from scratch."""
    if not trees.flatten(setup.source.params):
        raise UserError(
            f"terms.{setup.name}: this experiment starts from scratch, so there is no "
            "θ₀ to stay near; give the experiment an init=."
        )


def selected(
    setup: Setup, pattern: str, *, sourced: bool = False, field: str = "select"
) -> PyTree:
    """The mask of leaves that are selected, trainable and (asked for) sourced.

    Args:
      setup: what the term is checked against.
      pattern: the selection.
      sourced: count only leaves that have a source.
      field: the selection's field, for the message.

    Raises:
      UserError: if the pattern matches nothing, or nothing remains.
    """
    name = where(setup, field)
    selected_mask = selections.mask(pattern, setup.params, what=name)
    selected_mask = jax.tree.map(
        lambda a, b: a and b, selected_mask, setup.program.trainable_mask
    )
    if not any(jax.tree.leaves(selected_mask)):
        raise UserError(
            f"{name}={pattern!r}: every parameter it selects is frozen, so the term "
            "would do nothing; unfreeze one or drop the term."
        )
    if sourced:
        source_paths = set(trees.flatten(setup.source.params))
        selected_mask = trees.map_with_path(
            lambda p, m: m and p in source_paths, selected_mask
        )
        if not any(jax.tree.leaves(selected_mask)):
            raise UserError(
                f"{name}={pattern!r}: no trainable parameter it selects has a source; "
                f"those that have one are in: {', '.join(_stages(source_paths))}."
            )
    return selected_mask


def _stages(paths: Iterable[str]) -> list[str]:
    return sorted({path.split("/")[0] for path in paths})
