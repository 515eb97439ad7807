"""Pseudo-labels: what the model believes most, taken for the truth."""

import dataclasses

from jaxtl import checks, schedules
from jaxtl.core import Schedule, Setup
from jaxtl.semi import targets

PAPER_RAMP = schedules.LinearRamp(final=3.0, start=0.1, end=0.6)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoLabel(targets._OnUnlabelled):
    """Cross-entropy of the unlabelled batch against its own most likely classes.

    Labels and predictions are of one and the same pass, so a step costs one pass more.
    The value is `targets.masked_cross_entropy`. Reports "mask", the share that counts,
    and "confidence", the mean largest probability.

    Attributes:
      weight: α(t); by default the paper's: 0, then straight up to 3. (The paper counts
        epochs, T₁ = 100 and T₂ = 600; here a tenth and six tenths of the run.)
      threshold: examples whose largest probability is below it don't count; the
        paper's 0 counts all.
      stream: name of the stream; its labels are not used.

    References:
      Lee, Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for
      Deep Neural Networks, ICML 2013 workshops, eq. 14 to 16.
    """

    weight: float | Schedule = PAPER_RAMP
    threshold: float = 0.0

    def check(self, setup: Setup):
        super().check(setup)
        checks.number(setup, "threshold", self.threshold, 0.0, 1.0)

    def __call__(self, context):
        logits = context.forward(self.stream).logits
        p = targets.held(logits)
        labels, mask = targets.selected(p, self.threshold)
        value = targets.masked_cross_entropy(logits, labels, mask)
        return value, {"mask": mask.mean(), "confidence": p.max(-1).mean()}
