"""What the terms share: targets made of predictions, and how they are counted.

Probabilities and logits are (batch, classes); everything is computed in float32 (or
wider) whatever the model computes in. Targets are held constant.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term


def softmax(logits) -> jax.Array:
    """Returns probabilities, float32 or wider."""
    return jax.nn.softmax(wide(logits))


def held(logits) -> jax.Array:
    """Returns probabilities through which no gradient flows."""
    return jax.lax.stop_gradient(softmax(logits))


def wide(x) -> jax.Array:
    """Returns x in float32 or wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def sharpen(p, temperature) -> jax.Array:
    """p_c^(1/T) / Σ_k p_k^(1/T).

    Args:
      p: probabilities, (..., K).
      temperature: T > 0; 1 leaves p, towards 0 the largest takes all.

    References:
      Berthelot et al., MixMatch, NeurIPS 2019, eq. 7.
    """
    # Through logarithms: small powers of small numbers would underflow.
    tiny = jnp.finfo(p.dtype).tiny
    return jax.nn.softmax(jnp.log(jnp.maximum(p, tiny)) / temperature)


def selected(p, threshold) -> tuple[jax.Array, jax.Array]:
    """Returns (argmax p, 1 where max p ≥ threshold), (batch,) each.

    Args:
      p: probabilities, (batch, K).
      threshold: a number, or one per example.
    """
    return jnp.argmax(p, axis=-1), (p.max(-1) >= threshold).astype(p.dtype)


def masked_cross_entropy(logits, labels, mask) -> jax.Array:
    """1/n Σ_i mask_i · H(label_i, softmax(logits_i)), n the whole batch's size.

    Divided by n and not by Σ mask, as in FixMatch: few confident examples pull little.

    Args:
      logits: (n, K).
      labels: (n,) classes.
      mask: (n,) in [0, 1].
    """
    log_p = jax.nn.log_softmax(wide(logits))
    hit = jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
    return -jnp.mean(mask * hit)


def squared_distance(p, q) -> jax.Array:
    """(p − q)², mean over examples and classes, without ½; p and q are (batch, K)."""
    return jnp.mean(jnp.square(p - q))


def kl(p, logits) -> jax.Array:
    """KL(p ‖ softmax(logits)) per example, (batch,), in nats; p is (batch, K)."""
    gap = jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny)) - jax.nn.log_softmax(
        wide(logits)
    )
    return jnp.sum(p * gap, axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _OnUnlabelled(Term):
    """A term of one stream's predictions, for classification.

    Attributes:
      stream: name of the stream; its labels are not used.
    """

    stream: str = "unlabelled"

    @property
    def streams(self):
        return (self.stream,)

    def check(self, setup: Setup):
        checks.stream(setup, "stream", self.stream)
        checks.task(setup, type(self).__name__, "classification")
