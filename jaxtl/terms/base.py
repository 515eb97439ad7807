"""The Term: one summand of the loss, and what it may read before training."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from jaxtl.core.config import traced
from jaxtl.core.memo import Memo
from jaxtl.core.types import Batch, PyTree, Source
from jaxtl.optim.schedules import Schedule
from jaxtl.terms.program import Program

Metrics = dict[str, jax.Array]  # metric name -> scalar


def stream_field(default: Any) -> Any:
    """Declares a field of a term that names a stream it reads, or a tuple of them."""
    return dataclasses.field(default=default, metadata={"stream": True})


def feature_stage(stages: Sequence[str], stage: str | None = None) -> str:
    """Name of the stage whose output a term reads.

    Args:
      stages: the network's stages.
      stage: the field of the term; None stands for the last stage before the head (the
        head itself where the network has no other stage).
    """
    return stage or (stages[-2] if len(stages) > 1 else stages[-1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Term:
    """One summand of the loss: `Σ weight · term(context)`.

    A field declared with `core.config.traced` is a number that runs of one compiled
    program may differ in, so a term must not branch on it in Python. Every other field
    is compiled in. A field declared with `stream_field` names a stream, or a tuple of
    streams, that the term reads.

    A step may pass its batch in micro-batches (`accumulate`). A mean over examples is
    then the mean over them; a term that divides by another count takes `context.mean`.

    Attributes:
      compares: what the term computes from the examples of a batch together
        ("covariances"), so that micro-batches change its value; "" for none.
      reads_weights: whether it weighs examples by "weight" of a batch, where the data
        have a weight for each.
      trains_head: whether its gradient reaches the head, so that the metrics of outputs
        say something about what it learns.
      moves_once: whether the term's state moves once per step: its micro-batches all
        read the state before the step, and an entry becomes the mean of what they
        changed it to. Else each starts from the state that the one before left.
      weight: factor of this term in the loss; a number or a schedule. A negative one
        maximizes the term.
    """

    compares: ClassVar[str] = ""
    reads_weights: ClassVar[bool] = False
    moves_once: ClassVar[bool] = False
    trains_head: ClassVar[Any] = True

    weight: float | Schedule = traced(1.0, low=-math.inf)

    @property
    def runs_first(self) -> bool:
        """Whether it is computed before the others: it derives a pass that they read
        (`Context.forward_tangent`).
        """
        return False

    @property
    def period(self) -> int:
        """k where it is 0 on all steps but the last of each k since it began."""
        return 1

    @property
    def variants(self) -> int:
        """Number of ways in which it computes its value, of which a step takes one.

        Where the host can choose, each is a program of its own.
        """
        return 1

    def variant_at(self, step: Any) -> Any:
        """The variant of a step, a function of its number alone.

        Args:
          step: number of the step since the term began, an int or a traced integer.

        Returns:
          A number below `variants`, int or traced as `step` is.
        """
        return 0

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams that this term reads, from its stream fields."""
        names: list[str] = []
        for field in dataclasses.fields(self):
            if field.metadata.get("stream"):
                value = getattr(self, field.name)
                names += [value] if isinstance(value, str) else value
        return tuple(names) or ("target",)

    def check(self, setup: "Setup") -> None:
        """Raises UserError where this term can't work in this experiment.

        Args:
          setup: all that is known of the experiment before training.
        """

    def describe(self, setup: "Setup") -> str:
        """Tells what this term decided for this experiment.

        Args:
          setup: as `check` sees it.

        Returns:
          A sentence part for the run's notes; "" for nothing to tell.
        """
        return ""

    def init(self, key: jax.Array, setup: "Setup") -> PyTree:
        """Initializes this term's trainable parameters.

        Args:
          key: PRNG key of this term.
          setup: gives shapes of features and the number of classes.

        Returns:
          A tree of float arrays, trained by the experiment's optimizer; {} for none.
        """
        return {}

    def init_state(self, setup: "Setup") -> PyTree:
        """Initializes this term's state, which no gradient trains.

        Args:
          setup: gives shapes of features and the number of classes.

        Returns:
          A tree of arrays, whose shapes no step may change; {} for none.
        """
        return {}

    def constants(self, setup: "Setup") -> PyTree:
        """Computes arrays that this term reads and no step changes ({} for none).

        They are computed once, before training (from the source, from the data of
        `setup.batches`, from a file), and are read as `context.constants`.

        Args:
          setup: gives the source, parameters, and batches of any stream.

        Returns:
          A tree of arrays, passed to the compiled step as arguments.
        """
        return {}

    def __call__(self, context: Any) -> Any:
        """Computes a scalar, or `(scalar, {metric name: scalar})`.

        `context` is a `terms.context.View`.
        A term with state calls `context.set_state(new)`.
        """
        raise TypeError(f"{type(self).__name__} defines no __call__(context)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything that a term may read when it is checked and initialized.

    Attributes:
      name: the term's name in the experiment.
      program: the static description of the run; its `trainable_mask` holds what is
        trainable in any phase.
      params, stats: the model's initial values (after loading).
      source: θ₀; `source.params` is None when training starts from scratch.
      features: stage name -> jax.ShapeDtypeStruct of its output for one batch.
      batches: stream name -> iterator over all its train examples once, in order, as
        batches {"x", "y", "row"} with preprocessed inputs ("unlabelled" has no "y");
        the last one may be smaller.
      examples: stream name -> number of examples of its data set; the "row" of a batch
        is below it, so a term can remember something of each example.
      label_counts: stream name -> how often each class, or each label of several, is a
        train label, (classes,); only of streams with classes.
      train_rows: stream name -> "row" of each of its train examples, in the order of
        `batches`, int32.
      classes: stream name -> names of its classes, () where it has no labels; "" has
        the target's, whether the target is streamed or not.
      steps: number of steps of the run.
      cache_bytes: what a term may hold of outputs that are always the same, 0 where
        the experiment caches nothing.
      cache: "auto" where what costs more to compute than it saves is not cached.
      tokenizer: of the target's texts, None for other data.
      load_run: `pretrained.FromRun` -> the `pretrained.trained_network.TrainedNetwork`
        of the run.
      memo: what several terms need of the experiment, computed for the first of them.
    """

    name: str
    program: Program
    params: PyTree
    stats: PyTree
    source: Source
    features: Mapping[str, Any]
    batches: Callable[[str], Iterable[Batch]] = lambda stream: iter(())
    examples: Mapping[str, int] = dataclasses.field(default_factory=dict)
    label_counts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    train_rows: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    classes: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    steps: int = 0
    cache_bytes: int = 0
    cache: str = "auto"
    tokenizer: Any = None
    load_run: Callable[[Any], Any] | None = None
    memo: Memo = dataclasses.field(default_factory=Memo)

    def train_examples(self, stream: str) -> int:
        """The number of a stream's train examples."""
        return len(self.train_rows.get(stream, ()))


def streams_of(terms: Mapping[str, Term]) -> tuple[str, ...]:
    """Names of the streams that the terms read, in order, once each."""
    return tuple(dict.fromkeys(s for term in terms.values() for s in term.streams))
