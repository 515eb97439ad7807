"""MatchingNet: queries attend to the support examples, whose labels they take."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.config import traced
from jaxtl.core.types import PyTree
from jaxtl.models.layers.sequences import unit_length
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.fewshot import base


def attention_logits(
    support: jax.Array, queries: jax.Array, scale: float | jax.Array = 1.0
) -> jax.Array:
    """log Σ_{i of class k} a(q, xᵢ), a = softmax over i of scale · cos(f(q), f(xᵢ)).

    Args:
      support: (ways, shots, width).
      queries: (n, width).
      scale: of the cosines.

    Returns:
      (n, ways), log probabilities.
    """
    cosines = jnp.einsum("nd,wsd->nws", unit_length(queries), unit_length(support))
    attention = jax.nn.log_softmax(scale * cosines, axis=(1, 2))
    return jax.nn.logsumexp(attention, axis=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatchingNet(base.FeatureTerm):
    """Mean negative `attention_logits` of the queries' classes.

    Without the paper's full context embeddings: support and queries are embedded by the
    model, each by itself.

    Attributes:
      scale: of the cosines before the softmax; 1 in the paper, where probabilities of
        five classes can't go above .65 then.

    References:
      Vinyals et al., Matching Networks for One Shot Learning, NeurIPS 2016, eq. 1 and
      section 2.1.1.
    """

    scale: float = traced(1.0)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.positive(setup, "scale", self.scale)

    def classify(
        self, term_params: PyTree, support: jax.Array, queries: jax.Array
    ) -> jax.Array:
        del term_params
        return attention_logits(support, queries, self.scale)
