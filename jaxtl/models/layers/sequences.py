"""Token sequences: inputs, masks, positions, and one state per text."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core import token_ids
from jaxtl.core.errors import UserError
from jaxtl.core.types import Tokens
from jaxtl.models.layers.pooling import maxima


def id_sizes(vocab: int, segments: int | None = None) -> dict[str, int]:
    """Integer input -> number of its values; `segments` is None without token types."""
    sizes = {"input_ids": vocab, "attention_mask": 2}
    return sizes if segments is None else {**sizes, "token_type_ids": segments}


def token_inputs(
    x: Any, sizes: Mapping[str, int], pad: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """Token ids (int32) and mask (bool) of a batch of texts, (batch, length) each.

    Args:
      x: {"input_ids": (batch, length) integers, "attention_mask": (batch, length), 1
        or True for real tokens; all are real if left out}.
      sizes: input -> number of its values; arrays that are not traced are compared.
      pad: as of `token_ids.check_last_tokens`.

    Raises:
      UserError: x is no such dict, or holds an id beyond the model's.
    """
    if not isinstance(x, dict) or "input_ids" not in x:
        received = (
            f"a dict with {sorted(x)}" if isinstance(x, dict) else type(x).__name__
        )
        raise UserError(
            "a text model reads a dict with 'input_ids' (batch, length) and "
            f"'attention_mask'; got {received}."
        )
    token_ids.check_ids(x, sizes, "the model's inputs")
    token_ids.check_last_tokens(x, pad, "the model's inputs")
    ids = jnp.asarray(x["input_ids"]).astype(jnp.int32)
    mask = x.get("attention_mask")
    mask = jnp.ones(ids.shape, bool) if mask is None else jnp.asarray(mask).astype(bool)
    return ids, mask


def token_positions(mask: jax.Array) -> jax.Array:
    """Positions that count real tokens from 0, (batch, length).

    On whichever side the padding is, the first real token is at 0.
    """
    return jnp.maximum(jnp.cumsum(mask, -1) - 1, 0)


def check_length(length: int, context: int) -> None:
    """Raises UserError where a text is longer than the model has positions."""
    if length > context:
        raise UserError(
            f"a text of {length} tokens is longer than the model's context of "
            f"{context}: truncate it (max_length={context})."
        )


def first_state(tokens: Tokens) -> jax.Array:
    """The state of each sequence's first token, (batch, width)."""
    return tokens.states[:, 0]


def last_state(tokens: Tokens) -> jax.Array:
    """The state of each text's last real token, (batch, width)."""
    length = tokens.mask.shape[1]
    index = length - 1 - jnp.argmax(tokens.mask[:, ::-1], -1)
    return jnp.take_along_axis(tokens.states, index[:, None, None], 1)[:, 0]


def max_state(tokens: Tokens) -> jax.Array:
    """The maximum over each text's real tokens, (batch, width)."""
    lowest = jnp.finfo(tokens.states.dtype).min
    return maxima(jnp.where(tokens.mask[..., None], tokens.states, lowest))


def mean_sqrt_len_state(tokens: Tokens) -> jax.Array:
    """The sum over each text's n real tokens, over √n, (batch, width)."""
    mask = tokens.mask[..., None].astype(tokens.states.dtype)
    return (tokens.states * mask).sum(1) / jnp.sqrt(jnp.maximum(mask.sum(1), 1))


def weighted_mean_state(tokens: Tokens) -> jax.Array:
    """The mean over each text's real tokens, the i-th with weight i, (batch, width).

    References:
      Muennighoff: SGPT, arXiv:2202.08904.
    """
    weights = (token_positions(tokens.mask) + 1) * tokens.mask
    weights = weights[..., None].astype(tokens.states.dtype)
    return (tokens.states * weights).sum(1) / jnp.maximum(weights.sum(1), 1)


def unit_length(x: jax.Array) -> jax.Array:
    """x / max(‖x‖, 1e-12), along the last axis, as torch's `normalize`."""
    # Written so that the gradient at 0 is finite.
    square = jnp.sum(jnp.square(x), -1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def mean_state(tokens: Tokens) -> jax.Array:
    """The mean state over each text's real tokens, (batch, width)."""
    mask = tokens.mask[..., None].astype(tokens.states.dtype)
    return (tokens.states * mask).sum(1) / jnp.maximum(mask.sum(1), 1)
