"""Pooling of tokens by the attention of one trained query.

References:
  Lee et al.: Set Transformer, ICML 2019.
  Zhai et al.: Scaling Vision Transformers, CVPR 2022 (the MAP head).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.core.types import Tokens
from jaxtl.models.layers import norms
from jaxtl.models.layers.dense import Dense, broadcast
from jaxtl.models.layers.initializers import NORMAL
from jaxtl.models.layers.transformer import FeedForward
from jaxtl.models.staged import Mode


class _QueryAttention(nn.Module):
    """Multi-head attention of some queries to the states of tokens.

    Attributes:
      heads: number of heads.
    """

    heads: int

    @nn.compact
    def __call__(self, query: jax.Array, states: jax.Array) -> jax.Array:
        """Attends from (batch, queries, width) to (batch, length, width)."""
        width = states.shape[-1]

        def project(x: jax.Array, name: str) -> jax.Array:
            x = Dense(width, kernel_init=NORMAL, name=name)(x)
            return x.reshape(*x.shape[:2], self.heads, -1)

        out = jax.nn.dot_product_attention(
            project(query, "query"), project(states, "key"), project(states, "value")
        )
        out = out.reshape(*out.shape[:2], width)
        return Dense(width, kernel_init=NORMAL, name="out")(out)


class AttentionPool(nn.Module):
    """y + mlp(norm(y)) of the attention y of a trained query, (batch, width).

    Attributes:
      heads: of the attention.
      hidden: width inside the feed-forward part.
      activation: by name.
      epsilon: of the norm.
    """

    heads: int
    hidden: int
    activation: str
    epsilon: float

    @nn.compact
    def __call__(self, tokens: Tokens, mode: Mode) -> jax.Array:
        states = tokens.states
        probe = self.param("probe", NORMAL, (1, 1, states.shape[-1]))
        query = broadcast(probe, (len(states), 1, states.shape[-1]))
        query = jnp.asarray(query, states.dtype)
        y = _QueryAttention(self.heads, name="attention")(query, states)
        z = norms.layer_norm(self.epsilon, "norm")(y)
        return (y + FeedForward(self.hidden, self.activation, name="mlp")(z))[:, 0]
