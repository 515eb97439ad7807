"""FreeMatch: thresholds that follow the model's own confidence, and fair classes."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.semi import augmented_views, pseudo_targets
from jaxtl.terms.semi.fixmatch import fixmatch


def follow(state: PyTree, q, momentum) -> PyTree:
    """Returns the moving averages after a batch.

    "threshold" (τ) of the mean largest probability, "probabilities" (p̃) of the mean
    prediction, "histogram" (h̃) of how often each class is the largest; each is
    m · before + (1 − m) · batch.

    Args:
      state: scalar, (K,), (K,).
      q: probabilities of the weak views, (n, K).
      momentum: m.

    References:
      Wang et al., FreeMatch, ICLR 2023, section 4.
    """
    now = {
        "threshold": q.max(-1).mean(),
        "probabilities": q.mean(0),
        "histogram": histogram(q.argmax(-1), jnp.ones(len(q)), q.shape[-1]),
    }
    return jax.tree.map(lambda a, b: momentum * a + (1 - momentum) * b, state, now)


def histogram(labels, mask, classes: int) -> jax.Array:
    """Returns each class's share of the examples that the mask counts, (classes,)."""
    hot = jax.nn.one_hot(labels, classes) * mask[:, None]
    return hot.sum(0) / jnp.maximum(mask.sum(), 1)


def thresholds(state: PyTree) -> jax.Array:
    """τ(c) = p̃(c) / max_k p̃(k) · τ, (classes,): self-adaptive thresholds."""
    p = state["probabilities"]
    return p / p.max() * state["threshold"]


def fairness(state: PyTree, strong, mask) -> jax.Array:
    """Σ_c a(c) log b(c), a = SumNorm(p̃/h̃) and b = SumNorm(p̄/h̄): −H(a, b).

    p̄ is the mean prediction of the strong views that count and h̄ the histogram of
    their most likely classes. Classes that no prediction names (h = 0) are left out: in
    the authors' code they add a constant, here nothing. Negative as a rule, and 0 where
    no example counts.

    Args:
      state: with "probabilities" p̃ and "histogram" h̃; no gradient flows through it.
      strong: logits, (n, K).
      mask: (n,).

    References:
      Wang et al., FreeMatch, ICLR 2023, section 4: self-adaptive fairness.
    """
    p = pseudo_targets.softmax(strong)
    shares = histogram(jnp.argmax(strong, -1), mask, p.shape[-1])
    mean = (mask[:, None] * p).sum(0) / jnp.maximum(mask.sum(), 1)
    a = _normalized(state["probabilities"], state["histogram"])
    b = _normalized(mean, jax.lax.stop_gradient(shares))
    seen = shares > 0
    return jnp.sum(jnp.where(seen, a * jnp.log(jnp.where(seen, b, 1.0)), 0.0))


def _normalized(p, shares) -> jax.Array:
    ratio = jnp.where(shares > 0, p / jnp.where(shares > 0, shares, 1.0), 0.0)
    return ratio / jnp.maximum(ratio.sum(), jnp.finfo(ratio.dtype).tiny)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FreeMatch(pseudo_targets._OnUnlabelled):
    """`FixMatch` with thresholds per class that follow the model's confidence.

    The value is the masked cross-entropy plus `fairness` times the fairness term, which
    is negative as a rule. Moving averages start at 1/K and live in this term's state;
    a step brings them up to date before it takes its thresholds. Reports "mask", the
    share that counts, "threshold", the global one, and "fairness".

    Attributes:
      momentum: of the moving averages. The paper's 0.999 is made for a million steps:
        in n steps 1 − 1/(0.1·n) lets thresholds leave 1/K in time.
      fairness: w_f; the paper's 0.05, or 0.01 where labels are very few.
      strong: as in `FixMatch`.
      stream: name of the stream; its labels are not used.

    References:
      Wang et al., FreeMatch: Self-adaptive Thresholding for Semi-supervised Learning,
      ICLR 2023.
    """

    momentum: float = traced(0.999)
    fairness: float = traced(0.05)
    strong: tuple | None = None

    def check(self, setup: Setup):
        super().check(setup)
        checks.number(setup, "momentum", self.momentum, 0.0, 1.0)
        checks.number(setup, "fairness", self.fairness, 0.0)
        augmented_views.check_strong(setup, self.stream, self.strong)

    def init_state(self, setup: Setup):
        even = jnp.full(setup.program.outputs, 1 / setup.program.outputs, jnp.float32)
        return {"threshold": even[0], "probabilities": even, "histogram": even}

    def __call__(self, context):
        weak, strong = augmented_views.pair(context, self.stream, self.strong)
        state = follow(context.state, pseudo_targets.held(weak), self.momentum)
        context.set_state(state)
        value, mask, _ = fixmatch(weak, strong, thresholds(state))
        fair = fairness(state, strong, mask)
        extra = {"mask": mask.mean(), "threshold": state["threshold"], "fairness": fair}
        return value + self.fairness * fair, extra
