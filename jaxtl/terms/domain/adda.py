"""ADDA: the target's encoder learns to pass for the source's, which stands still."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, feature_stage
from jaxtl.terms.domain import adversarial, domain_pair


@dataclasses.dataclass(frozen=True, kw_only=True)
class ADDA(Term):
    """A discriminator's cross-entropy plus the target encoder's with inverted labels.

    The source's encoder is θ₀ on source inputs, in evaluation mode; the model is the
    target's, starts there and sees target inputs alone. Value: L_D + L_M, in nats.

      L_D = ½ (−E log D(M_s(x_s)) − E log(1 − D(M_t(x_t)))) trains the discriminator,
      L_M = −E log D(M_t(x_t))                              trains the model,

    each with the other's parameters held, so both are one step of one loss; log 2
    each is chance. The classifier is the source's: this term gives the head no
    gradient, so freeze it (`groups={"head": tl.FROZEN, ".*": 1.0}`) and train without
    a task loss, as the paper does. Reports L_D, L_M and the discriminator's accuracy.

    Attributes:
      source: stream of the source domain; its labels are not used.
      target: stream of the target domain; its labels are not used.
      stage: whose output the discriminator sees, one vector per example; None is the
        last before the head.
      widths: of the discriminator's hidden layers (the paper's are 500, 500).

    References:
      Tzeng et al., Adversarial Discriminative Domain Adaptation, CVPR 2017; its
      L_D is a sum over the two domains, without ½.
    """

    source: str = "source"
    target: str = "unlabelled"
    stage: str | None = None
    widths: tuple[int, ...] = (64,)

    @property
    def streams(self):
        return (self.source, self.target)

    def check(self, setup: Setup):
        adversarial.check(setup, self.source, self.target, self.widths)
        checks.sourced(setup)
        adversarial.needs_body(setup, "ADDA")
        checks.stage(setup, "stage", self._stage(setup.program.network))

    def init(self, key, setup):
        width = adversarial.width(setup, self._stage(setup.program.network))
        return adversarial.discriminator_init(key, (width, *self.widths))

    def _stage(self, network) -> str:
        return feature_stage(network.stages, self.stage)

    def __call__(self, context):
        hold = jax.lax.stop_gradient
        stage = self._stage(context.program.network)
        theirs = context.source_forward(self.source).features[stage]
        theirs = domain_pair.vector(context.program.network, stage, theirs)
        ours = domain_pair.feature(context, self.target, stage)
        discriminate = adversarial.discriminator
        source, source_hits = adversarial.domain_loss(
            discriminate(context.term_params, theirs), 1.0
        )
        target, target_hits = adversarial.domain_loss(
            discriminate(context.term_params, hold(ours)), 0.0
        )
        taken, _ = adversarial.domain_loss(
            discriminate(hold(context.term_params), ours), 1.0
        )
        told = 0.5 * (source + target)
        return told + taken, {
            "discriminator": told,
            "encoder": taken,
            "accuracy": jnp.float32(0.5) * (source_hits + target_hits),
        }
