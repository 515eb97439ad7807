"""Empirical risk minimization over pooled domains: the baseline."""

import dataclasses

import jax

from jaxtl.core.config import traced
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.generalization import base


@dataclasses.dataclass(frozen=True, kw_only=True)
class PooledERM(base.MultiDomainTerm):
    """The mean over domains of each domain's mean cross-entropy, in nats.

    Every domain counts the same, whatever the size of its batch. All batches go through
    the model in one pass, so BatchNorm normalizes them together. Reports the domains'
    mean accuracy, and that of the worst.

    Attributes:
      streams: streams of the labelled domains, two or more.
      label_smoothing: in [0, 1].

    References:
      Gulrajani & Lopez-Paz, In Search of Lost Domain Generalization, ICLR 2021: ERM,
      carefully tuned, is hard to beat.
    """

    label_smoothing: float = traced(0.0)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.number(setup, "label_smoothing", self.label_smoothing, 0.0, 1.0)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        logits = base.domain_logits(context, self.streams)
        labels = base.domain_labels(context, self.streams)
        value = base.risks(logits, labels, self.label_smoothing).mean()
        return value, base.accuracies(logits, labels)
