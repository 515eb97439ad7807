"""FlexMatch: classes that are learned slowly get a lower threshold."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.semi import augmented_views, pseudo_targets
from jaxtl.terms.semi.fixmatch import fixmatch

NOT_IN_STREAM, UNSURE = -2, -1


def learning_status(memory, classes: int, warmup: bool = True) -> jax.Array:
    """β(c) = σ(c) / max(max_k σ(k), N − Σ_k σ(k)), in [0, 1], (classes,).

    σ(c) counts the examples whose last confident prediction was c; N − Σ σ those that
    have none yet, which only the warm-up counts.

    Args:
      memory: (rows,) of each example the class, UNSURE, or NOT_IN_STREAM.
      classes: number of classes.
      warmup: whether N − Σ σ counts at all; without it β is σ over its largest.

    References:
      Zhang et al., FlexMatch, NeurIPS 2021, section 3: learning status and warm-up.
    """
    at = jnp.where(memory < 0, classes, memory)
    count = jnp.zeros(classes + 1, jnp.int32).at[at].add(1)[:classes]
    most = count.max()
    if warmup:
        most = jnp.maximum(most, jnp.sum(memory == UNSURE))
    return count / jnp.maximum(most, 1)


def thresholds(status, threshold, mapping: str = "convex") -> jax.Array:
    """τ(c) = M(β(c)) · τ; M(x) = x/(2 − x) for "convex", x for "linear".

    References:
      Zhang et al., FlexMatch, NeurIPS 2021, section 3: the non-linear mapping.
    """
    mapped = status / (2 - status) if mapping == "convex" else status
    return mapped * threshold


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlexMatch(pseudo_targets._OnUnlabelled):
    """`FixMatch` with one threshold per class, by how far the class has been learned.

    The class of each example's last prediction above `threshold` is remembered in this
    term's state, one number per row of the data set. A step takes its thresholds from
    the memory as it was before it. Reports "mask", the share that counts, and the
    lowest and the highest threshold.

    Attributes:
      threshold: τ, of a class that is learned best, and of what the memory keeps.
      warmup: whether examples never predicted with confidence hold thresholds down.
      mapping: "convex" or "linear".
      strong: as in `FixMatch`.
      stream: name of the stream; its labels are not used.

    References:
      Zhang et al., FlexMatch: Boosting Semi-Supervised Learning with Curriculum Pseudo
      Labeling, NeurIPS 2021, algorithm 1.
    """

    threshold: float = traced(0.95)
    warmup: bool = True
    mapping: str = "convex"
    strong: tuple | None = None

    def check(self, setup: Setup):
        super().check(setup)
        checks.number(setup, "threshold", self.threshold, 0.0, 1.0)
        checks.one_of(setup, "mapping", self.mapping, ("convex", "linear"))
        augmented_views.check_strong(setup, self.stream, self.strong)

    def init_state(self, setup: Setup):
        memory = jnp.full(setup.examples[self.stream], NOT_IN_STREAM, jnp.int32)
        for batch in setup.batches(self.stream):
            memory = memory.at[batch["row"]].set(UNSURE)
        return {"memory": memory}

    def __call__(self, context):
        weak, strong = augmented_views.pair(context, self.stream, self.strong)
        memory = context.state["memory"]
        status = learning_status(memory, weak.shape[-1], self.warmup)
        limits = thresholds(status, self.threshold, self.mapping)
        value, mask, labels = fixmatch(weak, strong, limits)
        _, sure = pseudo_targets.selected(pseudo_targets.held(weak), self.threshold)
        rows = context.batches[self.stream]["row"]
        kept = jnp.where(sure > 0, labels.astype(jnp.int32), memory[rows])
        context.set_state({"memory": memory.at[rows].set(kept)})
        extra = {"mask": mask.mean(), "lowest": limits.min(), "highest": limits.max()}
        return value, extra
