"""PADA: smaller weights for source classes that the target seems not to contain."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.types import PyTree, vectors
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.domain import adversarial
from jaxtl.terms.domain.dann import DANN
from jaxtl.terms.domain.domain_pair import DomainPair


def class_weights(prediction: jax.Array) -> jax.Array:
    """γ / max γ, γ the share of each class in the target's predictions.

    Args:
      prediction: mean predicted probabilities of target examples, (K,).

    Returns:
      (K,), 1 for the class that is predicted most.

    References:
      Cao et al., Partial Adversarial Domain Adaptation, ECCV 2018, eq. 4 and after it.
    """
    return prediction / jnp.max(prediction)


def running_prediction(
    previous: jax.Array, logits: jax.Array, momentum: float | jax.Array
) -> jax.Array:
    """momentum · previous + (1 − momentum) · mean of softmax(logits), without gradient.

    Args:
      previous: (K,).
      logits: (batch, K).
      momentum: in [0, 1], may be traced.

    Returns:
      (K,).
    """
    current = jax.lax.stop_gradient(jnp.mean(jax.nn.softmax(logits), axis=0))
    return momentum * previous + (1 - momentum) * current


def weighted_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    smoothing: float | jax.Array = 0.0,
) -> jax.Array:
    """(1/n) Σ_i γ_{y_i} CE(logits_i, y_i): divided by n, and not by Σ γ.

    Args:
      logits: (n, K).
      labels: (n,) class indices.
      weights: γ, (K,).
      smoothing: label smoothing, as in `losses.cross_entropy`.

    Returns:
      A scalar in nats.

    References:
      Cao et al., as `class_weights`, eq. 5. The authors' program divides by Σ_i γ_{y_i}
      (torch's weighted cross-entropy), which is larger by n / Σ_i γ_{y_i}.
    """
    log_p = jax.nn.log_softmax(logits)
    label_log_p = jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
    smoothed = (1 - smoothing) * label_log_p + smoothing * jnp.mean(log_p, axis=-1)
    return -jnp.mean(weights[labels] * smoothed)


def partial_discriminator_loss(
    source: jax.Array, target: jax.Array, example_weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """½ · ((1/n) Σ_i γ_{y_i} · loss_i over the source + mean over the target), in nats.

    Args:
      source: (n,) logits of source examples, whose domain is 1.
      target: (m,) logits of target examples, whose domain is 0.
      example_weights: γ_{y_i}, (n,).

    Returns:
      (value, share of target examples that are told apart).

    References:
      Cao et al., as `class_weights`, eq. 5. The authors' program divides γ by its
      largest value among the batch's source examples.
    """
    # Divided by n as in the paper, and not by Σ γ as `domain_loss` divides.
    source_loss = jnp.mean(example_weights * jax.nn.softplus(-source))
    target_loss, target_hits = adversarial.domain_loss(target, 0.0)
    return 0.5 * (source_loss + target_loss), target_hits


def _uniform_prediction(setup: Setup) -> PyTree:
    return {"prediction": jnp.full(setup.program.outputs, 1.0 / setup.program.outputs)}


def _update_weights(
    context: View, target: str, momentum: float | jax.Array
) -> jax.Array:
    """Updates the running prediction in a term's state, and computes its γ, (K,)."""
    logits = vectors(context.forward(target).logits)
    prediction = running_prediction(context.state["prediction"], logits, momentum)
    context.set_state({"prediction": prediction})
    return class_weights(prediction)


def _check(setup: Setup, term: str, source: str, momentum: float) -> None:
    checks.task(setup, term, "classification")
    checks.labelled(setup, "source", source)
    checks.number(setup, "momentum", momentum, 0.0, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassWeightedCrossEntropy(DomainPair):
    """`weighted_cross_entropy` of the source, by the classes predicted in the target.

    The weights are those of a running mean of the target's predictions, which starts
    uniform (all weights 1); the paper recomputes them from time to time from all target
    examples. Takes the place of CrossEntropy(stream="source"). Reports the accuracy and
    the mean weight.

    Attributes:
      source: stream of the labelled domain.
      target: stream of the other domain; its labels are not used.
      momentum: of the running mean; 0.99 averages over about a hundred batches.
      label_smoothing: in [0, 1].

    References:
      Cao et al., as `class_weights`.
    """

    compares: ClassVar[str] = "the mean prediction"
    moves_once: ClassVar[bool] = True

    momentum: float = traced(0.99)
    label_smoothing: float = traced(0.0)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        _check(setup, "ClassWeightedCrossEntropy", self.source, self.momentum)
        checks.classes(setup, "source", self.source)
        checks.number(setup, "label_smoothing", self.label_smoothing, 0.0, 1.0)

    def init_state(self, setup: Setup) -> PyTree:
        return _uniform_prediction(setup)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        weights = _update_weights(context, self.target, self.momentum)
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
    """DANN with source examples weighted by γ of their class: PADA's discriminator.

    The value is `partial_discriminator_loss`. Use it with `ClassWeightedCrossEntropy`
    as the task loss. Reports the discriminator's accuracy (unweighted) and the mean
    weight.

    Attributes:
      source, target, stage, widths, dropout, norm, initializer, reversal: as in
        `DANN`.
      momentum: as in `ClassWeightedCrossEntropy`; this term has its own running mean.

    References:
      Cao et al., as `class_weights`.
    """

    compares: ClassVar[str] = "the mean prediction"
    moves_once: ClassVar[bool] = True

    momentum: float = traced(0.99)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        _check(setup, "PartialDANN", self.source, self.momentum)

    def init_state(self, setup: Setup) -> PyTree:
        return _uniform_prediction(setup)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        weights = _update_weights(context, self.target, self.momentum)
        source, target = self.domain_logits(context)
        example_weights = weights[context.batches[self.source]["y"]]
        value, target_hits = partial_discriminator_loss(source, target, example_weights)
        return value, {
            "accuracy": 0.5 * (jnp.mean(source > 0) + target_hits),
            "mean_weight": jnp.mean(weights),
        }
