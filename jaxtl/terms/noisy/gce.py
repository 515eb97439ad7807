"""Generalised cross-entropy: between cross-entropy and mean absolute error."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.noisy import base


def generalised_cross_entropy(logits, labels, q, threshold=0.0) -> jax.Array:
    """(1 − p_y^q) / q, mean over examples; q → 0 is −log p_y, q = 1 is 1 − p_y.

    Args:
      logits: (batch, K), before the softmax.
      labels: (batch,) class indices.
      q: in [0, 1], may be traced.
      threshold: k; an example with p_y ≤ k counts (1 − k^q) / q and gets no gradient,
        which is the truncated loss; 0 truncates nothing.

    Returns:
      A scalar; at q = 1 half of the ℓ₁ distance between p and the label.

    References:
      Zhang & Sabuncu, Generalized Cross Entropy Loss, NeurIPS 2018, eq. 6 and 10.
    """
    log_p = base.of_label(base.log_probabilities(logits), labels)
    log_p = jnp.maximum(log_p, jnp.log(threshold))
    small = q < 1e-6  # where (1 − e^{q log p}) / q is 0 / 0
    power = -jnp.expm1(q * log_p) / jnp.where(small, 1.0, q)
    return jnp.mean(jnp.where(small, -log_p, power))


@dataclasses.dataclass(frozen=True, kw_only=True)
class GCE(Term):
    """`generalised_cross_entropy` of a stream's batch.

    Attributes:
      stream: name of the stream.
      q: 0 is cross-entropy, 1 mean absolute error, which no noise that is symmetric
        misleads but which hardly learns; the paper takes 0.7.
      threshold: k of the truncated loss (the paper: 0.5); 0 for none. The paper raises
        it after 40 of 120 epochs: give the term in a later phase, or 0 and be patient.

    References:
      Zhang & Sabuncu, Generalized Cross Entropy Loss, NeurIPS 2018.
    """

    stream: str = "target"
    q: float = traced(0.7)
    threshold: float = traced(0.0)

    @property
    def streams(self):
        return (self.stream,)

    def check(self, setup: Setup):
        base.check_classes(setup, "GCE", self.stream)
        checks.number(setup, "q", self.q, 0.0, 1.0)
        checks.number(setup, "threshold", self.threshold, 0.0, 1.0)

    def __call__(self, context):
        logits = context.forward(self.stream).logits
        labels = context.batches[self.stream]["y"]
        value = generalised_cross_entropy(logits, labels, self.q, self.threshold)
        return value, {"accuracy": base.accuracy(logits, labels)}
