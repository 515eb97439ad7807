"""Symmetric cross-entropy: cross-entropy plus the reverse cross-entropy."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.noisy.base import (
    NoisyLabelTerm,
    example_cross_entropies,
)

LOG_ZERO = -4.0  # the paper's A, which stands for log 0


def reverse_cross_entropy(
    logits: jax.Array, labels: jax.Array, log_zero: float = LOG_ZERO
) -> jax.Array:
    """−Σ_c p_c log q_c with log 0 := A, which is −A · (1 − p_y); mean over examples.

    Args:
      logits: (batch, K), before the softmax.
      labels: (batch,) class indices: q is one at the label and zero elsewhere.
      log_zero: A, below 0.

    Returns:
      A scalar.

    References:
      Wang et al., Symmetric Cross Entropy, ICCV 2019, eq. 6 and section 3.2. The
      authors' program clips q at 1e-4, so A is log 1e-4 = −9.21 there: its β is 2.3
      times as strong as this with A = −4.
    """
    log_p = losses.label_log_probabilities(logits, labels)
    return jnp.mean(log_zero * jnp.expm1(log_p))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SCE(NoisyLabelTerm):
    """α · cross-entropy + β · `reverse_cross_entropy` of a stream's batch.

    Attributes:
      stream: name of the stream.
      alpha: α; the paper takes 0.1 on CIFAR-10 and 6 on CIFAR-100.
      beta: β; the paper takes 1 on CIFAR-10 and 0.1 on CIFAR-100.

    References:
      Wang et al., Symmetric Cross Entropy for Robust Learning with Noisy Labels, ICCV
      2019, eq. 7.
    """

    alpha: float = traced(0.1)
    beta: float = traced(1.0)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.number(setup, "alpha", self.alpha, 0.0)
        checks.number(setup, "beta", self.beta, 0.0)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        logits = context.forward(self.stream).logits
        labels = context.batches[self.stream]["y"]
        cross_entropy = jnp.mean(example_cross_entropies(logits, labels))
        reverse = reverse_cross_entropy(logits, labels)
        accuracy = losses.label_accuracy(logits, labels)
        metrics = {"cross_entropy": cross_entropy, "reverse": reverse}
        value = self.alpha * cross_entropy + self.beta * reverse
        return value, {**metrics, "accuracy": accuracy}
