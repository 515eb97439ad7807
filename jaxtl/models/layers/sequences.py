"""Token sequences: inputs, masks, positions, and one state per text."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.core.types import Tokens


def token_inputs(x: Any) -> tuple[jax.Array, jax.Array]:
    """Token ids (int32) and mask (bool) of a batch of texts, (batch, length) each.

    Args:
      x: {"input_ids": (batch, length) integers, "attention_mask": (batch, length), 1
        or True for real tokens; all are real if left out}.

    Raises:
      UserError: x is no such dict.
    """
    if not isinstance(x, dict) or "input_ids" not in x:
        received = (
            f"a dict with {sorted(x)}" if isinstance(x, dict) else type(x).__name__
        )
        raise UserError(
            "a text model reads a dict with 'input_ids' (batch, length) and "
            f"'attention_mask'; got {received}."
        )
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


def mean_state(tokens: Tokens) -> jax.Array:
    """The mean state over each text's real tokens, (batch, width)."""
    mask = tokens.mask[..., None].astype(tokens.states.dtype)
    return (tokens.states * mask).sum(1) / jnp.maximum(mask.sum(1), 1)
