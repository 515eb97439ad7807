"""Domain-adversarial training: features from which no domain can be told."""

import dataclasses

from jaxtl.core.config import traced
from jaxtl.optim import schedules
from jaxtl.optim.schedules import Schedule
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, feature_stage
from jaxtl.terms.domain import adversarial, domain_pair
from jaxtl.terms.domain.adversarial import PAPER_RAMP


@dataclasses.dataclass(frozen=True, kw_only=True)
class DANN(Term):
    """Discriminator's cross-entropy, its gradient reversed before it meets the model.

    The value is ½ · (mean over the source batch + mean over the other), in nats; log 2
    is chance. `weight` multiplies the whole term, so also the discriminator's own
    gradient; `reversal` multiplies the reversed gradient alone. Reports the
    discriminator's accuracy, ½ for each domain.

    Attributes:
      source: stream of the labelled domain.
      target: stream of the other domain; its labels are not used.
      stage: whose output the discriminator sees, one vector per example; None is the
        last before the head.
      widths: of the discriminator's hidden layers; () is a linear one.
      reversal: λ, a number or a schedule; the paper's ramp from 0 to 1 by default.

    References:
      Ganin et al., Domain-Adversarial Training of Neural Networks, JMLR 17 (2016),
      section 4.2; λ_p in section 5.2.2.
    """

    source: str = "source"
    target: str = "unlabelled"
    stage: str | None = None
    widths: tuple[int, ...] = (64,)
    reversal: float | Schedule = traced(PAPER_RAMP)

    @property
    def streams(self):
        return (self.source, self.target)

    def check(self, setup: Setup):
        adversarial.check(setup, self.source, self.target, self.widths, self.reversal)
        checks.stage(setup, "stage", self._stage(setup.program.network))

    def init(self, key, setup):
        width = adversarial.width(setup, self._stage(setup.program.network))
        return adversarial.discriminator_init(key, (width, *self.widths))

    def _stage(self, network) -> str:
        return feature_stage(network.stages, self.stage)

    def __call__(self, context):
        scale = schedules.value(self.reversal, context.step, context.steps)
        stage = self._stage(context.program.network)

        def domain(stream: str, label: float):
            feature = domain_pair.feature(context, stream, stage)
            feature = adversarial.reverse_gradient(feature, scale)
            logits = adversarial.discriminator(context.term_params, feature)
            return adversarial.domain_loss(logits, label)

        source, source_hits = domain(self.source, 1.0)
        target, target_hits = domain(self.target, 0.0)
        accuracy = 0.5 * (source_hits + target_hits)
        return 0.5 * (source + target), {"accuracy": accuracy}
