"""Mixup across domains: examples between two domains, with both labels."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.generalization import base


def cycle(key: jax.Array, count: int) -> jax.Array:
    """Returns a partner for each of `count` domains, never itself: int (count,).

    The domains are put in a random order on a circle; the partner is the next one.
    """
    order = jax.random.permutation(key, count)
    return jnp.zeros(count, order.dtype).at[order].set(jnp.roll(order, -1))


def mix(first: jax.Array, second: jax.Array, share: jax.Array) -> jax.Array:
    """λ·first + (1 − λ)·second, with one λ for each entry of the leading axis.

    Args:
      first, second: (domains, …) of equal shapes.
      share: λ, (domains,).
    """
    share = share.reshape(-1, *(1,) * (first.ndim - 1)).astype(first.dtype)
    return share * first + (1 - share) * second


@dataclasses.dataclass(frozen=True, kw_only=True)
class InterDomainMixup(Term):
    """Cross-entropy of inputs mixed between pairs of domains, with both labels.

    A task term by itself: for each domain i, its partner j (`cycle`) and λ drawn from
    Beta(α, α), λ·CE(f(x), y_i) + (1 − λ)·CE(f(x), y_j) at x = λ·x_i + (1 − λ)·x_j; mean
    over examples and domains, in nats. One pass over all mixed batches. Batches of
    unequal size are cut to the smallest. Reports the accuracy by the label of the
    larger share.

    Attributes:
      streams: of the labelled domains, two or more.
      alpha: α > 0 of the Beta distribution.

    References:
      Yan et al., Improve Unsupervised Domain Adaptation with Mixup Training,
      arXiv:2001.00677 (2020); in the form of Gulrajani & Lopez-Paz, ICLR 2021, where
      α = 0.2.
    """

    streams: tuple[str, ...] = ()
    alpha: float = traced(0.2)

    def check(self, setup: Setup):
        base.check(setup, "InterDomainMixup", self.streams)
        checks.number(setup, "alpha", self.alpha, 1e-3)

    def __call__(self, context):
        x, y, _ = base.equal(context, self.streams, inputs=True)
        if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.floating):
            raise UserError(
                f"terms.{context.name}: InterDomainMixup mixes inputs, and tokens "
                "can't be mixed; MixStyle mixes features, of text too."
            )
        order, beta, dropout = jax.random.split(context.key, 3)
        count = len(self.streams)
        other = cycle(order, count)
        share = jax.random.beta(beta, self.alpha, self.alpha, (count,))
        mixed = mix(x, x[other], share)
        out = context.run(mixed.reshape(-1, *mixed.shape[2:]), key=dropout)
        context.keep_stats(out.stats, *self.streams)
        logits = out.logits.reshape(*mixed.shape[:2], -1)
        entropy = jax.vmap(losses.cross_entropy)
        own, partner = entropy(logits, y), entropy(logits, y[other])
        value = jnp.mean(share * own + (1 - share) * partner)
        main = jnp.where(share.reshape(-1, *(1,) * (y.ndim - 1)) >= 0.5, y, y[other])
        main = jnp.argmax(main, axis=-1) if y.ndim == logits.ndim else main
        hits = jnp.argmax(logits, axis=-1) == main
        return value, {"accuracy": jnp.mean(hits.astype(jnp.float32))}
