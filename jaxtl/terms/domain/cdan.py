"""CDAN: a discriminator that is told what the classifier predicts."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.types import PyTree, vectors
from jaxtl.optim import schedules
from jaxtl.optim.schedules import Schedule
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, feature_stage
from jaxtl.terms.domain import adversarial, domain_pair
from jaxtl.terms.domain.entropy import entropy


def outer(features: jax.Array, probabilities: jax.Array) -> jax.Array:
    """The multilinear map f ⊗ g, flattened.

    Args:
      features: f, (batch, d).
      probabilities: g, (batch, K).

    Returns:
      (batch, d · K); place i · K + k holds f_i · g_k.

    References:
      Long et al., Conditional Adversarial Domain Adaptation, NeurIPS 2018.
    """
    product = features[:, :, None] * probabilities[:, None, :]
    return product.reshape(features.shape[0], -1)


def randomised(
    features: jax.Array, probabilities: jax.Array, maps: PyTree
) -> jax.Array:
    """(R_f f) ⊙ (R_g g) / √D: its inner products are those of f ⊗ g, in expectation.

    Args:
      features: f, (batch, d).
      probabilities: g, (batch, K).
      maps: {"features": (d, D), "probabilities": (K, D)}, entries of mean 0 and
        variance 1.

    Returns:
      (batch, D).

    References:
      As `outer`.
    """
    size = maps["features"].shape[1]
    product = (features @ maps["features"]) * (probabilities @ maps["probabilities"])
    return product / jnp.sqrt(size)


def entropy_weights(logits: jax.Array) -> jax.Array:
    """1 + exp(−H(softmax(logits))), (batch,): sure predictions count up to twice.

    No gradient flows through it. Reference: as `outer`.
    """
    return 1.0 + jnp.exp(-jax.lax.stop_gradient(entropy(logits)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CDAN(Term):
    """Discriminator's cross-entropy on features ⊗ predictions, its gradient reversed.

    The value is ½ · (weighted mean over the source batch + that over the other), in
    nats; log 2 is chance. As in the authors' code no gradient flows through the
    predictions and the weights. Reports the discriminator's accuracy.

    Attributes:
      source: stream of the labelled domain.
      target: stream of the other domain; its labels are not used.
      stage: whose output is conditioned, one vector per example; None is the last
        before the head.
      widths: of the discriminator's hidden layers (the paper's are 1024, 1024).
      reversal: λ of the reversed gradient, a number or a schedule.
      entropy: weigh examples by how sure their prediction is (CDAN+E).
      limit: where width · classes is more, the map is randomised.
      size: D, numbers of the randomised map; its matrices are drawn once, by a key of
        their own, alike in every run.

    References:
      Long et al., Conditional Adversarial Domain Adaptation, NeurIPS 2018; the
      limit of 4096 is the paper's.
    """

    source: str = "source"
    target: str = "unlabelled"
    stage: str | None = None
    widths: tuple[int, ...] = (64,)
    reversal: float | Schedule = traced(adversarial.PAPER_RAMP)
    entropy: bool = True
    limit: int = 4096
    size: int = 1024

    @property
    def streams(self):
        return (self.source, self.target)

    def check(self, setup: Setup):
        checks.task(setup, "CDAN", "classification")
        adversarial.check(setup, self.source, self.target, self.widths, self.reversal)
        checks.stage(setup, "stage", self._stage(setup.program.network))
        checks.number(setup, "limit", self.limit, 0)
        checks.number(setup, "size", self.size, 1)

    def describe(self, setup: Setup) -> str:
        features = adversarial.width(setup, self._stage(setup.program.network))
        found = f"{features} features × {setup.program.outputs} classes"
        if self._product(setup) <= self.limit:
            return f"outer product of {found}"
        return f"{found}, randomised to {self.size}"

    def init(self, key, setup):
        width = self._product(setup)
        width = width if width <= self.limit else self.size
        return adversarial.discriminator_init(key, (width, *self.widths))

    def constants(self, setup):
        if self._product(setup) <= self.limit:
            return {}
        width = adversarial.width(setup, self._stage(setup.program.network))
        keys = jax.random.split(jax.random.key(0))
        return {
            "features": jax.random.normal(keys[0], (width, self.size)),
            "probabilities": jax.random.normal(
                keys[1], (setup.program.outputs, self.size)
            ),
        }

    def _stage(self, network) -> str:
        return feature_stage(network.stages, self.stage)

    def _product(self, setup: Setup) -> int:
        return (
            adversarial.width(setup, self._stage(setup.program.network))
            * setup.program.outputs
        )

    def __call__(self, context):
        scale = schedules.value(self.reversal, context.step, context.steps)
        stage = self._stage(context.program.network)

        def domain(stream: str, label: float):
            out = context.forward(stream)
            feature = domain_pair.feature(context, stream, stage)
            feature = adversarial.reverse_gradient(feature, scale)
            logits = jax.lax.stop_gradient(vectors(out.logits))
            g = jax.nn.softmax(logits)
            maps = context.constants
            joint = randomised(feature, g, maps) if maps else outer(feature, g)
            sure = entropy_weights(logits) if self.entropy else None
            logits = adversarial.discriminator(context.term_params, joint)
            return adversarial.domain_loss(logits, label, sure)

        source, source_hits = domain(self.source, 1.0)
        target, target_hits = domain(self.target, 0.0)
        accuracy = 0.5 * (source_hits + target_hits)
        return 0.5 * (source + target), {"accuracy": accuracy}
