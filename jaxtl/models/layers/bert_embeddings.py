"""Embeddings of encoders: tokens, positions and segments, and relative positions."""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.core.types import Tokens
from jaxtl.models.layers import norms, sequences
from jaxtl.models.layers.attention import Projection
from jaxtl.models.layers.dense import Dense, broadcast
from jaxtl.models.layers.embedding import Embed
from jaxtl.models.layers.initializers import NORMAL
from jaxtl.models.staged import Dropout, Mode

BUCKETS = 32


class BertEmbeddings(nn.Module):
    """Token, position and segment vectors, normalized, then dropout.

    Attributes:
      vocab: number of token ids.
      width: of the states.
      context: largest number of tokens of a text.
      segments: number of token types, 0 for none.
      epsilon: of the norm.
      rate: of dropout.
      offset: of `position_rows`.
      inner_width: of the vectors, which are then projected to `width`; None for
        vectors of `width`.
      relative_heads: number of attention heads that a table of relative positions has
        a number for (MPNet); 0 for no table.
      positions: whether there are position vectors.
      norm_kind: of the norm, a key of `norms.NORMS`.
      projects_first: whether the projection, then without a bias, precedes the norm.
    """

    vocab: int
    width: int
    context: int
    segments: int
    epsilon: float
    rate: float
    offset: int
    inner_width: int | None = None
    relative_heads: int = 0
    positions: bool = True
    norm_kind: str = "layer"
    projects_first: bool = False

    def setup(self) -> None:
        def table(rows: int, width: int = self.inner_width or self.width) -> Embed:
            return Embed(rows, width, embedding_init=NORMAL)

        self.token = table(self.vocab)
        if self.positions:
            self.position = table(self.context + self.offset)
        if self.segments:
            self.segment = table(self.segments)
        self.norm = norms.norm(self.norm_kind, self.epsilon, "norm")
        self.dropout = Dropout(self.rate)
        if self.inner_width is not None:
            bias = not self.projects_first
            self.project = Dense(self.width, use_bias=bias, kernel_init=NORMAL)
        if self.relative_heads:
            self.relative = table(BUCKETS, self.relative_heads)
            if self.is_initializing():
                self.relative(jnp.zeros(1, int))

    def __call__(self, x: Mapping[str, Any], mode: Mode) -> Tokens:
        sizes = sequences.id_sizes(self.vocab, self.segments or None)
        ids, mask = sequences.token_inputs(x, sizes)
        sequences.check_length(ids.shape[1], self.context)
        states = self.token(ids)
        if self.segments:
            segment = jnp.asarray(x.get("token_type_ids", jnp.zeros_like(ids)))
            states += self.segment(segment.astype(jnp.int32))
        if self.positions:
            positions = self.position(position_rows(ids, self.offset))
            states += broadcast(positions, states.shape)
        has_projection = self.inner_width is not None
        if has_projection and self.projects_first:
            states = self.project(states)
        states = self.dropout(self.norm(states), mode)
        if has_projection and not self.projects_first:
            states = self.project(states)
        return Tokens(states, mask)

    def relation(
        self, query: jax.Array, key: jax.Array, project: Projection
    ) -> jax.Array:
        """What a key's distance adds to its product, (batch, heads, length, length)."""
        places = jnp.arange(query.shape[1])
        values = self.relative(_buckets(places - places[:, None]))
        values = values.transpose(2, 0, 1).astype(query.dtype)
        return broadcast(values, (query.shape[0], *values.shape))


def _buckets(distance: jax.Array) -> jax.Array:
    """Bucket of a key's place less the query's: near ones each have their own.

    Those from 8 on share buckets on a logarithmic scale up to 128.

    References:
      Raffel et al.: T5, JMLR 2020. Song et al.: MPNet, NeurIPS 2020.
    """
    half, exact = BUCKETS // 2, BUCKETS // 4
    size = jnp.abs(distance)
    log = jnp.log(jnp.maximum(size, 1) / exact) / math.log(128 / exact)
    far = jnp.minimum(exact + (log * (half - exact)).astype(jnp.int32), half - 1)
    return jnp.where(size < exact, size, far) + half * (distance > 0)


def position_rows(ids: jax.Array, offset: int) -> jax.Array:
    """Rows of the position table, (batch, length) or (1, length), as in transformers.

    BERT counts all places from 0, padding included. RoBERTa counts the tokens that are
    no padding, whose id is offset − 1, from `offset`; padding is at offset − 1.
    """
    if not offset:
        return jnp.arange(ids.shape[1])[None]
    real = ids != offset - 1
    return jnp.cumsum(real, -1) * real + offset - 1
