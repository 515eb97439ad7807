"""Logit adjustment: cross-entropy of logits that are shifted by the classes' shares."""

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


def adjusted_logits(
    logits: jax.Array, shares: jax.Array, tau: float | jax.Array
) -> jax.Array:
    """z + τ·log π: logits of classes with the shares π in training.

    Args:
      logits: z, (batch, K).
      shares: π, (K,).
      tau: τ.

    Returns:
      (batch, K).

    References:
      Menon et al., Long-Tail Learning via Logit Adjustment, ICLR 2021, eq. 10; τ = 1 is
      the balanced softmax of Ren et al., NeurIPS 2020.
    """
    return logits + tau * jnp.log(shares)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogitAdjustment(WeightedTerm):
    """Cross-entropy of `adjusted_logits`; evaluation reads the logits themselves.

    So the model learns what distinguishes the classes, and training adds how frequent
    each is. Reports the accuracy.

    Attributes:
      tau: τ, at least 0; 1 is consistent for the balanced error.
    """

    tau: float = traced(1.0)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.number(setup, "tau", self.tau, 0.0)
        check_all_occur(setup, "LogitAdjustment", self.stream)

    def constants(self, setup: Setup) -> PyTree:
        counts = jnp.asarray(label_counts(setup, self.stream), jnp.float32)
        # Outputs that this stream has no class for keep their logits.
        shares = jnp.where(counts > 0, counts / jnp.sum(counts), 1.0)
        return {**super().constants(setup), "shares": shares}

    def __call__(self, context: View) -> tuple[jax.Array, Metrics]:
        logits = context.forward(self.stream).logits
        labels = context.batches[self.stream]["y"]
        adjusted = adjusted_logits(logits, context.constants["shares"], self.tau)
        values = -losses.label_log_probabilities(adjusted, labels)
        value = self.weighted_mean(context, values)
        return value, {"accuracy": losses.label_accuracy(logits, labels)}
