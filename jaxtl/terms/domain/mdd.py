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
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.domain import adversarial
from jaxtl.terms.domain.domain_pair import stream_vectors

# η of the authors' program: a tenth of `adversarial.REVERSAL`.
REVERSAL = schedules.Ramp(final=0.1, gamma=10.0, per_steps=10_000.0)


def log_complement(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """log(1 − σ_y(z)), the log-probability of all classes but y, without cancellation.

    Args:
      logits: z, (batch, K), K ≥ 2.
      labels: y, (batch,) class indices.

    Returns:
      (batch,), at most 0.
    """
    is_label = jnp.arange(logits.shape[-1]) == labels[:, None]
    without_label = jnp.where(is_label, -jnp.inf, logits)
    return jax.nn.logsumexp(without_label, axis=-1) - jax.nn.logsumexp(logits, axis=-1)


def margin_disparity(
    source: jax.Array,
    source_labels: jax.Array,
    target: jax.Array,
    target_labels: jax.Array,
    margin: float | jax.Array = 4.0,
) -> jax.Array:
    """γ · E_S[−log σ_h(f′)] + E_T[−log(1 − σ_h(f′))], which the auxiliary f′ lowers.

    Args:
      source: logits of f′ in the labelled domain, (n, K).
      source_labels: h, the classifier's predictions there, (n,).
      target, target_labels: the same in the other domain, (m, K) and (m,).
      margin: γ = exp ρ, ρ the paper's margin; may be traced.

    Returns:
      A scalar in nats: −γ times the source's part of the paper's disparity, and minus
      the target's.

    References:
      Zhang et al., Bridging Theory and Algorithm for Domain Adaptation, ICML 2019,
      section 4.
    """
    agreement = losses.cross_entropy(source, source_labels)
    return margin * agreement - jnp.mean(log_complement(target, target_labels))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MDD(adversarial.AuxiliaryClassifierTerm):
    """`margin_disparity` of an auxiliary classifier, its gradient reversed.

    The classifier is the model's head (train it by a task loss on the source); the
    auxiliary one belongs to this term. It learns to predict as the head does on the
    source and differently on the target; the features below learn to prevent that. No
    gradient reaches the head. Reports how often both agree in each domain.

    Attributes:
      source: stream of the labelled domain.
      target: stream of the other domain; its labels are not used.
      widths, dropout, norm, initializer: of the auxiliary classifier, as in
        `adversarial.PerceptronTerm`; the authors' program has widths=(1024,),
        dropout=0.5, initializer=0.01.
      margin: γ, the source's weight, exp of the paper's margin.
      reversal: λ of the reversed gradient, a number or a schedule (the authors'
        rises to 0.1 with the number of steps).

    References:
      As `margin_disparity`; γ = 4.
    """

    margin: float = traced(4.0)
    reversal: float | Schedule = traced(REVERSAL)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.number(setup, "reversal", self.reversal, 0.0)
        checks.number(setup, "margin", self.margin, 0.0)
        if setup.program.outputs < 2:
            raise UserError(
                f"terms.{setup.name}: MDD needs at least 2 classes, and the data have "
                f"{setup.program.outputs}."
            )

    def _predictions(
        self, context: View, stream: str
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Auxiliary logits, the head's predicted classes, and their agreement."""
        scale = schedules.value(self.reversal, context.step, context.steps)
        stage = context.program.network.stages[-2]
        features = stream_vectors(context, stream, stage)
        features = adversarial.reverse_gradient(features, scale)
        logits = self.second_logits(context, features, stream)
        labels = jnp.argmax(vectors(context.forward(stream).logits), axis=-1)
        agreement = jnp.argmax(logits, axis=-1) == labels
        return logits, labels, jnp.mean(agreement.astype(jnp.float32))

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        source, source_labels, source_agreement = self._predictions(
            context, self.source
        )
        target, target_labels, target_agreement = self._predictions(
            context, self.target
        )
        value = margin_disparity(
            source, source_labels, target, target_labels, self.margin
        )
        return value, {
            "source_agree": source_agreement,
            "target_agree": target_agreement,
        }
