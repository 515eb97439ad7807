"""The loss of answers that are spans of a context."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.tree import as_float32
from jaxtl.data.dataset import QUESTION_ANSWERING
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup, Term, stream_field
from jaxtl.terms.context import View


def span_cross_entropies(
    logits: jax.Array, positions: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropies of the first and of the last token of answers.

    As in transformers' models for question answering, a position below 0 is 0, and one
    behind the window is not counted.

    Args:
      logits: (batch, length, 2), of first and of last tokens.
      positions: (batch, 2), the first and the last token of each answer.

    Returns:
      (−log p at the positions in nats, 1 where a position counts, else 0), float32
      (batch, 2) each.
    """
    log_p = jax.nn.log_softmax(as_float32(logits), axis=1)
    length = logits.shape[1]
    counted = (positions < length).astype(log_p.dtype)
    index = jnp.clip(positions, 0, length - 1)
    values = -jnp.take_along_axis(log_p, index[:, None], axis=1)[:, 0]
    return values, counted


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanCrossEntropy(Term):
    """Mean of the `span_cross_entropies` of first tokens, and of last ones, over 2.

    With weights of examples each mean is Σ w·loss / Σ w over the windows of the batch.
    Reports the share of windows whose first and last token are the predicted ones.

    Attributes:
      stream: name of the stream.
    """

    reads_weights: ClassVar[bool] = True

    stream: str = stream_field("target")

    def check(self, setup: Setup) -> None:
        checks.labelled(setup, "stream", self.stream)
        checks.task(setup, "SpanCrossEntropy", QUESTION_ANSWERING)
        checks.output_places(setup)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        logits = context.forward(self.stream).logits
        batch = context.batches[self.stream]
        values, counted = span_cross_entropies(logits, batch["y"])
        hits = jnp.all(jnp.argmax(logits, axis=1) == batch["y"], axis=1)
        accuracy = jnp.mean(hits.astype(jnp.float32))
        if "weight" in batch:
            counted = counted * batch["weight"][:, None]
        totals, counts = (values * counted).sum(axis=0), counted.sum(axis=0)
        first, last = (context.ratio(totals[i], counts[i]) for i in range(2))
        return (first + last) / 2, {"accuracy": accuracy}
