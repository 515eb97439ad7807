"""Parts of several terms over untrusted labels: log-probabilities and a base class."""

import dataclasses

import jax

from jaxtl.core import tree as trees
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Setup, Term, stream_field


def log_probabilities(logits: jax.Array) -> jax.Array:
    """Log softmax over the last axis, float32 or wider."""
    return jax.nn.log_softmax(trees.as_float32(logits))


def example_cross_entropies(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of each example in nats: (batch, K), (batch,) -> (batch,)."""
    return -losses.label_log_probabilities(logits, labels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisyLabelTerm(Term):
    """Base class of classification terms over a stream whose labels may be wrong.

    Attributes:
      stream: name of the stream.
    """

    stream: str = stream_field("target")

    def check(self, setup: Setup) -> None:
        checks.class_labels(setup, type(self).__name__, "stream", self.stream)
