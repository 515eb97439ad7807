"""CDAN: a domain discriminator conditioned on the classifier's predictions."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.types import PyTree, vectors
from jaxtl.optim import schedules
from jaxtl.optim.schedules import Schedule
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.domain import adversarial
from jaxtl.terms.domain.domain_pair import vector_width
from jaxtl.terms.domain.entropy import entropy


def multilinear_map(features: jax.Array, probabilities: jax.Array) -> jax.Array:
    """The multilinear map f ⊗ g, flattened.

    Args:
      features: f, (batch, d).
      probabilities: g, (batch, K).

    Returns:
      (batch, d · K); column i · K + k holds f_i · g_k.

    References:
      Long et al., Conditional Adversarial Domain Adaptation, NeurIPS 2018.
    """
    product = features[:, :, None] * probabilities[:, None, :]
    return product.reshape(features.shape[0], -1)


def randomized_map(
    features: jax.Array, probabilities: jax.Array, matrices: Mapping[str, jax.Array]
) -> jax.Array:
    """(R_f f) ⊙ (R_g g) / √D: its inner products are those of f ⊗ g in expectation.

    Args:
      features: f, (batch, d).
      probabilities: g, (batch, K).
      matrices: {"features": R_f (d, D), "probabilities": R_g (K, D)}, entries of mean 0
        and variance 1.

    Returns:
      (batch, D).

    References:
      As `multilinear_map`.
    """
    size = matrices["features"].shape[1]
    projected = features @ matrices["features"]
    return projected * (probabilities @ matrices["probabilities"]) / jnp.sqrt(size)


def entropy_weights(
    logits: jax.Array, reversal: float | jax.Array | None = None
) -> jax.Array:
    """1 + exp(−H(softmax(logits))), 2 for a certain prediction, 1 + 1/K for a uniform.

    Args:
      logits: (batch, K).
      reversal: λ of the reversed gradient that flows through the weights; None for no
        gradient.

    Returns:
      (batch,).

    References:
      As `multilinear_map`.
    """
    if reversal is None:
        logits = jax.lax.stop_gradient(logits)
    else:
        logits = adversarial.reverse_gradient(logits, reversal)
    return 1.0 + jnp.exp(-entropy(logits))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CDAN(adversarial.DiscriminatorTerm):
    """Discriminator's cross-entropy on features ⊗ predictions, its gradient reversed.

    The value is `adversarial.discriminator_loss`, with weighted means where `entropy`
    is set. No gradient flows through the predictions in the map, as in the authors'
    program; theirs lets the reversed gradient flow through the weights, which
    `entropy_gradient` does here. Reports the discriminator's accuracy.

    Attributes:
      source: stream of the labelled domain.
      target: stream of the other domain; its labels are not used.
      stage: stage whose output is conditioned, one vector per example; None is the last
        one before the head.
      widths, dropout, norm, initializer: of the discriminator, as in
        `adversarial.PerceptronTerm`. The authors' program has widths=(1024, 1024),
        dropout=0.5, initializer="xavier", and ten times the model's learning rate:
        `groups={"terms/NAME/.*": 10.0, ".*": 1.0}`.
      reversal: λ of the reversed gradient, a number or a schedule; by default it rises
        with the number of steps (`adversarial.REVERSAL`), as in the authors' program.
      entropy: weight examples by the certainty of their prediction (CDAN+E).
      entropy_gradient: let the reversed gradient flow through these weights, too: the
        model is then also moved towards predictions whose weights confuse the
        discriminator.
      limit: above this width · classes, the map is randomized.
      size: D, width of the randomized map; its matrices are drawn once, from a key of
        their own, and are the same in every run.

    References:
      Long et al., Conditional Adversarial Domain Adaptation, NeurIPS 2018; the
      limit of 4096 is the paper's.
    """

    reversal: float | Schedule = traced(adversarial.REVERSAL)
    entropy: bool = True
    entropy_gradient: bool = False
    limit: int = 4096
    size: int = 1024

    def check(self, setup: Setup) -> None:
        checks.task(setup, "CDAN", "classification")
        super().check(setup)
        checks.number(setup, "reversal", self.reversal, 0.0)
        checks.number(setup, "limit", self.limit, 0)
        checks.number(setup, "size", self.size, 1)

    def describe(self, setup: Setup) -> str:
        width, classes = self._factors(setup)
        factors = f"{width} features × {classes} classes"
        if width * classes <= self.limit:
            return f"outer product of {factors}"
        return (
            f"{factors} are {width * classes:,}, above limit={self.limit:,}, so the "
            f"outer product is randomized to {self.size:,} (a higher limit keeps it)"
        )

    def input_width(self, setup: Setup) -> int:
        width, classes = self._factors(setup)
        return width * classes if width * classes <= self.limit else self.size

    def constants(self, setup: Setup) -> PyTree:
        width, classes = self._factors(setup)
        if width * classes <= self.limit:
            return {}
        keys = jax.random.split(jax.random.key(0))
        return {
            "features": jax.random.normal(keys[0], (width, self.size)),
            "probabilities": jax.random.normal(keys[1], (classes, self.size)),
        }

    def _factors(self, setup: Setup) -> tuple[int, int]:
        """(width of the features, number of classes)."""
        stage = self.stage_name(setup.program.network)
        return vector_width(setup, stage), setup.program.outputs

    def _inputs(self, context: View, stream: str) -> tuple[jax.Array, jax.Array | None]:
        """The discriminator's inputs and the weights of a stream's batch."""
        scale = schedules.value(self.reversal, context.step, context.steps)
        features = self.features(context, stream)
        features = adversarial.reverse_gradient(features, scale)
        logits = vectors(context.forward(stream).logits)
        probabilities = jax.lax.stop_gradient(jax.nn.softmax(logits))
        if context.constants:
            inputs = randomized_map(features, probabilities, context.constants)
        else:
            inputs = multilinear_map(features, probabilities)
        weights = None
        if self.entropy:
            weights = entropy_weights(logits, scale if self.entropy_gradient else None)
        return inputs, weights

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        source, source_weights = self._inputs(context, self.source)
        target, target_weights = self._inputs(context, self.target)
        source, target = self.discriminate(
            context.term_params, source, target, context.key
        )
        value, accuracy = adversarial.discriminator_loss(
            source, target, source_weights, target_weights, context.mean
        )
        return value, {"accuracy": accuracy}
