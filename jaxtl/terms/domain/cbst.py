"""CBST: self-training on the surest share of each class, not of all classes alike."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.types import vectors
from jaxtl.optim import schedules
from jaxtl.optim.schedules import Schedule
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.domain.initial_predictions import first_pass

UNSEEN = -1  # stands for the predicted class of an example that was not seen yet
BEYOND = 2.0  # a threshold that no probability reaches, and finite, as states must be
PAPER_PORTION = schedules.Linear(peak=0.2, final=0.5)


def class_thresholds(
    confidence: jax.Array, predicted: jax.Array, portion, classes: int
) -> jax.Array:
    """exp(−k_c), the confidence that the surest share of each class reaches.

    Of the n_c examples predicted as c, the one of rank round(portion · n_c) gives it.

    Args:
      confidence: (n,) probability of each example's predicted class.
      predicted: (n,) class indices; negative ones are left out.
      portion: p in [0, 1], may be traced.
      classes: number of classes.

    Returns:
      (classes,); BEYOND where that rank is 0: nothing of the class is taken.

    References:
      Zou et al., Unsupervised Domain Adaptation for Semantic Segmentation via
      Class-Balanced Self-Training, ECCV 2018, Algorithm 2.
    """
    group = jnp.where(predicted < 0, classes, predicted)
    order = jnp.lexsort((-confidence, group))
    counts = jnp.bincount(group, length=classes + 1)[:classes]
    start = jnp.cumsum(counts) - counts
    rank = jnp.round(jnp.clip(portion, 0.0, 1.0) * counts).astype(counts.dtype)
    at = jnp.clip(start + rank - 1, 0, len(confidence) - 1)
    return jnp.where(rank > 0, confidence[order][at], BEYOND)


def balanced_labels(
    probabilities: jax.Array, thresholds: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The class of the largest p_c / exp(−k_c), taken where that is at least 1.

    Args:
      probabilities: (batch, K).
      thresholds: exp(−k_c), (K,).

    Returns:
      (labels, taken), (batch,) each. The paper takes ratios above 1; with "at least"
      the example that gave the threshold is taken too.

    References:
      Zou et al., as `class_thresholds`, eq. 8 and 9.
    """
    ratio = probabilities / thresholds
    return jnp.argmax(ratio, axis=-1), jnp.max(ratio, axis=-1) >= 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class CBST(Term):
    """Cross-entropy to class-balanced pseudo-labels, mean over the whole batch.

    Examples that are not taken count 0. Thresholds are those of each example's latest
    prediction, which a memory of all target examples keeps (it begins with the initial
    model's); so the paper's rounds of labelling and training are one running process.
    The predictions that label a batch are its own, without gradient. Reports the share
    that is taken ("mask") and their mean confidence.

    Give the source's task loss beside it, and begin from a model trained on the source
    or let `weight` rise from 0 (`schedules.Ramp`).

    Attributes:
      target: stream that is labelled; its labels are not used.
      portion: p, the share of each class that is taken, a number or a schedule; the
        paper's rises from 20 % to 50 %.
      balanced: False takes the surest share of all examples, whatever their class
        (the paper's self-training, ST).
      every: steps between two looks at the memory for new thresholds; all examples
        are sorted then, which for 60,000 takes longer than a small network's step.

    References:
      Zou et al., as `class_thresholds`. Their loss is a sum, without the prior and the
      spatial ones (CRST, ICCV 2019, adds regularised labels).
    """

    target: str = "unlabelled"
    portion: float | Schedule = traced(PAPER_PORTION)
    balanced: bool = True
    every: int = 20

    @property
    def streams(self):
        return (self.target,)

    def check(self, setup: Setup):
        checks.task(setup, "CBST", "classification")
        checks.stream(setup, "target", self.target)
        checks.number(setup, "portion", self.portion, 0.0, 1.0)
        checks.number(setup, "every", self.every, 1)

    def init_state(self, setup: Setup):
        known = first_pass(setup, self.target)
        p = known["probabilities"]
        predicted = jnp.where(known["seen"], jnp.argmax(p, axis=-1), UNSEEN)
        return {
            "confidence": p.max(-1),
            "predicted": predicted.astype(jnp.int32),
            "thresholds": jnp.full(p.shape[-1], BEYOND),
        }

    def __call__(self, context):
        logits = vectors(context.forward(self.target).logits)
        p = jax.lax.stop_gradient(jax.nn.softmax(logits))
        rows = context.batches[self.target]["row"]
        best = jnp.argmax(p, axis=-1).astype(jnp.int32)
        memory = {
            "confidence": context.state["confidence"].at[rows].set(p.max(-1)),
            "predicted": context.state["predicted"].at[rows].set(best),
        }
        limits = self._thresholds(context, **memory)
        context.set_state({**memory, "thresholds": limits})
        labels, taken = balanced_labels(p, limits)
        mask = taken.astype(logits.dtype)
        log_p = jax.nn.log_softmax(logits)
        own = jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
        sure = jnp.sum(mask * p.max(-1)) / jnp.maximum(jnp.sum(mask), 1.0)
        return -jnp.mean(mask * own), {"mask": jnp.mean(mask), "confidence": sure}

    def _thresholds(self, context, confidence, predicted) -> jax.Array:
        """Returns the thresholds of this step, (K,): new ones where they are due."""
        old = context.state["thresholds"]
        portion = schedules.value(self.portion, context.step, context.steps)

        def look():
            if self.balanced:
                return class_thresholds(confidence, predicted, portion, len(old))
            one = class_thresholds(confidence, jnp.minimum(predicted, 0), portion, 1)
            return jnp.broadcast_to(one, old.shape)

        return jax.lax.cond(context.step % self.every == 0, look, lambda: old)
