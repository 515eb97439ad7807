"""Targets made of predictions, losses against them, and the terms' base class.

Probabilities and logits are (batch, classes); everything is computed in float32 (or
wider) whatever the model computes in. Targets receive no gradient.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.tree import as_float32
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Setup, Term, stream_field


def softmax(logits: jax.Array) -> jax.Array:
    """Softmax over the last axis, in float32 or wider.

    Args:
      logits: (..., K), any float dtype.

    Returns:
      (..., K) probabilities.
    """
    return jax.nn.softmax(as_float32(logits))


def target_probabilities(logits: jax.Array) -> jax.Array:
    """`softmax` through which no gradient flows.

    Args:
      logits: (..., K), any float dtype.

    Returns:
      (..., K) probabilities, constants to differentiation.
    """
    return jax.lax.stop_gradient(softmax(logits))


def sharpen(p: jax.Array, temperature: float | jax.Array) -> jax.Array:
    """p_c^(1/T) / Σ_k p_k^(1/T).

    Args:
      p: probabilities, (..., K).
      temperature: T > 0; 1 returns p, towards 0 the largest probability becomes 1.

    Returns:
      (..., K).

    References:
      Berthelot et al., MixMatch, NeurIPS 2019, eq. 7.
    """
    # Through logarithms: small powers of small numbers would underflow.
    tiny = jnp.finfo(p.dtype).tiny
    return jax.nn.softmax(jnp.log(jnp.maximum(p, tiny)) / temperature)


def pseudo_labels(
    p: jax.Array, threshold: float | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Most likely classes, and a mask of those whose probability reaches a threshold.

    Args:
      p: probabilities, (batch, K).
      threshold: a number, or one per example.

    Returns:
      (argmax p, 1 where max p ≥ threshold and else 0), (batch,) each.
    """
    return jnp.argmax(p, axis=-1), (p.max(-1) >= threshold).astype(p.dtype)


def masked_cross_entropy(
    logits: jax.Array, labels: jax.Array, mask: jax.Array
) -> jax.Array:
    """1/n Σ_i mask_i · H(label_i, softmax(logits_i)), n the whole batch's size.

    Divided by n and not by Σ mask, as in FixMatch: where few examples are confident,
    the loss is small.

    Args:
      logits: (n, K).
      labels: (n,) class indices.
      mask: (n,) in [0, 1].

    Returns:
      A scalar in nats.
    """
    return -jnp.mean(mask * losses.label_log_probabilities(logits, labels))


def squared_distance(p: jax.Array, q: jax.Array) -> jax.Array:
    """(p − q)², mean over examples and classes, without ½.

    Args:
      p: (batch, K) probabilities.
      q: the same shape.

    Returns:
      A scalar: ‖p − q‖² / K, mean over the batch.
    """
    return jnp.mean(jnp.square(p - q))


def kl(p: jax.Array, logits: jax.Array) -> jax.Array:
    """KL(p ‖ softmax(logits)) of each example.

    Args:
      p: (batch, K) probabilities; 0 is allowed.
      logits: (batch, K) before the softmax.

    Returns:
      (batch,) in nats, float32 or wider, not a mean.
    """
    log_q = jax.nn.log_softmax(as_float32(logits))
    log_ratio = jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny)) - log_q
    return jnp.sum(p * log_ratio, axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnlabelledTerm(Term):
    """Base class of terms of one stream's predictions, for classification.

    Attributes:
      stream: name of the stream; its labels are not used.
    """

    stream: str = stream_field("unlabelled")

    def check(self, setup: Setup) -> None:
        checks.stream(setup, "stream", self.stream)
        checks.task(setup, type(self).__name__, "classification")
