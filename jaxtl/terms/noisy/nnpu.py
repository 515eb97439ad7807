"""nnPU: some positives are labelled, and everything else might be either."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term


def margin(logits: jax.Array, positive: int) -> jax.Array:
    """Returns g (batch,) = log p(positive) / p(not), above 0 where it is likelier.

    Of two outputs it is the difference, of one the logit itself.
    """
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if wide.shape[-1] == 1:
        return wide[:, 0]
    rest = jnp.delete(wide, positive, axis=-1, assume_unique_indices=True)
    return wide[:, positive] - jax.nn.logsumexp(rest, axis=-1)


def non_negative_risk(
    positives, weights, unlabelled, prior, beta=0.0, gamma=1.0
) -> tuple[jax.Array, jax.Array]:
    """The positive-unlabelled risk with the sigmoid loss ℓ(g, t) = 1 / (1 + e^{tg}).

    With R⁺ = π · mean_P ℓ(g, +1) and R⁻ = mean_U ℓ(g, −1) − π · mean_P ℓ(g, −1), the
    value is R⁺ + R⁻ while R⁻ ≥ −β. Below, the value is R⁺ − β and its gradient that of
    −γ · R⁻, which leads back up.

    Args:
      positives: (n,), g of labelled examples.
      weights: (n,), 1 for those of them that are positives; with none at all R⁺ and
        the correction are 0.
      unlabelled: (m,), g of unlabelled ones.
      prior: π, the share of positives among the unlabelled.
      beta: β ≥ 0, how far below 0 the negative risk may fall.
      gamma: γ in [0, 1], the pace of going back.

    Returns:
      (value, R⁻).

    References:
      Kiryo et al., Positive-Unlabeled Learning with Non-Negative Risk Estimator,
      NeurIPS 2017, eq. 6 and algorithm 1.
    """
    count = jnp.maximum(weights.sum(), 1.0)
    right = jnp.sum(weights * jax.nn.sigmoid(-positives)) / count
    wrong = jnp.sum(weights * jax.nn.sigmoid(positives)) / count
    negative = jnp.mean(jax.nn.sigmoid(unlabelled)) - prior * wrong
    above = negative >= -beta
    value = prior * right + jnp.where(above, negative, -beta)
    followed = jnp.where(above, prior * right + negative, -gamma * negative)
    return followed + jax.lax.stop_gradient(value - followed), negative


@dataclasses.dataclass(frozen=True, kw_only=True)
class NNPU(Term):
    """`non_negative_risk` of a labelled and an unlabelled stream.

    Of the labelled stream only the examples of the class `positive` are used, so any
    labelled data will do (`labels_per_class=` makes the other train rows the stream
    "unlabelled"); with more than two outputs it is that class against all others.
    Reports the negative risk and the share of unlabelled examples taken for positive.

    Attributes:
      stream: name of the stream that holds the positives.
      unlabelled: name of the stream of the others.
      positive: index of the positive class.
      prior: π, the share of positives among the unlabelled; must be known.
      beta, gamma: as in `non_negative_risk`; the paper takes 0 and 1.

    References:
      Kiryo, Niu, du Plessis & Sugiyama, Positive-Unlabeled Learning with Non-Negative
      Risk Estimator, NeurIPS 2017.
    """

    stream: str = "target"
    unlabelled: str = "unlabelled"
    positive: int = 1
    prior: float = traced(0.5)
    beta: float = traced(0.0)
    gamma: float = traced(1.0)

    @property
    def streams(self):
        return (self.stream, self.unlabelled)

    def check(self, setup: Setup):
        checks.stream(setup, "stream", self.stream)
        checks.stream(setup, "unlabelled", self.unlabelled)
        checks.task(setup, "NNPU", "classification")
        if not 0 <= self.positive < max(setup.program.outputs, 2):
            raise UserError(
                f"{checks.where(setup, 'positive')}={self.positive!r}: expected a "
                f"class from 0 to {max(setup.program.outputs, 2) - 1}."
            )
        checks.number(setup, "prior", self.prior, 0.0, 1.0)
        checks.number(setup, "beta", self.beta, 0.0)
        checks.number(setup, "gamma", self.gamma, 0.0, 1.0)

    def __call__(self, context):
        labelled = context.forward(self.stream).logits
        others = margin(context.forward(self.unlabelled).logits, self.positive)
        is_positive = context.batches[self.stream]["y"] == self.positive
        value, negative = non_negative_risk(
            margin(labelled, self.positive),
            is_positive.astype(jnp.float32),
            others,
            self.prior,
            self.beta,
            self.gamma,
        )
        taken = jnp.mean((others > 0).astype(jnp.float32))
        return value, {"negative_risk": negative, "positive_share": taken}
