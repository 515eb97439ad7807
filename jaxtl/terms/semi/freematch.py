"""FreeMatch: thresholds that follow the model's confidence, and a fairness loss."""

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


def updated_averages(
    state: PyTree, q: jax.Array, momentum: float | jax.Array
) -> PyTree:
    """Updates the moving averages by a batch: m · previous + (1 − m) · batch.

    Args:
      state: the averages: "threshold" (τ, scalar) of the mean largest probability,
        "probabilities" (p̃, (K,)) of the mean prediction, "histogram" (h̃, (K,)) of each
        class's share of the most likely classes.
      q: probabilities of the weak views, (n, K).
      momentum: m.

    Returns:
      The new state.

    References:
      Wang et al., FreeMatch, ICLR 2023, section 4.
    """
    batch = {
        "threshold": q.max(-1).mean(),
        "probabilities": q.mean(0),
        "histogram": _histogram(q.argmax(-1), jnp.ones(len(q)), q.shape[-1]),
    }
    return jax.tree.map(lambda a, b: momentum * a + (1 - momentum) * b, state, batch)


def _histogram(labels: jax.Array, mask: jax.Array, classes: int) -> jax.Array:
    """Each class's share of the examples that the mask counts, (classes,)."""
    one_hot = jax.nn.one_hot(labels, classes) * mask[:, None]
    return one_hot.sum(0) / jnp.maximum(mask.sum(), 1)


def self_adaptive_thresholds(state: PyTree) -> jax.Array:
    """τ(c) = p̃(c) / max_k p̃(k) · τ, (classes,), from the state's moving averages.

    Args:
      state: {"probabilities": p̃, (classes,); "threshold": τ, a scalar}.

    Returns:
      Thresholds of the confidence in [0, 1].
    """
    p = state["probabilities"]
    return p / p.max() * state["threshold"]


def fairness_loss(state: PyTree, strong: jax.Array, mask: jax.Array) -> jax.Array:
    """Σ_c a(c) log b(c), a = SumNorm(p̃/h̃) and b = SumNorm(p̄/h̄): −H(a, b).

    p̄ is the mean prediction of the strong views that count and h̄ the histogram of
    their most likely classes. Classes that no prediction names (h = 0) are left out: in
    the authors' code they add a constant, here nothing. Usually negative, and 0 where
    no example counts.

    Args:
      state: with "probabilities" p̃ and "histogram" h̃; no gradient flows through it.
      strong: logits, (n, K).
      mask: (n,).

    Returns:
      A scalar in nats.

    References:
      Wang et al., FreeMatch, ICLR 2023, section 4: self-adaptive fairness.
    """
    p = pseudo_targets.softmax(strong)
    shares = _histogram(jnp.argmax(strong, -1), mask, p.shape[-1])
    mean = (mask[:, None] * p).sum(0) / jnp.maximum(mask.sum(), 1)
    a = _sum_normalized(state["probabilities"], state["histogram"])
    b = _sum_normalized(mean, jax.lax.stop_gradient(shares))
    is_named = shares > 0
    return jnp.sum(jnp.where(is_named, a * jnp.log(jnp.where(is_named, b, 1.0)), 0.0))


def _sum_normalized(p: jax.Array, shares: jax.Array) -> jax.Array:
    """p / shares, scaled to the sum 1; 0 where a share is 0."""
    ratio = jnp.where(shares > 0, p / jnp.where(shares > 0, shares, 1.0), 0.0)
    return ratio / jnp.maximum(ratio.sum(), jnp.finfo(ratio.dtype).tiny)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FreeMatch(pseudo_targets.UnlabelledTerm):
    """`FixMatch` with thresholds per class that follow the model's confidence.

    The value is the masked cross-entropy plus `fairness` times `fairness_loss`, which
    is usually negative. Moving averages start at 1/K and are this term's state; a step
    updates them before it computes its thresholds. Reports "mask", the share of
    examples that count, "threshold", the global one, and "fairness".

    Attributes:
      momentum: of the moving averages. The paper's 0.999 is meant for a million steps:
        in n steps 1 − 1/(0.1·n) lets thresholds leave 1/K in time.
      fairness: w_f; the paper's 0.05, or 0.01 where labels are very few.
      strong: as in `FixMatch`.
      stream: name of the stream; its labels are not used.

    References:
      Wang et al., FreeMatch: Self-adaptive Thresholding for Semi-supervised Learning,
      ICLR 2023.
    """

    compares: ClassVar[str] = "the mean prediction"
    moves_once: ClassVar[bool] = True

    momentum: float = traced(0.999)
    fairness: float = traced(0.05)
    strong: tuple | None = None

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.number(setup, "momentum", self.momentum, 0.0, 1.0)
        checks.number(setup, "fairness", self.fairness, 0.0)
        augmented_views.check_strong(setup, self.stream, self.strong)

    def init_state(self, setup: Setup) -> PyTree:
        uniform = jnp.full(
            setup.program.outputs, 1 / setup.program.outputs, jnp.float32
        )
        return {"threshold": uniform[0], "probabilities": uniform, "histogram": uniform}

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        weak, strong = augmented_views.weak_and_strong_logits(
            context, self.stream, self.strong
        )
        q = pseudo_targets.target_probabilities(weak)
        state = updated_averages(context.state, q, self.momentum)
        context.set_state(state)
        value, mask, _ = fixmatch(weak, strong, self_adaptive_thresholds(state))
        fairness = fairness_loss(state, strong, mask)
        return value + self.fairness * fairness, {
            "mask": mask.mean(),
            "threshold": state["threshold"],
            "fairness": fairness,
        }
