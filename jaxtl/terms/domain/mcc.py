"""Minimum class confusion: predictions that name one class or the other."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term
from jaxtl.terms.domain.entropy import entropy


def class_confusion(logits: jax.Array, temperature=2.5) -> jax.Array:
    """(1/K) Σ_{j≠k} C̃_jk, C̃ the class correlation ŶᵀWŶ with rows that sum to 1.

    Ŷ = softmax(logits / T); W is diagonal, W_i ∝ 1 + exp(−H(ŷ_i)), and sums to the size
    of the batch. No gradient flows through W.

    Args:
      logits: (batch, K), before the softmax.
      temperature: T > 0, may be traced.

    Returns:
      A scalar in [0, 1), 0 where every prediction is certain. A class that nothing
      predicts has no row to normalise and counts 0.

    References:
      Jin et al., Minimum Class Confusion for Versatile Domain Adaptation, ECCV 2020,
      section 3, with T = 2.5.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32)) / temperature
    certain = 1.0 + jnp.exp(-jax.lax.stop_gradient(entropy(logits)))
    weights = certain * (len(certain) / jnp.sum(certain))
    p = jax.nn.softmax(logits)
    counts = jnp.matmul((p * weights[:, None]).T, p, precision="highest")
    rows = jnp.sum(counts, axis=1, keepdims=True)
    shares = counts / jnp.where(rows > 0, rows, 1.0)
    return (jnp.sum(shares) - jnp.trace(shares)) / logits.shape[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MCC(Term):
    """`class_confusion` of a stream's predictions.

    Attributes:
      temperature: T, which makes overconfident predictions comparable.
      target: stream whose predictions are meant; its labels are not used.
    """

    temperature: float = traced(2.5)
    target: str = "unlabelled"

    @property
    def streams(self):
        return (self.target,)

    def check(self, setup: Setup):
        checks.task(setup, "MCC", "classification")
        checks.stream(setup, "target", self.target)
        checks.positive(setup, "temperature", self.temperature)

    def __call__(self, context):
        logits = context.forward(self.target).logits
        return class_confusion(logits, self.temperature)
