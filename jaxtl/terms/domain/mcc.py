"""Minimum class confusion: predictions that do not mix two classes."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.tree import as_float32
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, stream_field
from jaxtl.terms.context import View
from jaxtl.terms.domain.entropy import entropy


def class_confusion(
    logits: jax.Array, temperature: float | jax.Array = 2.5
) -> jax.Array:
    """(1/K) Σ_{j≠k} C̃_jk, C̃ the class correlation ŶᵀWŶ with rows that sum to 1.

    Ŷ = softmax(logits / T); W is diagonal, W_i ∝ 1 + exp(−H(ŷ_i)), and sums to the size
    of the batch. No gradient flows through W.

    Args:
      logits: (batch, K), before the softmax.
      temperature: T > 0, may be traced.

    Returns:
      A scalar in [0, 1), 0 where every prediction is certain. A class that no example
      is predicted as has no row to normalize and counts 0.

    References:
      Jin et al., Minimum Class Confusion for Versatile Domain Adaptation, ECCV 2020,
      section 3, with T = 2.5.
    """
    logits = as_float32(logits) / temperature
    certainty = 1.0 + jnp.exp(-jax.lax.stop_gradient(entropy(logits)))
    weights = certainty * (len(certainty) / jnp.sum(certainty))
    p = jax.nn.softmax(logits)
    correlation = jnp.matmul((p * weights[:, None]).T, p, precision="highest")
    row_sums = jnp.sum(correlation, axis=1, keepdims=True)
    shares = correlation / jnp.where(row_sums > 0, row_sums, 1.0)
    return (jnp.sum(shares) - jnp.trace(shares)) / logits.shape[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MCC(Term):
    """`class_confusion` of a stream's predictions.

    Attributes:
      temperature: T; above 1 it reduces the influence of overconfident predictions.
      target: stream whose predictions are read; its labels are not used.
    """

    compares: ClassVar[str] = "correlations of the classes"

    temperature: float = traced(2.5)
    target: str = stream_field("unlabelled")

    def check(self, setup: Setup) -> None:
        checks.task(setup, "MCC", "classification")
        checks.stream(setup, "target", self.target)
        checks.positive(setup, "temperature", self.temperature)

    def __call__(self, context: View) -> jax.Array:
        logits = context.forward(self.target).logits
        return class_confusion(logits, self.temperature)
