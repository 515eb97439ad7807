"""Generalized cross-entropy: between cross-entropy and mean absolute error."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.noisy.base import NoisyLabelTerm


def generalized_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    q: jax.Array | float,
    threshold: jax.Array | float = 0.0,
) -> jax.Array:
    """(1 − p_y^q) / q, mean over examples; q → 0 is −log p_y, q = 1 is 1 − p_y.

    Args:
      logits: (batch, K), before the softmax.
      labels: (batch,) class indices.
      q: in [0, 1], may be traced.
      threshold: k; an example with p_y ≤ k counts (1 − k^q) / q and has gradient 0,
        which is the truncated loss; 0 truncates nothing.

    Returns:
      A scalar; at q = 1 half of the ℓ₁ distance between p and the label.

    References:
      Zhang & Sabuncu, Generalized Cross Entropy Loss, NeurIPS 2018, eq. 6 and 10.
    """
    log_p = losses.label_log_probabilities(logits, labels)
    log_p = jnp.maximum(log_p, jnp.log(threshold))
    small = q < 1e-6  # where (1 − e^{q log p}) / q is 0 / 0
    power = -jnp.expm1(q * log_p) / jnp.where(small, 1.0, q)
    return jnp.mean(jnp.where(small, -log_p, power))


@dataclasses.dataclass(frozen=True, kw_only=True)
class GCE(NoisyLabelTerm):
    """`generalized_cross_entropy` of a stream's batch.

    Attributes:
      stream: name of the stream.
      q: 0 is cross-entropy; 1 is mean absolute error, which is robust to symmetric
        noise but learns slowly. The paper takes 0.7.
      threshold: k of the truncated loss (the paper: 0.5); 0 for none. The paper raises
        it after 40 of 120 epochs; here, add the term in a later phase or leave it 0.

    References:
      Zhang & Sabuncu, Generalized Cross Entropy Loss, NeurIPS 2018.
    """

    q: float = traced(0.7)
    threshold: float = traced(0.0)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.number(setup, "q", self.q, 0.0, 1.0)
        checks.number(setup, "threshold", self.threshold, 0.0, 1.0)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        logits = context.forward(self.stream).logits
        labels = context.batches[self.stream]["y"]
        value = generalized_cross_entropy(logits, labels, self.q, self.threshold)
        return value, {"accuracy": losses.label_accuracy(logits, labels)}
