"""A loss of ordered classes: a yes/no question at each threshold between two."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.tree import as_float32
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup, Term, stream_field
from jaxtl.terms.context import View
from jaxtl.terms.imbalance.class_weights import mean_loss


def cumulative_log_odds(logits: jax.Array) -> jax.Array:
    """log P(y > k) / P(y ≤ k) of each threshold k, P by the softmax of the logits.

    They fall with k, so the probabilities P(y > k) are in order ("rank-consistent").

    Args:
      logits: (batch, K), of classes in their order.

    Returns:
      (batch, K − 1).
    """
    logits = as_float32(logits)
    below = jax.lax.cumlogsumexp(logits, axis=1)[:, :-1]
    above = jax.lax.cumlogsumexp(logits, axis=1, reverse=True)[:, 1:]
    return above - below


def coral_losses(log_odds: jax.Array, labels: jax.Array) -> jax.Array:
    """−Σ_k [y > k] log σ(g_k) + [y ≤ k] log (1 − σ(g_k)) of each example, in nats.

    Args:
      log_odds: g, (batch, K − 1), of P(y > k).
      labels: y, (batch,) classes 0 … K − 1.

    Returns:
      (batch,).

    References:
      Cao, Mirjalili, Raschka, Rank Consistent Ordinal Regression for Neural Networks
      with Application to Age Estimation, Pattern Recognition Letters 140 (2020), eq. 4,
      with all weights 1. There g_k shares one score and has a bias for each k.
    """
    log_odds = as_float32(log_odds)
    is_above = labels[:, None] > jnp.arange(log_odds.shape[1])
    signed = jnp.where(is_above, log_odds, -log_odds)
    return -jnp.sum(jax.nn.log_sigmoid(signed), axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OrdinalCrossEntropy(Term):
    """`coral_losses` of the softmax's cumulative probabilities, mean over examples.

    A prediction that is further from the label costs more, whatever the class between.
    Classes are in the order of the data; `data.classes=("low", "mid", "high")` sets it.
    Reports the mean distance of the predicted class from the label.

    Attributes:
      stream: name of the stream.
    """

    reads_weights: ClassVar[bool] = True

    stream: str = stream_field("target")

    def check(self, setup: Setup) -> None:
        checks.class_labels(setup, "OrdinalCrossEntropy", "stream", self.stream)
        checks.output_places(setup)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        logits = context.forward(self.stream).logits
        labels = context.batches[self.stream]["y"]
        values = coral_losses(cumulative_log_odds(logits), labels)
        distance = jnp.abs(jnp.argmax(logits, axis=1) - labels).astype(jnp.float32)
        value = mean_loss(context, self.stream, values)
        return value, {"distance": jnp.mean(distance)}
