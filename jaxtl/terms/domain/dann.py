"""Domain-adversarial training: features that do not reveal the domain."""

import dataclasses

import jax

from jaxtl.core.config import traced
from jaxtl.optim import schedules
from jaxtl.optim.schedules import Schedule
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.domain import adversarial


@dataclasses.dataclass(frozen=True, kw_only=True)
class DANN(adversarial.DiscriminatorTerm):
    """Discriminator's cross-entropy, its gradient reversed before it meets the model.

    The value is `adversarial.discriminator_loss`. `weight` multiplies the whole term,
    the discriminator's own gradient too; `reversal` multiplies the reversed gradient
    alone. Reports the discriminator's accuracy, ½ of each domain.

    Attributes:
      source: stream of the labelled domain.
      target: stream of the other domain; its labels are not used.
      stage: stage whose output the discriminator reads, one vector per example; None is
        the last one before the head.
      widths, dropout, norm, initializer: of the discriminator, as in
        `adversarial.PerceptronTerm`. The paper's has two layers of 1024 on photographs
        and one of 100 on digits; `tllib` takes (1024, 1024) with norm=True.
      reversal: λ, a number or a schedule. By default it rises with the number of steps
        (`adversarial.REVERSAL`); the paper's rises over the share of the run,
        `schedules.Ramp()`.

    References:
      Ganin et al., Domain-Adversarial Training of Neural Networks, JMLR 17 (2016),
      section 4.2; λ_p in section 5.2.2.
    """

    reversal: float | Schedule = traced(adversarial.REVERSAL)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.number(setup, "reversal", self.reversal, 0.0)

    def domain_logits(self, context: View) -> tuple[jax.Array, jax.Array]:
        """The discriminator's logits of both domains, behind the reversed gradient.

        Args:
          context: of the step; it gives the features of both streams.

        Returns:
          (source, target), each (batch,). The gradient that reaches the features is
          multiplied by −λ, λ being `reversal` at this step.
        """
        scale = schedules.value(self.reversal, context.step, context.steps)
        source, target = (
            adversarial.reverse_gradient(self.features(context, stream), scale)
            for stream in (self.source, self.target)
        )
        return self.discriminate(context.term_params, source, target, context.key)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        value, accuracy = adversarial.discriminator_loss(*self.domain_logits(context))
        return value, {"accuracy": accuracy}
