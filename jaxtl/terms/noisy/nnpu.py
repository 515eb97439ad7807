"""Non-negative PU learning: some positives are labelled, the others are unlabelled."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup, Term, stream_field
from jaxtl.terms.context import View
from jaxtl.terms.weighted_mean import WeightedMean, weighted_mean


def margin(logits: jax.Array, positive: int) -> jax.Array:
    """g = log p(positive) − log p(any other class), above 0 where positive is likelier.

    With two outputs it is their difference, with one output the logit itself.

    Args:
      logits: (batch, K).
      positive: index of the positive class.

    Returns:
      (batch,), float32 or wider.
    """
    logits = trees.as_float32(logits)
    if logits.shape[-1] == 1:
        return logits[:, 0]
    negatives = jnp.delete(logits, positive, axis=-1, assume_unique_indices=True)
    return logits[:, positive] - jax.nn.logsumexp(negatives, axis=-1)


def non_negative_risk(
    positives: jax.Array,
    weights: jax.Array,
    unlabelled: jax.Array,
    prior: jax.Array | float,
    beta: jax.Array | float = 0.0,
    gamma: jax.Array | float = 1.0,
    mean: WeightedMean = weighted_mean,
) -> tuple[jax.Array, jax.Array]:
    """The positive-unlabelled risk with the sigmoid loss ℓ(g, t) = 1 / (1 + e^{tg}).

    With R⁺ = π · mean_P ℓ(g, +1) and R⁻ = mean_U ℓ(g, −1) − π · mean_P ℓ(g, −1), the
    value is R⁺ + R⁻ while R⁻ ≥ −β. Below, the value is R⁺ − β and its gradient that of
    −γ · R⁻, which increases R⁻.

    Args:
      positives: (n,), g of labelled examples.
      weights: (n,), 1 for those of them that are positives, 0 for the others; without
        any positive R⁺ and the correction are 0.
      unlabelled: (m,), g of unlabelled ones.
      prior: π, the share of positives among the unlabelled.
      beta: β ≥ 0, how far below 0 the negative risk may fall.
      gamma: γ in [0, 1], factor of the gradient that corrects it.
      mean: over the positives; `View.mean` where a batch is cut.

    Returns:
      (value, R⁻).

    References:
      Kiryo et al., Positive-Unlabeled Learning with Non-Negative Risk Estimator,
      NeurIPS 2017, eq. 6 and algorithm 1.
    """
    as_positive = mean(jax.nn.sigmoid(-positives), weights)
    as_negative = mean(jax.nn.sigmoid(positives), weights)
    negative_risk = jnp.mean(jax.nn.sigmoid(unlabelled)) - prior * as_negative
    above = negative_risk >= -beta
    value = prior * as_positive + jnp.where(above, negative_risk, -beta)
    surrogate = jnp.where(
        above, prior * as_positive + negative_risk, -gamma * negative_risk
    )
    # The bracket is 0 and carries the gradient.
    return surrogate + jax.lax.stop_gradient(value - surrogate), negative_risk


@dataclasses.dataclass(frozen=True, kw_only=True)
class NNPU(Term):
    """`non_negative_risk` of a labelled and an unlabelled stream.

    Of the labelled stream only the examples of the class `positive` are used, so any
    labelled data can be read (with `labels_per_class=` the other train rows are the
    stream "unlabelled"); with more than two outputs it is that class against all
    others. Reports the negative risk, and the share of unlabelled examples predicted
    positive.

    Attributes:
      stream: name of the stream that holds the positives.
      unlabelled: name of the stream of unlabelled examples.
      positive: index of the positive class.
      prior: π, the share of positives among the unlabelled; must be known.
      beta, gamma: as in `non_negative_risk`; the paper takes 0 and 1.

    References:
      Kiryo, Niu, du Plessis & Sugiyama, Positive-Unlabeled Learning with Non-Negative
      Risk Estimator, NeurIPS 2017.
    """

    compares: ClassVar[str] = "the sign of the negative risk"

    stream: str = stream_field("target")
    unlabelled: str = stream_field("unlabelled")
    positive: int = 1
    prior: float = traced(0.5)
    beta: float = traced(0.0)
    gamma: float = traced(1.0)

    def check(self, setup: Setup) -> None:
        checks.labelled(setup, "stream", self.stream)
        checks.stream(setup, "unlabelled", self.unlabelled)
        checks.task(setup, "NNPU", "classification")
        checks.classes(setup, "stream", self.stream)
        last_class = max(setup.program.outputs, 2) - 1
        if not 0 <= self.positive <= last_class:
            raise UserError(
                f"{checks.where(setup, 'positive')}={self.positive!r}: expected a "
                f"class from 0 to {last_class}."
            )
        checks.number(setup, "prior", self.prior, 0.0, 1.0)
        checks.number(setup, "beta", self.beta, 0.0)
        checks.number(setup, "gamma", self.gamma, 0.0, 1.0)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        labelled = context.forward(self.stream).logits
        unlabelled = margin(context.forward(self.unlabelled).logits, self.positive)
        is_positive = context.batches[self.stream]["y"] == self.positive
        value, negative_risk = non_negative_risk(
            margin(labelled, self.positive),
            is_positive.astype(jnp.float32),
            unlabelled,
            self.prior,
            self.beta,
            self.gamma,
            context.mean,
        )
        positive_share = jnp.mean((unlabelled > 0).astype(jnp.float32))
        metrics = {"negative_risk": negative_risk, "positive_share": positive_share}
        return value, metrics
