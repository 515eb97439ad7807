"""MCD: two classifiers that disagree where the target differs from the source."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.types import vectors
from jaxtl.optim import schedules
from jaxtl.optim.schedules import Schedule
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.domain import adversarial
from jaxtl.terms.domain.domain_pair import stage_vectors, stream_vectors


def discrepancy(first: jax.Array, second: jax.Array) -> jax.Array:
    """Mean over examples of (1/K) Σ_c |p_c − q_c|, p and q the softmaxes.

    Args:
      first, second: logits of two classifiers, (batch, K).

    Returns:
      A scalar in [0, 2/K].

    References:
      Saito et al., Maximum Classifier Discrepancy for Unsupervised Domain Adaptation,
      CVPR 2018.
    """
    return jnp.mean(jnp.abs(jax.nn.softmax(first) - jax.nn.softmax(second)))


def _head_logits(context: View, feature: Any) -> jax.Array:
    """Logits of the model's head on another input than its own, (batch, K)."""
    program = context.program
    output = program.network.apply(
        context.params,
        context.stats,
        feature,
        start=program.network.stages[-1],
        train=program.train_stages,
        frozen_stats=program.frozen_stats,
        key=context.key,
    )
    return vectors(output.logits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MCD(adversarial.AuxiliaryClassifierTerm):
    """Second classifier's source loss − the two classifiers' discrepancy on the target.

    The first classifier is the model's head (train it by a task loss on the source);
    the second one belongs to this term. Both raise their discrepancy on the target; the
    features below lower it, since its gradient is reversed before it meets them. The
    paper alternates between one step of the classifiers and up to four steps of the
    features; here both are one step, in which `reversal` above 1 strengthens the
    features' part. Reports the discrepancy, the second classifier's source loss in
    nats, and the share of target examples on which both agree.

    Attributes:
      source: stream of the labelled domain.
      target: stream of the other domain; its labels are not used.
      widths, dropout, norm, initializer: of the second classifier, as in
        `adversarial.PerceptronTerm`.
      reversal: λ of the reversed gradient, a number or a schedule.

    References:
      Saito et al., Maximum Classifier Discrepancy for Unsupervised Domain Adaptation,
      CVPR 2018.
    """

    reversal: float | Schedule = traced(1.0)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.labelled(setup, "source", self.source)
        checks.classes(setup, "source", self.source)
        checks.number(setup, "reversal", self.reversal, 0.0)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        scale = schedules.value(self.reversal, context.step, context.steps)
        network = context.program.network
        stage = network.stages[-2]
        source = stream_vectors(context, self.source, stage)
        source_loss = losses.cross_entropy(
            self.second_logits(context, source, self.source),
            context.batches[self.source]["y"],
        )
        feature = context.forward(self.target).features[stage]
        feature = adversarial.reverse_feature_gradient(feature, scale)
        first = _head_logits(context, feature)
        target = stage_vectors(network, stage, feature)
        second = self.second_logits(context, target, self.target)
        difference = discrepancy(first, second)
        agreement = jnp.argmax(first, axis=-1) == jnp.argmax(second, axis=-1)
        return source_loss - difference, {
            "discrepancy": difference,
            "second": source_loss,
            "agreement": jnp.mean(agreement.astype(jnp.float32)),
        }
