"""Embeddings of the text towers of models of images and texts."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core import token_ids
from jaxtl.core.types import Tokens
from jaxtl.models.layers import sequences
from jaxtl.models.layers.embeddings import DecoderEmbeddings
from jaxtl.models.staged import Mode


class EndedEmbeddings(DecoderEmbeddings):
    """`DecoderEmbeddings` whose mask ends with the end-of-text token.

    In a causal model no token behind it changes its state, which stands for the text.

    Attributes:
      end: id of that token, whose first place counts; None takes the highest id of a
        text.
    """

    end: int | None = None

    def __call__(self, x: Mapping[str, Any], mode: Mode) -> Tokens:
        states, mask = super().__call__(x, mode)
        if self.end is not None:
            token_ids.check_holds(x, self.end, "the model's inputs")
        places = jnp.arange(mask.shape[1])
        last = _end_places(jnp.asarray(x["input_ids"]), mask, self.end)
        return Tokens(states, mask & (places <= last[:, None]))


def _end_places(ids: jax.Array, mask: jax.Array, end: int | None) -> jax.Array:
    """The place of each text's end-of-text token among its real tokens, (batch,)."""
    if end is None:
        return jnp.argmax(jnp.where(mask, ids, -1), -1)
    return jnp.argmax((ids == end) & mask, -1)


class FilledEmbeddings(DecoderEmbeddings):
    """`DecoderEmbeddings` of texts that padding fills up to the model's context.

    The padding is attended to as the tokens are: SigLIP is trained so.

    Attributes:
      fill: id of padding.
    """

    fill: int = 1

    def __call__(self, x: Mapping[str, Any], mode: Mode) -> Tokens:
        options = self.options
        sizes = sequences.id_sizes(options.vocab)
        ids, mask = sequences.token_inputs(x, sizes)
        sequences.check_length(ids.shape[1], options.context)
        rest = options.context - ids.shape[1]
        ids = jnp.where(mask, ids, self.fill)
        ids = jnp.pad(ids, ((0, 0), (0, rest)), constant_values=self.fill)
        return super().__call__({"input_ids": ids}, mode)
