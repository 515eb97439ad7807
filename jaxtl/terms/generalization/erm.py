"""Empirical risk minimisation over pooled domains: the baseline of them all."""

import dataclasses

from jaxtl.core.config import traced
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.generalization import base


@dataclasses.dataclass(frozen=True, kw_only=True)
class PooledERM(Term):
    """The mean over domains of each domain's mean cross-entropy, in nats.

    Every domain counts the same, however large its batch. All batches go through the
    model in one pass, so BatchNorm normalises them together. Reports the domains' mean
    accuracy, and that of the worst.

    Attributes:
      streams: of the labelled domains, two or more.
      label_smoothing: in [0, 1].

    References:
      Gulrajani & Lopez-Paz, In Search of Lost Domain Generalization, ICLR 2021: ERM,
      carefully tuned, is hard to beat.
    """

    streams: tuple[str, ...] = ()
    label_smoothing: float = traced(0.0)

    def check(self, setup: Setup):
        base.check(setup, "PooledERM", self.streams)
        checks.number(setup, "label_smoothing", self.label_smoothing, 0.0, 1.0)

    def __call__(self, context):
        logits = base.logits(context, self.streams)
        labels = base.labels(context, self.streams)
        value = base.risks(logits, labels, self.label_smoothing).mean()
        return value, base.accuracies(logits, labels)
