"""Batch nuclear-norm maximisation: predictions both decided and diverse."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.terms import checks
from jaxtl.terms.base import Setup, Term


def nuclear_norm(probabilities: jax.Array) -> jax.Array:
    """‖A‖_* / B, the sum of the singular values of a batch of predictions over B.

    Args:
      probabilities: A, (B, K), rows that sum to 1.

    Returns:
      A scalar in [1/√(B·K), √(min(B, K)/B)]; the least where all predictions are
      uniform, the largest where they are certain and all classes occur alike.

    References:
      Cui et al., Towards Discriminability and Diversity: Batch Nuclear-norm
      Maximization under Label Insufficient Situations, CVPR 2020.
    """
    values = jnp.linalg.svd(probabilities, compute_uv=False)
    return jnp.sum(values) / probabilities.shape[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BNM(Term):
    """−`nuclear_norm` of a stream's predictions, so that descent raises the norm.

    Attributes:
      target: stream whose predictions are meant; its labels are not used.
    """

    target: str = "unlabelled"

    @property
    def streams(self):
        return (self.target,)

    def check(self, setup: Setup):
        checks.task(setup, "BNM", "classification")
        checks.stream(setup, "target", self.target)

    def __call__(self, context):
        logits = context.forward(self.target).logits
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        return -nuclear_norm(jax.nn.softmax(logits))
