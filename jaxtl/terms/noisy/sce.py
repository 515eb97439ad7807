"""Symmetric cross-entropy: the label is also asked what it thinks of the prediction."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.noisy import base

LOG_ZERO = -4.0  # the paper's A, which stands for log 0


def reverse_cross_entropy(logits, labels, log_zero=LOG_ZERO) -> jax.Array:
    """−Σ_c p_c log q_c with log 0 := A, which is −A · (1 − p_y); mean over examples.

    Args:
      logits: (batch, K), before the softmax.
      labels: (batch,) class indices: q is one at the label and zero elsewhere.
      log_zero: A, below 0.

    References:
      Wang et al., Symmetric Cross Entropy, ICCV 2019, eq. 6 and section 3.2.
    """
    log_p = base.of_label(base.log_probabilities(logits), labels)
    return jnp.mean(log_zero * jnp.expm1(log_p))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SCE(Term):
    """α · cross-entropy + β · `reverse_cross_entropy` of a stream's batch.

    Attributes:
      stream: name of the stream.
      alpha: α; the paper takes 0.1 on CIFAR-10 and 6 on CIFAR-100.
      beta: β; the paper takes 1 on CIFAR-10 and 0.1 on CIFAR-100.

    References:
      Wang et al., Symmetric Cross Entropy for Robust Learning with Noisy Labels, ICCV
      2019, eq. 7.
    """

    stream: str = "target"
    alpha: float = traced(0.1)
    beta: float = traced(1.0)

    @property
    def streams(self):
        return (self.stream,)

    def check(self, setup: Setup):
        base.check_classes(setup, "SCE", self.stream)
        checks.number(setup, "alpha", self.alpha, 0.0)
        checks.number(setup, "beta", self.beta, 0.0)

    def __call__(self, context):
        logits = context.forward(self.stream).logits
        labels = context.batches[self.stream]["y"]
        forward = jnp.mean(base.per_example(logits, labels))
        backward = reverse_cross_entropy(logits, labels)
        value = self.alpha * forward + self.beta * backward
        metrics = {"cross_entropy": forward, "reverse": backward}
        return value, {**metrics, "accuracy": base.accuracy(logits, labels)}
