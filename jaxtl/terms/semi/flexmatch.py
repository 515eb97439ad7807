"""FlexMatch: lower thresholds for classes that are learned slowly."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.semi import augmented_views, pseudo_targets
from jaxtl.terms.semi.fixmatch import fixmatch

NOT_IN_STREAM, UNSURE = -2, -1


def learning_status(latest: jax.Array, classes: int, warmup: bool = True) -> jax.Array:
    """β(c) = σ(c) / max(max_k σ(k), N − Σ_k σ(k)), in [0, 1].

    σ(c) counts the examples whose latest confident prediction was c; N − Σ σ those
    without any confident prediction so far, which only the warm-up counts.

    Args:
      latest: (rows,), of each example the class of its latest confident prediction,
        UNSURE, or NOT_IN_STREAM.
      classes: number of classes.
      warmup: whether N − Σ σ counts; without it β is σ over its largest value.

    Returns:
      (classes,).

    References:
      Zhang et al., FlexMatch, NeurIPS 2021, section 3: learning status and warm-up.
    """
    index = jnp.where(latest < 0, classes, latest)
    count = jnp.zeros(classes + 1, jnp.int32).at[index].add(1)[:classes]
    denominator = count.max()
    if warmup:
        denominator = jnp.maximum(denominator, jnp.sum(latest == UNSURE))
    return count / jnp.maximum(denominator, 1)


def class_thresholds(
    status: jax.Array, threshold: float | jax.Array, mapping: str = "convex"
) -> jax.Array:
    """τ(c) = M(β(c)) · τ; M(x) = x/(2 − x) for "convex", x for "linear".

    Args:
      status: β, (classes,).
      threshold: τ.
      mapping: "convex" or "linear".

    Returns:
      (classes,).

    References:
      Zhang et al., FlexMatch, NeurIPS 2021, section 3: the non-linear mapping.
    """
    mapped = status / (2 - status) if mapping == "convex" else status
    return mapped * threshold


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlexMatch(pseudo_targets.UnlabelledTerm):
    """`FixMatch` with one threshold per class, by how well the class is learned.

    The term's state stores the class of each example's latest prediction above
    `threshold`, one number per row of the data set. A step computes its thresholds from
    the state before it. Reports "mask", the share of examples that count, and the
    lowest and the highest threshold.

    Attributes:
      threshold: τ, of the class that is learned best, and of the stored predictions.
      warmup: whether examples without any confident prediction lower the thresholds.
      mapping: "convex" or "linear".
      strong: as in `FixMatch`.
      stream: name of the stream; its labels are not used.

    References:
      Zhang et al., FlexMatch: Boosting Semi-Supervised Learning with Curriculum Pseudo
      Labeling, NeurIPS 2021, algorithm 1.
    """

    moves_once: ClassVar[bool] = True

    threshold: float = traced(0.95)
    warmup: bool = True
    mapping: str = "convex"
    strong: tuple | None = None

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.number(setup, "threshold", self.threshold, 0.0, 1.0)
        checks.one_of(setup, "mapping", self.mapping, ("convex", "linear"))
        augmented_views.check_strong(setup, self.stream, self.strong)

    def init_state(self, setup: Setup) -> PyTree:
        latest = jnp.full(setup.examples[self.stream], NOT_IN_STREAM, jnp.int32)
        for batch in setup.batches(self.stream):
            latest = latest.at[batch["row"]].set(UNSURE)
        return {"memory": latest}

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        weak, strong = augmented_views.weak_and_strong_logits(
            context, self.stream, self.strong
        )
        latest = context.state["memory"]
        status = learning_status(latest, weak.shape[-1], self.warmup)
        thresholds = class_thresholds(status, self.threshold, self.mapping)
        value, mask, labels = fixmatch(weak, strong, thresholds)
        q = pseudo_targets.target_probabilities(weak)
        _, is_confident = pseudo_targets.pseudo_labels(q, self.threshold)
        rows = context.batches[self.stream]["row"]
        updates = jnp.where(is_confident > 0, labels.astype(jnp.int32), latest[rows])
        context.set_state({"memory": latest.at[rows].set(updates)})
        return value, {
            "mask": mask.mean(),
            "lowest": thresholds.min(),
            "highest": thresholds.max(),
        }
