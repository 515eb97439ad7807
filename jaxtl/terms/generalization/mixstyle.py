"""MixStyle: features whose style, mean and deviation, is mixed between domains."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, Output, PyTree, Tokens
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.generalization import base

EPSILON = 1e-6


def style_statistics(
    x: jax.Array, mask: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation over positions, per example and channel.

    Args:
      x: (batch, …, channels). A matrix (batch, width) counts as one channel at `width`
        positions.
      mask: (batch, positions) for x of three axes: which positions count; None for all.

    Returns:
      Two arrays with x's axes, of length 1 at the positions. The variance is divided by
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


def mix_styles(
    x: jax.Array,
    partner: jax.Array,
    share: jax.Array,
    mask: jax.Array | None = None,
) -> jax.Array:
    """Gives each example a style mixed from its own and its partner's.

    (x − μ)/σ · (λσ + (1 − λ)σ′) + λμ + (1 − λ)μ′; no gradient flows through μ and σ.

    Args:
      x: (batch, …, channels).
      partner: (batch,) row numbers.
      share: λ, (batch,).
      mask: as in `style_statistics`.

    Returns:
      The shape of x.
    """
    mean, deviation = jax.lax.stop_gradient(style_statistics(x, mask))
    share = share.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype)
    new_mean = share * mean + (1 - share) * mean[partner]
    new_deviation = share * deviation + (1 - share) * deviation[partner]
    return (x - mean) / deviation * new_deviation + new_mean


def draw_partners(key: jax.Array, domain: jax.Array | np.ndarray) -> jax.Array:
    """Draws for each example a row of another domain.

    Args:
      key: PRNG key.
      domain: (batch,) the examples' domains; two or more different ones.

    Returns:
      (batch,) row numbers.
    """
    scores = jax.random.uniform(key, (len(domain), len(domain)))
    return jnp.argmax(jnp.where(domain[:, None] == domain, -1.0, scores), axis=1)


def mix_domain_styles(
    key: jax.Array,
    feature: Any,
    domain: jax.Array | np.ndarray,
    alpha: float | jax.Array,
    probability: float | jax.Array,
) -> Any:
    """Mixes each example's style with that of an example of another domain.

    Args:
      key: PRNG key.
      feature: a stage's output, (batch, …, channels) or `Tokens`.
      domain: (batch,) the examples' domains; two or more different ones.
      alpha: α of the Beta distribution that each example's λ is drawn from.
      probability: p; with 1 − p nothing is mixed.

    Returns:
      The mixed output, of the type and shape of `feature`.
    """
    partner_key, share_key, coin_key = jax.random.split(key, 3)
    partner = draw_partners(partner_key, domain)
    share = jax.random.beta(share_key, alpha, alpha, domain.shape)
    # λ = 1 leaves an example as it is, up to rounding.
    share = jnp.where(jax.random.uniform(coin_key) < probability, share, 1.0)
    if isinstance(feature, Tokens):
        states = mix_styles(feature.states, partner, share, feature.mask)
        return feature._replace(states=states)
    return mix_styles(feature, partner, share)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixStyle(base.MultiDomainTerm):
    """The domains' mean cross-entropy of a pass in which styles are mixed.

    A task term by itself. After each of `stages`, with probability p, every example's
    style is mixed (`mix_styles`) with that of an example of another domain, with λ
    drawn from Beta(α, α) for each. Nothing is mixed at evaluation. Reports accuracies
    of this pass.

    Attributes:
      streams: streams of the labelled domains, two or more.
      stages: stages after which to mix; None is the second and the third of four or
        more before the head (a ResNet's first two after its stem), else the first.
      alpha: α > 0 of the Beta distribution.
      probability: p, of mixing at a stage in a step.

    References:
      Zhou et al., Domain Generalization with MixStyle, ICLR 2021, eq. 3 to 6, with
      "cross-domain" partners; α = 0.1 and p = 0.5 there, after the first two or three
      stages of a ResNet.
    """

    compares: ClassVar[str] = "the styles of two examples"

    stages: tuple[str, ...] | None = None
    alpha: float = traced(0.1)
    probability: float = traced(0.5)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.number(setup, "alpha", self.alpha, 1e-3)
        checks.number(setup, "probability", self.probability, 0.0, 1.0)
        stages = self._stage_names(setup.program.network)
        for stage in stages:
            checks.stage(setup, "stages", stage)
        names = setup.program.network.stages
        if not stages or names[-1] in stages:
            raise UserError(
                f"{checks.where(setup, 'stages')}={self.stages!r}: expected stages "
                f"before the head ({', '.join(names[:-1]) or 'none'})."
            )

    def describe(self, setup: Setup) -> str:
        stages = self._stage_names(setup.program.network)
        return f"styles mixed after {', '.join(stages)}"

    def _stage_names(self, network: Network) -> tuple[str, ...]:
        if self.stages is not None:
            return tuple(s for s in network.stages if s in self.stages) or self.stages
        body = network.stages[:-1]
        return body[1:3] if len(body) > 3 else body[:1]

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        sizes = [len(context.batches[name]["y"]) for name in self.streams]
        output = self._mixed_pass(context, np.repeat(np.arange(len(sizes)), sizes))
        bounds = np.cumsum(sizes)[:-1]
        logits = dict(zip(self.streams, jnp.split(output.logits, bounds)))
        labels = base.domain_labels(context, self.streams)
        value = base.risks(logits, labels).mean()
        return value, base.accuracies(logits, labels)

    def _mixed_pass(self, context: View, domain: np.ndarray) -> Output:
        """Runs the stages with mixing in between, from cached features where possible.

        Args:
          context: of the step.
          domain: (batch,) domain of each example of the pooled batch.
        """
        names = context.program.network.stages
        stages = self._stage_names(context.program.network)
        x, index = self._entry(context, names.index(stages[0]))

        def run(x: PyTree, index: int, stop: str, key: jax.Array) -> Output:
            start = names[index] if index else None
            output = context.run(x, key=key, start=start, stop=stop)
            context.keep_stats(output.stats, *self.streams)
            return output

        for i, stage in enumerate(stages):
            mix_key, dropout_key = jax.random.split(jax.random.fold_in(context.key, i))
            if index <= names.index(stage):
                x = run(x, index, stage, dropout_key).logits
                index = names.index(stage) + 1
            x = mix_domain_styles(mix_key, x, domain, self.alpha, self.probability)
        _, dropout_key = jax.random.split(jax.random.fold_in(context.key, len(stages)))
        return run(x, index, names[-1], dropout_key)

    def _entry(self, context: View, first: int) -> tuple[PyTree, int]:
        """Inputs of the pooled batch, and the index of the stage that reads them.

        Args:
          context: of the step.
          first: index of the first stage after which styles are mixed.
        """
        names = context.program.network.stages
        entries = [context.entry(stream) for stream in self.streams]
        inputs, start = [x for x, _ in entries], entries[0][1]
        index = names.index(start) if start else 0
        if index > first + 1:  # the cached features lie beyond the first mixing
            inputs, index = [context.batches[name]["x"] for name in self.streams], 0
        return jax.tree.map(lambda *xs: jnp.concatenate(xs), *inputs), index
