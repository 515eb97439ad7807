"""Batch nuclear-norm maximization: predictions that are certain and diverse."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core.tree import as_float32
from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term, stream_field
from jaxtl.terms.context import View


def nuclear_norm(probabilities: jax.Array) -> jax.Array:
    """‖A‖_* / B, the sum of the singular values of a batch of predictions over B.

    Args:
      probabilities: A, (B, K), rows that sum to 1.

    Returns:
      A scalar in [1/√(B·K), √(min(B, K)/B)]: the smallest value where all predictions
      are uniform, the largest where they are certain and all classes occur equally
      often.

    References:
      Cui et al., Towards Discriminability and Diversity: Batch Nuclear-norm
      Maximization under Label Insufficient Situations, CVPR 2020. The authors' program
      takes the mean of the singular values, over min(B, K): its weight 1 is
      B / min(B, K) here (32 / 10 for batches of 32 of ten classes).
    """
    values = jnp.linalg.svd(probabilities, compute_uv=False)
    return jnp.sum(values) / probabilities.shape[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BNM(Term):
    """−`nuclear_norm` of a stream's predictions, so that descent raises the norm.

    Attributes:
      target: stream whose predictions are read; its labels are not used.
    """

    compares: ClassVar[str] = "the rank of the predictions"

    target: str = stream_field("unlabelled")

    def check(self, setup: Setup) -> None:
        checks.task(setup, "BNM", "classification")
        checks.stream(setup, "target", self.target)

    def __call__(self, context: View) -> jax.Array:
        logits = as_float32(context.forward(self.target).logits)
        return -nuclear_norm(jax.nn.softmax(logits))
