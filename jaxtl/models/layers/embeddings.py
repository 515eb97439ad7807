"""Embeddings of decoders: token vectors, and learned positions where there are any."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.core.types import Tokens
from jaxtl.models.layers import sequences
from jaxtl.models.layers.dense import Dense, broadcast
from jaxtl.models.layers.embedding import Embed
from jaxtl.models.layers.initializers import NORMAL
from jaxtl.models.staged import Dropout, Mode


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddingOptions:
    """What the embeddings of a decoder compute.

    Attributes:
      vocab: number of token ids.
      width: of the states.
      context: largest number of tokens of a text.
      pad: id of padding that the mask is compared with; None for none.
      positions: "" for no position vectors; "places" count all places, padding
        included, as GPT-2; "tokens" count the real tokens, as OPT, where padding has
        the row before the first.
      offset: row of the first position in the table.
      inner_width: of the table, whose vectors are then projected to `width`; None for
        a table of `width`.
      scale: factor of the token vectors.
      dropout: rate.
    """

    vocab: int
    width: int
    context: int
    pad: int | None = None
    positions: str = ""
    offset: int = 0
    inner_width: int | None = None
    scale: float = 1.0
    dropout: float = 0.0


class DecoderEmbeddings(nn.Module):
    """Token vectors, scaled and projected, plus position vectors, then dropout."""

    options: EmbeddingOptions

    def setup(self) -> None:
        options = self.options
        inner = options.inner_width or options.width
        self.token = Embed(options.vocab, inner, embedding_init=NORMAL)
        if options.inner_width is not None:
            self.project = Dense(options.width, use_bias=False, kernel_init=NORMAL)
        if options.positions:
            rows = options.context + options.offset
            self.position = Embed(rows, options.width, embedding_init=NORMAL)
        self.drop = Dropout(options.dropout)

    def __call__(self, x: Mapping[str, Any], mode: Mode) -> Tokens:
        options = self.options
        sizes = sequences.id_sizes(options.vocab)
        ids, mask = sequences.token_inputs(x, sizes, options.pad)
        sequences.check_length(ids.shape[1], options.context)
        if options.positions == "tokens":
            positions = jnp.cumsum(mask, -1) * mask - 1
        else:  # as in transformers; generation counts real tokens
            positions = jnp.arange(ids.shape[1])[None]
        return Tokens(self.drop(self.embed(ids, positions), mode), mask)

    def embed(self, ids: jax.Array, positions: jax.Array) -> jax.Array:
        """Vectors of tokens at these positions, (batch, length, width)."""
        options, states = self.options, self.token(ids)
        if options.scale != 1.0:
            states *= jnp.asarray(options.scale, states.dtype)
        if options.inner_width is not None:
            states = self.project(states)
        if options.positions:
            rows = self.position(positions + options.offset)
            states += broadcast(rows, states.shape)
        return states
