"""LDAM: cross-entropy with a margin that is wider for rare classes."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.types import PyTree
from jaxtl.terms import checks, losses
from jaxtl.terms.base import Metrics, Setup
from jaxtl.terms.context import View
from jaxtl.terms.imbalance.base import WeightedTerm
from jaxtl.terms.imbalance.class_weights import check_all_occur, label_counts


def label_margins(counts: jax.Array, largest: float | jax.Array) -> jax.Array:
    """Δ_c ∝ n_c^(−1/4), scaled so that the rarest class has the margin `largest`.

    Args:
      counts: n_c, (K,); a class that does not occur has the margin 0.
      largest: the margin of the rarest class.

    Returns:
      Δ, (K,).

    References:
      Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin
      Loss, NeurIPS 2019, eq. 13.
    """
    margins = jnp.where(counts > 0, jnp.maximum(counts, 1.0) ** -0.25, 0.0)
    return largest * margins / jnp.max(margins)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LDAM(WeightedTerm):
    """Cross-entropy of s·(z − Δ_y at the label's class); reports the accuracy.

    The authors' last layer is a cosine, whose logits lie in [−1, 1]; with an ordinary
    head `scale=1` is the usual size.

    Attributes:
      margin: of the rarest class; the authors take 0.5.
      scale: s; the authors take 30.

    References:
      Cao et al., as `label_margins`.
    """

    margin: float = traced(0.5)
    scale: float = traced(30.0)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.number(setup, "margin", self.margin, 0.0)
        checks.positive(setup, "scale", self.scale)
        check_all_occur(setup, "LDAM", self.stream)

    def constants(self, setup: Setup) -> PyTree:
        counts = jnp.asarray(label_counts(setup, self.stream), jnp.float32)
        return {**super().constants(setup), "counts": counts}

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        logits = context.forward(self.stream).logits
        labels = context.batches[self.stream]["y"]
        margins = label_margins(context.constants["counts"], self.margin)
        is_label = jnp.arange(logits.shape[-1]) == labels[:, None]
        shifted = self.scale * (logits - jnp.where(is_label, margins, 0.0))
        value = self.weighted_mean(
            context, -losses.label_log_probabilities(shifted, labels)
        )
        return value, {"accuracy": losses.label_accuracy(logits, labels)}
