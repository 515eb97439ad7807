"""PADA: source classes that the target seems not to have count for less."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.types import PyTree, vectors
from jaxtl.optim import schedules
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.domain import adversarial, domain_pair
from jaxtl.terms.domain.dann import DANN


def class_weights(prediction: jax.Array) -> jax.Array:
    """γ / max γ, the share that each class has in the target's predictions.

    Args:
      prediction: mean predicted probabilities of target examples, (K,).

    Returns:
      (K,), 1 for the class that is predicted most.

    References:
      Cao et al., Partial Adversarial Domain Adaptation, ECCV 2018, eq. 4 and after it.
    """
    return prediction / jnp.max(prediction)


def running(old: jax.Array, logits: jax.Array, momentum) -> jax.Array:
    """momentum · old + (1 − momentum) · mean of softmax(logits), (K,)."""
    now = jax.lax.stop_gradient(jnp.mean(jax.nn.softmax(logits), axis=0))
    return momentum * old + (1 - momentum) * now


def weighted_cross_entropy(
    logits: jax.Array, labels: jax.Array, weights: jax.Array, smoothing=0.0
) -> jax.Array:
    """(1/n) Σ_i γ_{y_i} CE(logits_i, y_i): divided by n, and not by Σ γ.

    Args:
      logits: (n, K).
      labels: (n,) class indices.
      weights: γ, (K,).
      smoothing: label smoothing, as in `losses.cross_entropy`.

    References:
      Cao et al., as `class_weights`, eq. 5.
    """
    log_p = jax.nn.log_softmax(logits)
    hit = jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
    each = (1 - smoothing) * hit + smoothing * jnp.mean(log_p, axis=-1)
    return -jnp.mean(weights[labels] * each)


def _initial(setup: Setup) -> PyTree:
    return {"prediction": jnp.full(setup.program.outputs, 1.0 / setup.program.outputs)}


def _weights(context, target: str, momentum) -> jax.Array:
    """Returns γ of this step, (K,), and keeps the running prediction."""
    logits = vectors(context.forward(target).logits)
    prediction = running(context.state["prediction"], logits, momentum)
    context.set_state({"prediction": prediction})
    return class_weights(prediction)


def _check(setup: Setup, term: str, source: str, momentum) -> None:
    checks.task(setup, term, "classification")
    checks.labelled(setup, "source", source)
    checks.number(setup, "momentum", momentum, 0.0, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassWeightedCrossEntropy(Term):
    """`weighted_cross_entropy` of the source by what the target is predicted to hold.

    The weights are those of a running mean of the target's predictions, which begins
    uniform (all weights 1); the paper recomputes them now and then from all target
    examples. Takes the place of CrossEntropy(stream="source"). Reports the accuracy
    and the mean weight.

    Attributes:
      source: stream of the labelled domain.
      target: stream of the other domain; its labels are not used.
      momentum: of the running mean; 0.99 remembers some hundred batches.
      label_smoothing: in [0, 1].

    References:
      Cao et al., as `class_weights`.
    """

    source: str = "source"
    target: str = "unlabelled"
    momentum: float = traced(0.99)
    label_smoothing: float = traced(0.0)

    @property
    def streams(self):
        return (self.source, self.target)

    def check(self, setup: Setup):
        checks.stream(setup, "source", self.source)
        checks.stream(setup, "target", self.target)
        _check(setup, "ClassWeightedCrossEntropy", self.source, self.momentum)
        checks.classes(setup, "source", self.source)
        checks.number(setup, "label_smoothing", self.label_smoothing, 0.0, 1.0)

    def init_state(self, setup: Setup):
        return _initial(setup)

    def __call__(self, context):
        weights = _weights(context, self.target, self.momentum)
        logits = vectors(context.forward(self.source).logits)
        labels = context.batches[self.source]["y"]
        value = weighted_cross_entropy(logits, labels, weights, self.label_smoothing)
        hits = jnp.argmax(logits, axis=-1) == labels
        return value, {
            "accuracy": jnp.mean(hits.astype(jnp.float32)),
            "mean_weight": jnp.mean(weights),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartialDANN(DANN):
    """DANN whose source examples count by γ of their class: PADA's discriminator.

    ½ · ((1/n) Σ_i γ_{y_i} · loss_i over the source + mean over the target), in nats.
    Goes with `ClassWeightedCrossEntropy` as the task's loss. Reports the
    discriminator's accuracy (unweighted) and the mean weight.

    Attributes:
      momentum: as in `ClassWeightedCrossEntropy`; this term keeps its own mean.

    References:
      Cao et al., as `class_weights`.
    """

    momentum: float = traced(0.99)

    def check(self, setup: Setup):
        super().check(setup)
        _check(setup, "PartialDANN", self.source, self.momentum)

    def init_state(self, setup: Setup):
        return _initial(setup)

    def __call__(self, context):
        weights = _weights(context, self.target, self.momentum)
        scale = schedules.value(self.reversal, context.step, context.steps)
        stage = self._stage(context.program.network)

        def logits(stream: str):
            feature = domain_pair.feature(context, stream, stage)
            feature = adversarial.reverse_gradient(feature, scale)
            return adversarial.discriminator(context.term_params, feature)

        source = logits(self.source)
        own = weights[context.batches[self.source]["y"]]
        known = jnp.mean(own * jax.nn.softplus(-source))
        target, hits = adversarial.domain_loss(logits(self.target), 0.0)
        accuracy = 0.5 * (jnp.mean(source > 0) + hits)
        return 0.5 * (known + target), {
            "accuracy": accuracy,
            "mean_weight": jnp.mean(weights),
        }
