"""RelationNet: a learned module scores how well a query fits each class."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.domain.adversarial import perceptron, perceptron_init
from jaxtl.terms.fewshot import base


def relation_scores(
    params: PyTree, support: jax.Array, queries: jax.Array
) -> jax.Array:
    """g([Σ_i f(xᵢ) ; f(q)]) before its sigmoid, g a perceptron, Σ over a class's shots.

    Args:
      params: of g, as `perceptron_init` makes them.
      support: (ways, shots, width).
      queries: (n, width).

    Returns:
      (n, ways).
    """
    sums = support.sum(1)
    shape = (len(queries), *sums.shape)
    pairs = jnp.concatenate(
        [jnp.broadcast_to(sums, shape), jnp.broadcast_to(queries[:, None], shape)], -1
    )
    return perceptron(params, pairs.reshape(-1, pairs.shape[-1])).reshape(shape[:2])


def relation_loss(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over queries and classes of (σ(score) − [class is the query's])².

    Args:
      scores: (n, ways), before the sigmoid.
      labels: (n,).

    Returns:
      A scalar in [0, 1], without ½; the paper sums.
    """
    is_class = jax.nn.one_hot(labels, scores.shape[-1])
    return jnp.mean(jnp.square(jax.nn.sigmoid(scores) - is_class))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RelationNet(base.FeatureTerm):
    """`relation_loss` of `relation_scores`, whose module is trained with the model.

    The paper's module has two convolutions over feature maps before its two dense
    layers; here features are vectors, and the module is the dense layers alone.

    Attributes:
      width: of the module's hidden layer; 8 in the paper.

    References:
      Sung et al., Learning to Compare: Relation Network for Few-Shot Learning, CVPR
      2018, eq. 1 and 2.
    """

    width: int = 8

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.count(setup, "width", self.width)

    def init(self, key: jax.Array, setup: Setup) -> PyTree:
        width = self.feature_width(setup)
        return perceptron_init(key, (2 * width, self.width))

    def classify(
        self, term_params: PyTree, support: jax.Array, queries: jax.Array
    ) -> jax.Array:
        return relation_scores(term_params, support, queries)

    def loss(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        return relation_loss(logits, labels)
