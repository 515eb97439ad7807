"""MCD: two classifiers that part where the target is unlike the source."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.types import vectors
from jaxtl.optim import schedules
from jaxtl.optim.schedules import Schedule
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.domain import adversarial, domain_pair


def discrepancy(first: jax.Array, second: jax.Array) -> jax.Array:
    """Mean over examples of (1/K) Σ_c |p_c − q_c|, p and q the softmaxes.

    Args:
      first, second: logits of two classifiers, (batch, K).

    References:
      Saito et al., Maximum Classifier Discrepancy for Unsupervised Domain Adaptation,
      CVPR 2018.
    """
    return jnp.mean(jnp.abs(jax.nn.softmax(first) - jax.nn.softmax(second)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MCD(Term):
    """Second classifier's source loss − the two classifiers' discrepancy on the target.

    The first classifier is the model's head (train it by a task loss on the source);
    the second is this term's own. Both raise their discrepancy on the target, the
    features below lower it, since its gradient is reversed before it meets them. This
    is the one-step, gradient-reversal form of the game: the paper takes turns, one step
    of the classifiers and up to four of the features, which `reversal` above 1 stands
    for. Reports the discrepancy, the second classifier's source loss in nats, and on
    how many target examples both agree.

    Attributes:
      source: stream of the labelled domain.
      target: stream of the other domain; its labels are not used.
      widths: of the second classifier's hidden layers; () is a linear one.
      reversal: λ of the reversed gradient, a number or a schedule.

    References:
      Saito et al., Maximum Classifier Discrepancy for Unsupervised Domain Adaptation,
      CVPR 2018.
    """

    source: str = "source"
    target: str = "unlabelled"
    widths: tuple[int, ...] = (64,)
    reversal: float | Schedule = traced(1.0)

    @property
    def streams(self):
        return (self.source, self.target)

    def check(self, setup: Setup):
        checks.task(setup, "MCD", "classification")
        adversarial.check(setup, self.source, self.target, self.widths, self.reversal)
        checks.labelled(setup, "source", self.source)
        checks.classes(setup, "source", self.source)
        adversarial.needs_body(setup, "MCD")

    def init(self, key, setup):
        width = adversarial.width(setup, setup.program.network.stages[-2])
        return adversarial.discriminator_init(
            key, (width, *self.widths), setup.program.outputs
        )

    def __call__(self, context):
        scale = schedules.value(self.reversal, context.step, context.steps)
        below = context.program.network.stages[-2]
        feature = domain_pair.feature(context, self.source, below)
        logits = adversarial.perceptron(context.term_params, feature)
        labels = context.batches[self.source]["y"]
        learned = losses.cross_entropy(logits, labels)
        feature = context.forward(self.target).features[below]
        feature = adversarial.reverse(feature, scale)
        first = vectors(adversarial.head_logits(context, feature))
        second = adversarial.perceptron(
            context.term_params,
            domain_pair.vector(context.program.network, below, feature),
        )
        apart = discrepancy(first, second)
        same = jnp.argmax(first, axis=-1) == jnp.argmax(second, axis=-1)
        return learned - apart, {
            "discrepancy": apart,
            "second": learned,
            "agreement": jnp.mean(same.astype(jnp.float32)),
        }
