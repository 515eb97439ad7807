"""What terms over untrusted labels share: a check, and log-probabilities."""

import jax
import jax.numpy as jnp

from jaxtl.terms import checks
from jaxtl.terms.base import Setup


def log_probabilities(logits) -> jax.Array:
    """Returns log softmax over the last axis, float32 or wider."""
    logits = jnp.asarray(logits)
    wide = jnp.promote_types(logits.dtype, jnp.float32)
    return jax.nn.log_softmax(logits.astype(wide))


def of_label(values: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns (batch,), the value at each example's label; values are (batch, K)."""
    return jnp.take_along_axis(values, labels[:, None], axis=-1)[:, 0]


def per_example(logits, labels) -> jax.Array:
    """Returns the cross-entropy of each example, (batch,), in nats."""
    return -of_label(log_probabilities(logits), labels)


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the share of the given (possibly wrong) labels that are predicted."""
    return jnp.mean((jnp.argmax(logits, -1) == labels).astype(jnp.float32))


def check_classes(setup: Setup, term: str, stream: str) -> None:
    """Raises if a stream has no labels of the target's classes."""
    checks.stream(setup, "stream", stream)
    checks.task(setup, term, "classification")
    checks.classes(setup, "stream", stream)
