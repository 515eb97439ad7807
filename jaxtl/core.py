"""The vocabulary: the types that every other file speaks of, and no behaviour.

Stage, Selection, Source, Stream, Term and Experiment are the six words of the
program. Selections live in `select.py`, streams in `data/streams.py`, the
experiment in `experiment.py`; the rest is here.
"""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

PyTree = Any
Batch = Mapping[str, PyTree]


class UserError(ValueError):
    """Bad input, told in one sentence; the command line prints it and exits."""


def nearest(name: object, options: Iterable[object]) -> str:
    """Returns "; did you mean 'x'?" for the closest option, or an empty string."""
    close = difflib.get_close_matches(str(name), [str(o) for o in options], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class _Frozen:
    """The group that never moves: parameters, BatchNorm statistics, dropout."""

    def __repr__(self):
        return "FROZEN"

    def __reduce__(self):
        return "FROZEN"


FROZEN = _Frozen()


def static(default: Any) -> Any:
    """A numeric field that shapes the program, so it is compiled in, not traced."""
    return dataclasses.field(default=default, metadata={"static": True})


class Tokens(NamedTuple):
    """What a stage of a sequence model hands on, so that masks travel with states.

    Attributes:
      states: (batch, length, width).
      mask: (batch, length) bools, True for real tokens.
    """

    states: jax.Array
    mask: jax.Array


def vectors(feature) -> jax.Array:
    """Returns a stage's output as one vector per example, float32 or wider.

    (batch, width): tokens are averaged over the real ones, other arrays flattened.
    """
    if isinstance(feature, Tokens):
        states = _wide(feature.states)
        mask = feature.mask[..., None].astype(states.dtype)
        return (states * mask).sum(1) / jnp.maximum(mask.sum(1), 1.0)
    return _wide(feature.reshape(feature.shape[0], -1))


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Output(NamedTuple):
    """What a forward pass returns.

    Attributes:
      logits: the last stage's output, (batch, outputs) after the head, before any
        output activation; with `stop=` the output of that stage.
      features: stage name -> that stage's output (array or Tokens), for each stage
        that ran.
      stats: the model's non-learned state after the pass (BatchNorm statistics).
    """

    logits: jax.Array
    features: dict[str, jax.Array]
    stats: PyTree


@dataclasses.dataclass(frozen=True)
class Network:
    """What the house sees of a model: its stages and two pure functions.

    Attributes:
      stages: stage names in order; `params[stage]` is a stage's subtree and the
        last stage is the head.
      init: `(key, x) -> (params, stats)`; `x` is one batch of inputs.
      apply: `(params, stats, x, *, train=(), still=(), key=None, start=None,
        stop=None) -> Output`. `train` names the stages in training mode (dropout
        on, batch statistics used and updated); `still` names modules, as paths
        `stage/.../bn`, that keep their statistics although their stage trains;
        `start`/`stop` run from the input of one stage to the output of another.
      reduce: what the head does first without parameters or randomness (averaging a
        feature map, say), as a function of its input; the head takes what has been
        reduced as well. None where there is no such part.
      taps: `(params, stats, x, nudges, *, stop=None) -> (Output, inputs)`, a pass in
        evaluation mode that shows the dense layers from within: `inputs` maps a
        layer's path to what it reads, (batch, ..., in), and `nudges` maps paths to
        what is added to its output, so that the gradient by a nudge is that by the
        output. None where the layers can't be seen. Whoever replaces `apply` by
        another function replaces `taps` too, or sets it to None.
    """

    stages: tuple[str, ...]
    init: Callable[..., tuple[PyTree, PyTree]]
    apply: Callable[..., Output]
    reduce: Callable[[Any], Any] | None = None
    taps: Callable[..., tuple[Output, dict[str, jax.Array]]] | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """What pre-training left behind: θ₀. Immutable, passed to the step.

    Attributes:
      params: the source's parameters in the shape of the model's tree, `None` where
        a leaf has no source (a re-initialised head).
      stats: its batch statistics, likewise.
      head: its own head's parameters, kept even when the model got a new one
        (None when there is none).
    """

    params: PyTree = None
    stats: PyTree = None
    head: PyTree = None


jax.tree_util.register_dataclass(Source, ["params", "stats", "head"], [])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """A number that changes over training: `value(step, steps)`; see schedules.py."""

    def value(self, step: jax.Array, steps: jax.Array) -> jax.Array:
        raise TypeError(f"{type(self).__name__} defines no value(step, steps)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Term:
    """One summand of the loss: `Σ weight · term(context)`.

    Every float field is traced: settings that differ in numbers alone share one
    compiled program. So a term must not branch on them in Python; a number that
    shapes the program is declared with `core.static`.

    Attributes:
      weight: factor of this term in the loss; a number or a schedule.
    """

    weight: float | Schedule = 1.0

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams that this term reads."""
        return ("target",)

    def check(self, setup: "Setup") -> None:
        """Raises UserError where this term can't work in this experiment."""

    def describe(self, setup: "Setup") -> str:
        """Returns what this term decided for this experiment, "" for nothing to say."""
        return ""

    def init(self, key: jax.Array, setup: "Setup") -> PyTree:
        """Returns this term's own trainable parameters ({} for none)."""
        return {}

    def init_state(self, setup: "Setup") -> PyTree:
        """Returns this term's own state that no gradient trains ({} for none)."""
        return {}

    def given(self, setup: "Setup") -> PyTree:
        """Returns arrays that this term reads and no step changes ({} for none).

        They are computed once, before training (from the source, from the data of
        `setup.batches`, from a file), and come back as `context.given`.
        """
        return {}

    def __call__(self, context) -> Any:
        """Returns a scalar, or `(scalar, {metric name: scalar})`.

        A term with state calls `context.set_state(new)`.
        """
        raise TypeError(f"{type(self).__name__} defines no __call__(context)")


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a term may ask when it is checked and initialised.

    Attributes:
      name: the term's name in the experiment.
      network: the model.
      params, stats: its initial values (after loading).
      source: θ₀; `source.params` is None when training starts from scratch.
      mask: tree of bools, True where a parameter is trainable.
      features: stage name -> jax.ShapeDtypeStruct of its output for one batch.
      outputs: number of classes, or of regression targets.
      task: "classification", "multilabel", "regression" or "language".
      streams: names of the streams that exist.
      source_network: the model with the source's own number of outputs, whose head
        `source.head` fits; None where the source brings no head.
      batches: stream name -> iterator over all its train examples once, in order, as
        batches {"x", "y", "row"} with preprocessed inputs ("unlabelled" has no "y");
        the last one may be smaller.
      examples: stream name -> number of examples of its data set; what batches call
        "row" is below it, so a term can remember something of each example.
      classes: stream name -> names of its classes, () where it has no labels; "" has
        the target's, whether the target is streamed or not.
      bare, plain: the model before a reparametrisation, and a tree of the parameters
        that it has; None where there is no reparametrisation.
    """

    name: str
    network: Network
    params: PyTree
    stats: PyTree
    source: Source
    mask: PyTree
    features: Mapping[str, Any]
    outputs: int
    task: str
    streams: tuple[str, ...]
    source_network: Network | None = None
    batches: Callable[[str], Iterable[Batch]] = lambda stream: iter(())
    bare: Network | None = None
    plain: PyTree = None
    examples: Mapping[str, int] = dataclasses.field(default_factory=dict)
    classes: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
