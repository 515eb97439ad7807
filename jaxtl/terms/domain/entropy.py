"""Entropy minimisation: decide on every unlabelled example."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term


def entropy(logits: jax.Array) -> jax.Array:
    """H(p) = −Σ_c p_c log p_c of p = softmax(logits), (..., K) -> (...,), in nats."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    log_p = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EntropyMinimisation(Term):
    """Mean `entropy` of a stream's predictions, in nats; log K where none is decided.

    Reports the mean confidence, that of each example's likeliest class.

    Attributes:
      target: stream whose predictions are decided; its labels are not used.

    References:
      Grandvalet & Bengio, Semi-supervised Learning by Entropy Minimization, NeurIPS
      2004; their sum divided by its number of examples.
    """

    target: str = "unlabelled"

    @property
    def streams(self):
        return (self.target,)

    def check(self, setup: Setup):
        checks.task(setup, "EntropyMinimisation", "classification")
        checks.stream(setup, "target", self.target)

    def __call__(self, context):
        logits = context.forward(self.target).logits
        confidence = jnp.mean(jnp.max(jax.nn.softmax(logits), axis=-1))
        return jnp.mean(entropy(logits)), {"confidence": confidence}
