"""What the classification terms for imbalanced classes share."""

import dataclasses
from typing import Any, ClassVar

import jax

from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, stream_field
from jaxtl.terms.context import View
from jaxtl.terms.imbalance import class_weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightedTerm(Term):
    """Base class of terms whose examples weigh by their class.

    The value is Σ w·loss / Σ w over the batch, w the weights of class and example.

    Attributes:
      class_weights: None, "balanced", an `EffectiveNumber`, or a mapping from names of
        classes (or their indices) to weights; classes that it leaves out weigh 1.
      stream: name of the stream.
    """

    reads_weights: ClassVar[bool] = True

    class_weights: Any = None
    stream: str = stream_field("target")

    def check(self, setup: Setup) -> None:
        checks.class_labels(setup, type(self).__name__, "stream", self.stream)
        class_weights.check_class_weights(setup, self.stream, self.class_weights)

    def describe(self, setup: Setup) -> str:
        return class_weights.describe_class_weights(
            setup, self.stream, self.class_weights
        )

    def constants(self, setup: Setup) -> PyTree:
        return class_weights.constants(setup, self.stream, self.class_weights)

    def weighted_mean(self, context: View, values: jax.Array) -> jax.Array:
        """Σ w·v / Σ w of the values (batch,) of the stream's examples."""
        labels = context.batches[self.stream]["y"]
        counts = class_weights.weights_of_labels(context, labels)
        if counts is None:
            return class_weights.mean_loss(context, self.stream, values)
        return class_weights.mean_loss(context, self.stream, counts * values, counts)
