"""Entropy minimization: certain predictions for unlabelled examples."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.tree import as_float32
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup, Term, stream_field
from jaxtl.terms.context import View


def entropy(logits: jax.Array) -> jax.Array:
    """H(p) = −Σ_c p_c log p_c of p = softmax(logits), (..., K) -> (...,), in nats.

    Args:
      logits: before the softmax, any float dtype.

    Returns:
      float32 (or wider) in [0, log K].
    """
    log_p = jax.nn.log_softmax(as_float32(logits))
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EntropyMinimization(Term):
    """Mean `entropy` of a stream's predictions, in nats; log K for uniform predictions.

    Reports the mean confidence, the probability of each example's most likely class.

    Attributes:
      target: stream whose predictions are read; its labels are not used.

    References:
      Grandvalet & Bengio, Semi-supervised Learning by Entropy Minimization, NeurIPS
      2004; their sum divided by its number of examples.
    """

    target: str = stream_field("unlabelled")

    def check(self, setup: Setup) -> None:
        checks.task(setup, "EntropyMinimization", "classification")
        checks.stream(setup, "target", self.target)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        logits = context.forward(self.target).logits
        confidence = jnp.mean(jnp.max(jax.nn.softmax(logits), axis=-1))
        return jnp.mean(entropy(logits)), {"confidence": confidence}
