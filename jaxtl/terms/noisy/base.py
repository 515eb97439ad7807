"""Parts of several terms over untrusted labels: log-probabilities and a base class."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Setup, Term, stream_field


def log_probabilities(logits: jax.Array) -> jax.Array:
    """Log softmax over the last axis, float32 or wider."""
    return jax.nn.log_softmax(trees.as_float32(logits))


def example_cross_entropies(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of each example in nats: (batch, K), (batch,) -> (batch,)."""
    return -losses.label_log_probabilities(logits, labels)


def label_accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Share of examples whose observed (possibly wrong) label is predicted.

    Args:
      logits: (batch, K).
      labels: (batch,) class indices.

    Returns:
      A float32 scalar.
    """
    return jnp.mean((jnp.argmax(logits, -1) == labels).astype(jnp.float32))


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisyLabelTerm(Term):
    """Base class of classification terms over a stream whose labels may be wrong.

    Attributes:
      stream: name of the stream.
    """

    stream: str = stream_field("target")

    def check(self, setup: Setup) -> None:
        checks.stream(setup, "stream", self.stream)
        checks.task(setup, type(self).__name__, "classification")
        checks.classes(setup, "stream", self.stream)
