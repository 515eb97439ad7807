"""CBST: self-training on the most confident share of each class."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.types import PyTree, vectors
from jaxtl.optim import schedules
from jaxtl.optim.schedules import Schedule
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Metrics, Setup, Term, stream_field
from jaxtl.terms.context import View
from jaxtl.terms.domain.initial_predictions import predict_stream

UNSEEN = -1  # in place of the predicted class of an example that was not seen yet
UNREACHABLE = 2.0  # above every probability, and finite, as states must be
PAPER_PORTION = schedules.Linear(peak=0.2, final=0.5)


def class_thresholds(
    confidence: jax.Array,
    predicted: jax.Array,
    portion: float | jax.Array,
    classes: int,
) -> jax.Array:
    """exp(−k_c), the confidence that the most confident share of each class reaches.

    It is the confidence of rank ⌊portion · n_c⌋ among the n_c examples predicted as c,
    as in the authors' program (yzou2/CBST, `solve_ST.py`).

    Args:
      confidence: (n,) probability of each example's predicted class.
      predicted: (n,) class indices; negative ones are left out.
      portion: p in [0, 1], may be traced.
      classes: number of classes.

    Returns:
      (classes,); UNREACHABLE where that rank is 0, so that no example is selected.

    References:
      Zou et al., Unsupervised Domain Adaptation for Semantic Segmentation via
      Class-Balanced Self-Training, ECCV 2018, Algorithm 2.
    """
    group = jnp.where(predicted < 0, classes, predicted)
    order = jnp.lexsort((-confidence, group))
    counts = jnp.bincount(group, length=classes + 1)[:classes]
    start = jnp.cumsum(counts) - counts
    rank = jnp.floor(jnp.clip(portion, 0.0, 1.0) * counts).astype(counts.dtype)
    index = jnp.clip(start + rank - 1, 0, len(confidence) - 1)
    return jnp.where(rank > 0, confidence[order][index], UNREACHABLE)


def balanced_labels(
    probabilities: jax.Array, thresholds: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The class of the largest p_c / exp(−k_c), selected where that is at least 1.

    Args:
      probabilities: (batch, K).
      thresholds: exp(−k_c), (K,).

    Returns:
      (labels, bools of selected examples), (batch,) each. The paper selects ratios
      above 1; with "at least" the example that defines the threshold is selected too.

    References:
      Zou et al., as `class_thresholds`, eq. 8 and 9.
    """
    ratio = probabilities / thresholds
    return jnp.argmax(ratio, axis=-1), jnp.max(ratio, axis=-1) >= 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class CBST(Term):
    """Cross-entropy to class-balanced pseudo-labels, mean over the whole batch.

    Examples that are not selected count 0. Thresholds are computed from each example's
    latest prediction, which the term's state stores for all target examples (at first
    the initial model's); so the paper's rounds of labelling and training become one
    continuous process. The predictions that label a batch are its own, without
    gradient. Reports the share of selected examples ("mask") and their mean confidence.

    Use it beside the source's task loss, and start from a model trained on the source
    or let `weight` rise from 0 (`schedules.Ramp`).

    Attributes:
      target: stream that receives pseudo-labels; its own labels are not used.
      portion: p, the share of each class that is selected, a number or a schedule; the
        paper's rises from 20 % to 50 %.
      balanced: False selects the most confident share of all examples, whatever their
        class (the paper's self-training, ST).
      every: steps between two updates of the thresholds; each one sorts all examples,
        which for 60,000 takes longer than a small network's step.

    References:
      Zou et al., as `class_thresholds`. Their loss is a sum, here without the class and
      spatial priors (CRST, ICCV 2019, adds regularized labels).
    """

    compares: ClassVar[str] = "ranks of the confidences"

    target: str = stream_field("unlabelled")
    portion: float | Schedule = traced(PAPER_PORTION)
    balanced: bool = True
    every: int = 20

    def check(self, setup: Setup) -> None:
        checks.task(setup, "CBST", "classification")
        checks.stream(setup, "target", self.target)
        checks.number(setup, "portion", self.portion, 0.0, 1.0)
        checks.number(setup, "every", self.every, 1)

    def init_state(self, setup: Setup) -> PyTree:
        initial = predict_stream(setup, self.target)
        p = initial["probabilities"]
        predicted = jnp.where(initial["seen"], jnp.argmax(p, axis=-1), UNSEEN)
        return {
            "confidence": p.max(-1),
            "predicted": predicted.astype(jnp.int32),
            "thresholds": jnp.full(p.shape[-1], UNREACHABLE),
        }

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        logits = vectors(context.forward(self.target).logits)
        p = jax.lax.stop_gradient(jax.nn.softmax(logits))
        thresholds = self._update(context, p)
        labels, selected = balanced_labels(p, thresholds)
        mask = selected.astype(logits.dtype)
        value = -jnp.mean(mask * losses.label_log_probabilities(logits, labels))
        confidence = jnp.sum(mask * p.max(-1)) / jnp.maximum(jnp.sum(mask), 1.0)
        return value, {"mask": jnp.mean(mask), "confidence": confidence}

    def _update(self, context: View, p: jax.Array) -> jax.Array:
        """Stores the batch's predictions; the thresholds of this step, (K,)."""
        rows, state = context.batches[self.target]["row"], context.state
        predicted = jnp.argmax(p, axis=-1).astype(jnp.int32)
        predictions = {
            "confidence": state["confidence"].at[rows].set(p.max(-1)),
            "predicted": state["predicted"].at[rows].set(predicted),
        }
        is_due = context.step % self.every == 0
        thresholds = jax.lax.cond(
            is_due,
            lambda: self._thresholds(context, **predictions),
            lambda: state["thresholds"],
        )
        context.set_state({**predictions, "thresholds": thresholds})
        return thresholds

    def _thresholds(
        self, context: View, confidence: jax.Array, predicted: jax.Array
    ) -> jax.Array:
        portion = schedules.value(self.portion, context.step, context.steps)
        classes = len(context.state["thresholds"])
        if self.balanced:
            return class_thresholds(confidence, predicted, portion, classes)
        one_class = jnp.minimum(predicted, 0)
        threshold = class_thresholds(confidence, one_class, portion, 1)
        return jnp.broadcast_to(threshold, (classes,))
