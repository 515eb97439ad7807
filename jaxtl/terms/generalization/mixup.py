"""Mixup across domains: inputs interpolated between two domains, with both labels."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.generalization import base


def random_cycle(key: jax.Array, count: int) -> jax.Array:
    """Draws a partner for each of `count` domains, never itself: int (count,).

    The domains are put in a random order on a circle; the partner is the next one.

    Args:
      key: PRNG key.
      count: number of domains, at least 2.

    Returns:
      The partner's number for each domain; no two have the same.
    """
    order = jax.random.permutation(key, count)
    return jnp.zeros(count, order.dtype).at[order].set(jnp.roll(order, -1))


def interpolate(first: jax.Array, second: jax.Array, share: jax.Array) -> jax.Array:
    """λ·first + (1 − λ)·second, with one λ for each index of the leading axis.

    Args:
      first, second: (domains, …) of equal shapes.
      share: λ, (domains,).

    Returns:
      The shape of `first`.
    """
    share = share.reshape(-1, *(1,) * (first.ndim - 1)).astype(first.dtype)
    return share * first + (1 - share) * second


@dataclasses.dataclass(frozen=True, kw_only=True)
class InterDomainMixup(base.MultiDomainTerm):
    """Cross-entropy of inputs mixed between pairs of domains, with both labels.

    A task term by itself: for each domain i, its partner j (`random_cycle`) and λ drawn
    from Beta(α, α), λ·CE(f(x), y_i) + (1 − λ)·CE(f(x), y_j) at x = λ·x_i + (1 − λ)·x_j;
    mean over examples and domains, in nats. One pass over all mixed batches. Batches of
    unequal size are cut to the smallest. Reports the accuracy by the label with the
    larger share.

    Attributes:
      streams: streams of the labelled domains, two or more.
      alpha: α > 0 of the Beta distribution.

    References:
      Yan et al., Improve Unsupervised Domain Adaptation with Mixup Training,
      arXiv:2001.00677 (2020); in the form of Gulrajani & Lopez-Paz, ICLR 2021, where
      α = 0.2.
    """

    alpha: float = traced(0.2)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.number(setup, "alpha", self.alpha, 1e-3)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        x, y, _ = base.stacked_batches(context, self.streams, inputs=True)
        if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.floating):
            raise UserError(
                f"terms.{context.name}: InterDomainMixup mixes inputs, and tokens "
                "can't be mixed; MixStyle mixes features, of text too."
            )
        partner_key, share_key, dropout_key = jax.random.split(context.key, 3)
        count = len(self.streams)
        partner = random_cycle(partner_key, count)
        share = jax.random.beta(share_key, self.alpha, self.alpha, (count,))
        mixed = interpolate(x, x[partner], share)
        output = context.run(mixed.reshape(-1, *mixed.shape[2:]), key=dropout_key)
        context.keep_stats(output.stats, *self.streams)
        logits = output.logits.reshape(*mixed.shape[:2], -1)
        risks = jax.vmap(losses.cross_entropy)
        first, second = risks(logits, y), risks(logits, y[partner])
        value = jnp.mean(share * first + (1 - share) * second)
        is_first = share.reshape(-1, *(1,) * (y.ndim - 1)) >= 0.5
        labels = jnp.where(is_first, y, y[partner])
        labels = jnp.argmax(labels, axis=-1) if y.ndim == logits.ndim else labels
        hits = jnp.argmax(logits, axis=-1) == labels
        return value, {"accuracy": jnp.mean(hits.astype(jnp.float32))}
