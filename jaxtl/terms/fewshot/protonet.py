"""ProtoNet: queries go to the class whose mean support feature is the nearest."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.types import PyTree
from jaxtl.terms.fewshot import base


def prototype_logits(support: jax.Array, queries: jax.Array) -> jax.Array:
    """−‖f(q) − c_k‖², c_k the mean of the support features of class k.

    By differences, as the products of `analysis.geometry` would lose digits in float32.

    Args:
      support: (ways, shots, width).
      queries: (n, width).

    Returns:
      (n, ways).
    """
    prototypes = support.mean(1)
    return -jnp.square(queries[:, None] - prototypes[None]).sum(-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProtoNet(base.FeatureTerm):
    """Mean cross-entropy of `prototype_logits` over the queries of all episodes.

    References:
      Snell, Swersky, Zemel, Prototypical Networks for Few-shot Learning, NeurIPS 2017,
      eq. 1 and 2 with the squared Euclidean distance.
    """

    def classify(
        self, term_params: PyTree, support: jax.Array, queries: jax.Array
    ) -> jax.Array:
        del term_params
        return prototype_logits(support, queries)
