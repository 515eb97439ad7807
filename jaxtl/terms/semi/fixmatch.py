"""FixMatch: confident pseudo-labels of a weak view as targets of the strong view."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.terms import checks
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.semi import augmented_views, pseudo_targets


def fixmatch(
    weak: jax.Array, strong: jax.Array, threshold: float | jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """1/n Σ 1(max q ≥ τ) · H(argmax q, p), q of the weak view and p of the strong.

    Args:
      weak: logits, (n, K), without gradient.
      strong: logits, (n, K).
      threshold: τ, or one per class, (K,), taken at argmax q.

    Returns:
      (the value, the mask (n,), the pseudo-labels (n,)).

    References:
      Sohn et al., FixMatch, NeurIPS 2020, eq. 4.
    """
    q = pseudo_targets.target_probabilities(weak)
    labels = q.argmax(-1)
    threshold = jnp.asarray(threshold)
    if threshold.ndim:
        threshold = threshold[labels]
    _, mask = pseudo_targets.pseudo_labels(q, threshold)
    return pseudo_targets.masked_cross_entropy(strong, labels, mask), mask, labels


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixMatch(pseudo_targets.UnlabelledTerm):
    """Cross-entropy of strong views against confident pseudo-labels of weak ones.

    The weak view is the batch as the experiment augments it, in its training pass; the
    strong view has a separate pass, with separate batch statistics. (The authors put
    labelled, weak and strong examples in one pass.) Reports "mask", the share of
    examples that count.

    Attributes:
      threshold: τ.
      strong: operations of the strong view, on stored values; None takes the defaults
        (`augmented_views.strong_operations`).
      stream: name of the stream; its labels are not used. The paper's batch is 7 times
        the labelled one: `batch={"target": 64, "unlabelled": 448}`.

    References:
      Sohn et al., FixMatch: Simplifying Semi-Supervised Learning with Consistency and
      Confidence, NeurIPS 2020, with λ_u = weight.
    """

    threshold: float = traced(0.95)
    strong: tuple | None = None

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.number(setup, "threshold", self.threshold, 0.0, 1.0)
        augmented_views.check_strong(setup, self.stream, self.strong)

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        weak, strong = augmented_views.weak_and_strong_logits(
            context, self.stream, self.strong
        )
        value, mask, _ = fixmatch(weak, strong, self.threshold)
        return value, {"mask": mask.mean()}
