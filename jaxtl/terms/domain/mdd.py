"""MDD: an auxiliary classifier that agrees on the source and not on the target."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.types import vectors
from jaxtl.optim import schedules
from jaxtl.optim.schedules import Schedule
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.domain import adversarial, domain_pair

PAPER_RAMP = schedules.Ramp(final=0.1, gamma=10.0)


def log_other(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """log(1 − σ_y(z)), the log-probability of every class but y, without cancellation.

    Args:
      logits: z, (batch, K), K ≥ 2.
      labels: y, (batch,) class indices.

    Returns:
      (batch,), at most 0.
    """
    chosen = jnp.arange(logits.shape[-1]) == labels[:, None]
    rest = jax.nn.logsumexp(jnp.where(chosen, -jnp.inf, logits), axis=-1)
    return rest - jax.nn.logsumexp(logits, axis=-1)


def margin_disparity(source, source_labels, target, target_labels, margin=4.0):
    """γ · E_S[−log σ_h(f′)] + E_T[−log(1 − σ_h(f′))], what the auxiliary f′ lowers.

    Args:
      source: logits of f′ in the labelled domain, (n, K).
      source_labels: h, what the classifier predicts there, (n,).
      target, target_labels: the same in the other domain, (m, K) and (m,).
      margin: γ = exp ρ, ρ the paper's margin; may be traced.

    Returns:
      A scalar in nats: −γ times the source's part of the paper's disparity, and minus
      the target's.

    References:
      Zhang et al., Bridging Theory and Algorithm for Domain Adaptation, ICML 2019,
      section 4.
    """
    agree = losses.cross_entropy(source, source_labels)
    return margin * agree - jnp.mean(log_other(target, target_labels))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MDD(Term):
    """`margin_disparity` of an auxiliary classifier, its gradient reversed.

    The classifier is the model's head (train it by a task loss on the source), the
    auxiliary one is this term's own: it learns to predict as the head does on the
    source and otherwise on the target; the features below unlearn what lets it. No
    gradient reaches the head. Reports how often both agree in each domain.

    Attributes:
      source: stream of the labelled domain.
      target: stream of the other domain; its labels are not used.
      widths: of the auxiliary classifier's hidden layers (the paper's is 1024).
      margin: γ, the source's weight, exp of the paper's margin.
      reversal: λ of the reversed gradient, a number or a schedule (the paper's rises
        to 0.1).

    References:
      As `margin_disparity`; γ = 4.
    """

    source: str = "source"
    target: str = "unlabelled"
    widths: tuple[int, ...] = (64,)
    margin: float = traced(4.0)
    reversal: float | Schedule = traced(PAPER_RAMP)

    @property
    def streams(self):
        return (self.source, self.target)

    def check(self, setup: Setup):
        checks.task(setup, "MDD", "classification")
        adversarial.check(setup, self.source, self.target, self.widths, self.reversal)
        adversarial.needs_body(setup, "MDD")
        checks.number(setup, "margin", self.margin, 0.0)
        if setup.program.outputs < 2:
            raise UserError(
                f"terms.{setup.name}: MDD tells classes apart, and the data have one."
            )

    def init(self, key, setup):
        width = adversarial.width(setup, setup.program.network.stages[-2])
        return adversarial.discriminator_init(
            key, (width, *self.widths), setup.program.outputs
        )

    def __call__(self, context):
        scale = schedules.value(self.reversal, context.step, context.steps)
        below = context.program.network.stages[-2]

        def domain(stream: str):
            out = context.forward(stream)
            feature = domain_pair.feature(context, stream, below)
            feature = adversarial.reverse_gradient(feature, scale)
            logits = adversarial.perceptron(context.term_params, feature)
            labels = jnp.argmax(vectors(out.logits), axis=-1)
            same = jnp.argmax(logits, axis=-1) == labels
            return logits, labels, jnp.mean(same.astype(jnp.float32))

        *source, source_same = domain(self.source)
        *target, target_same = domain(self.target)
        value = margin_disparity(*source, *target, self.margin)
        return value, {"source_agree": source_same, "target_agree": target_same}
