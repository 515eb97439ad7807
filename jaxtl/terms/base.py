"""The Term: one summand of the loss, and what it may ask before training."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from jaxtl.core.types import Batch, Network, PyTree, Source
from jaxtl.optim.schedules import Schedule


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
