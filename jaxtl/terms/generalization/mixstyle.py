"""MixStyle: features whose style, mean and deviation, is mixed between domains."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.types import Tokens
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.generalization import base

EPSILON = 1e-6


def statistics(x, mask: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Returns mean and standard deviation over places, per example and channel.

    Args:
      x: (batch, …, channels). A matrix (batch, width) counts as one channel in `width`
        places.
      mask: (batch, places) for x of three axes: which places count; None for all.

    Returns:
      Two arrays of x's axes, of length 1 at the places. The variance is divided by
      n − 1 and has 1e-6 added.
    """
    axes = tuple(range(1, x.ndim - 1)) or (1,)
    ones = jnp.ones(x.shape[1:-1] or x.shape[1:], x.dtype)
    count = ones if mask is None else mask[..., None].astype(x.dtype)
    if mask is None:
        count = count.reshape(1, *ones.shape, *(1,) * (x.ndim - 1 - ones.ndim))
    total = count.sum(axes, keepdims=True)
    mean = (x * count).sum(axes, keepdims=True) / jnp.maximum(total, 1)
    squares = (jnp.square(x - mean) * count).sum(axes, keepdims=True)
    return mean, jnp.sqrt(squares / jnp.maximum(total - 1, 1) + EPSILON)


def mix_styles(x, partner: jax.Array, share: jax.Array, mask=None) -> jax.Array:
    """Normalises each example and gives it the style mixed of its own and a partner's.

    (x − μ)/σ · (λσ + (1 − λ)σ′) + λμ + (1 − λ)μ′; no gradient flows through μ and σ.

    Args:
      x: (batch, …, channels).
      partner: (batch,) row numbers.
      share: λ, (batch,).
      mask: as in `statistics`.
    """
    mean, deviation = jax.lax.stop_gradient(statistics(x, mask))
    share = share.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype)
    new_mean = share * mean + (1 - share) * mean[partner]
    new_deviation = share * deviation + (1 - share) * deviation[partner]
    return (x - mean) / deviation * new_deviation + new_mean


def partners(key: jax.Array, domain: jax.Array) -> jax.Array:
    """Returns for each example a row drawn from all that are of other domains.

    Args:
      key: PRNG key.
      domain: (batch,) the examples' domains; two or more different ones.
    """
    scores = jax.random.uniform(key, (len(domain), len(domain)))
    return jnp.argmax(jnp.where(domain[:, None] == domain, -1.0, scores), axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixStyle(Term):
    """The domains' mean cross-entropy of a pass in which styles are mixed.

    A task term by itself. After each of `stages`, with probability p, every example's
    style is mixed (`mix_styles`) with that of an example of another domain, with λ
    drawn from Beta(α, α) for each. Nothing is mixed at evaluation. Reports accuracies
    of this pass.

    Attributes:
      streams: of the labelled domains, two or more.
      stages: whose outputs to mix; None is the second and the third of four or more
        before the head (a ResNet's first two after its stem), else the first.
      alpha: α > 0 of the Beta distribution.
      probability: p, of mixing at a stage in a step.

    References:
      Zhou et al., Domain Generalization with MixStyle, ICLR 2021, eq. 3 to 6, with
      "cross-domain" partners; α = 0.1 and p = 0.5 there, after the first two or three
      stages of a ResNet.
    """

    streams: tuple[str, ...] = ()
    stages: tuple[str, ...] | None = None
    alpha: float = traced(0.1)
    probability: float = traced(0.5)

    def check(self, setup: Setup):
        base.check(setup, "MixStyle", self.streams)
        checks.number(setup, "alpha", self.alpha, 1e-3)
        checks.number(setup, "probability", self.probability, 0.0, 1.0)
        stages = self._stages(setup.program.network)
        for stage in stages:
            checks.stage(setup, "stages", stage)
        names = setup.program.network.stages
        if not stages or names[-1] in stages:
            raise UserError(
                f"{checks.where(setup, 'stages')}={self.stages!r}: expected stages "
                f"before the head ({', '.join(names[:-1]) or 'none'})."
            )

    def describe(self, setup: Setup):
        return f"styles mixed after {', '.join(self._stages(setup.program.network))}"

    def _stages(self, network) -> tuple[str, ...]:
        if self.stages is not None:
            return tuple(s for s in network.stages if s in self.stages) or self.stages
        body = network.stages[:-1]
        return body[1:3] if len(body) > 3 else body[:1]

    def __call__(self, context):
        sizes = [len(context.batches[name]["y"]) for name in self.streams]
        domain = np.repeat(np.arange(len(sizes)), sizes)
        out = self._run(context, domain)
        ends = np.cumsum(sizes)[:-1]
        logits = dict(zip(self.streams, jnp.split(out.logits, ends)))
        labels = base.labels(context, self.streams)
        value = base.risks(logits, labels).mean()
        return value, base.accuracies(logits, labels)

    def _run(self, context, domain):
        """Returns the pass with mixing, which may begin from cached features."""
        names, stages = (
            context.program.network.stages,
            self._stages(context.program.network),
        )
        x, at = self._entry(context, names.index(stages[0]))
        out = None
        for i, stage in enumerate((*stages, names[-1])):
            key, dropout = jax.random.split(jax.random.fold_in(context.key, i))
            end = names.index(stage)
            if at <= end:
                start = names[at] if at else None
                out = context.run(x, key=dropout, start=start, stop=stage)
                context.keep_stats(out.stats, *self.streams)
                x, at = out.logits, end + 1
            if stage in stages:
                x = self._mixed(key, x, domain)
        return out

    def _entry(self, context, first: int):
        """Returns (inputs of all domains, number of the stage that reads them)."""
        names = context.program.network.stages
        entries = [context.entry(stream) for stream in self.streams]
        at = names.index(entries[0][1]) if entries[0][1] else 0
        found = [x for x, _ in entries]
        if at > first + 1:  # what is cached lies beyond the first mixing
            found, at = [context.batches[name]["x"] for name in self.streams], 0
        return jax.tree.map(lambda *xs: jnp.concatenate(xs), *found), at

    def _mixed(self, key, feature, domain):
        draw, beta, coin = jax.random.split(key, 3)
        partner = partners(draw, domain)
        share = jax.random.beta(beta, self.alpha, self.alpha, domain.shape)
        # λ = 1 leaves an example as it is, up to rounding.
        share = jnp.where(jax.random.uniform(coin) < self.probability, share, 1.0)
        if isinstance(feature, Tokens):
            mixed = mix_styles(feature.states, partner, share, feature.mask)
            return feature._replace(states=mixed)
        return mix_styles(feature, partner, share)
