"""Pseudo-labels: the model's most likely classes as labels."""

import dataclasses
import math

import jax

from jaxtl.core.config import traced
from jaxtl.optim import schedules
from jaxtl.optim.schedules import Schedule
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.semi import pseudo_targets

PAPER_RAMP = schedules.LinearRamp(final=3.0, start=0.1, end=0.6)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoLabel(pseudo_targets.UnlabelledTerm):
    """Cross-entropy of the unlabelled batch against its most likely classes.

    Labels and predictions come from the same pass, so a step costs one pass more. The
    value is `pseudo_targets.masked_cross_entropy`. Reports "mask", the share of
    examples that count, and "confidence", the mean largest probability.

    Attributes:
      weight: α(t); by default the paper's: 0, then linearly up to 3. (The paper counts
        epochs, T₁ = 100 and T₂ = 600; here a tenth and six tenths of the run.)
      threshold: examples whose largest probability is below it don't count; the
        paper's 0 counts all.
      stream: name of the stream; its labels are not used.

    References:
      Lee, Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for
      Deep Neural Networks, ICML 2013 workshops, eq. 14 to 16.
    """

    weight: float | Schedule = traced(PAPER_RAMP, low=-math.inf)
    threshold: float = traced(0.0)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.number(setup, "threshold", self.threshold, 0.0, 1.0)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        logits = context.forward(self.stream).logits
        p = pseudo_targets.target_probabilities(logits)
        labels, mask = pseudo_targets.pseudo_labels(p, self.threshold)
        value = pseudo_targets.masked_cross_entropy(logits, labels, mask)
        return value, {"mask": mask.mean(), "confidence": p.max(-1).mean()}
