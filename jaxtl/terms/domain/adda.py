"""ADDA: a target encoder trained to imitate the source's fixed encoder."""

import dataclasses

import jax

from jaxtl.core.errors import UserError
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.domain import adversarial
from jaxtl.terms.domain.domain_pair import stage_vectors
from jaxtl.terms.regularizers import source_network


@dataclasses.dataclass(frozen=True, kw_only=True)
class ADDA(adversarial.DiscriminatorTerm):
    """A discriminator's cross-entropy plus the target encoder's with inverted labels.

    The source's encoder is θ₀ on source inputs, in evaluation mode; the model is the
    target's encoder, starts at θ₀ and sees target inputs alone. Value: L_D + L_M, in
    nats.

      L_D = ½ (−E log D(M_s(x_s)) − E log(1 − D(M_t(x_t)))) trains the discriminator,
      L_M = −E log D(M_t(x_t))                              trains the model,

    each with the other's parameters held fixed, so that one step descends both; each is
    log 2 at chance. The classifier is the source's: this term gives the head no
    gradient, so freeze it (`groups={"head": tl.FROZEN, ".*": 1.0}`) and train without
    a task loss, as the paper does. Reports L_D, L_M and the discriminator's accuracy.

    Attributes:
      source: stream of the source domain; its labels are not used.
      target: stream of the target domain; its labels are not used.
      stage: stage whose output the discriminator reads, one vector per example; None is
        the last one before the head, "head" (the name of the last stage) the logits, as
        in the authors' program.
      widths, dropout, norm, initializer: of the discriminator, as in
        `adversarial.PerceptronTerm` (widths=(500, 500) in the paper).

    References:
      Tzeng et al., Adversarial Discriminative Domain Adaptation, CVPR 2017; its
      L_D is a sum over the two domains, without ½. In the authors' program
      (erictzeng/adda) L_M, too, is a mean over both domains, so its encoder's gradient
      is half of this one's.
    """

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.sourced(setup)
        adversarial.check_body(setup, "ADDA")
        network = setup.program.network
        reads_logits = self.stage_name(network) == network.stages[-1]
        if reads_logits and not source_network.has_source_head(setup):
            raise UserError(
                f"{checks.where(setup, 'stage')}={self.stage!r}: logits of the source "
                "are compared with the model's, whose head is new; start from weights "
                "that keep their head (init= without reset='head')."
            )

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        stop_gradient, params = jax.lax.stop_gradient, context.term_params
        network = context.program.network
        stage = self.stage_name(network)
        source = context.source_forward(self.source).features[stage]
        source = stage_vectors(network, stage, source)
        target = self.features(context, self.target)
        discriminator_loss, accuracy = adversarial.discriminator_loss(
            *self.discriminate(params, source, stop_gradient(target), context.key)
        )
        _, logits = self.discriminate(
            stop_gradient(params), stop_gradient(source), target, context.key
        )
        encoder_loss, _ = adversarial.domain_loss(logits, 1.0)
        return discriminator_loss + encoder_loss, {
            "discriminator": discriminator_loss,
            "encoder": encoder_loss,
            "accuracy": accuracy,
        }
