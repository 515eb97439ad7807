"""What transformers share: inputs and masks, attention, positions, feed-forward.

References:
  Vaswani et al.: Attention Is All You Need, NeurIPS 2017.
  Su et al.: RoFormer, arXiv:2104.09864 (rotary positions).
  Ainslie et al.: GQA, EMNLP 2023 (fewer key than query heads).
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.core.types import Tokens
from jaxtl.models import staged

INIT = nn.initializers.normal(0.02)


class KeyValueCache(NamedTuple):
    """Keys and values of one layer so far, each (batch, length, kv heads, width)."""

    keys: jax.Array
    values: jax.Array


class DecodingStep(NamedTuple):
    """Where a cached call stands.

    Attributes:
      index: the first of the new tokens' places in the cache, a scalar.
      real: (batch, cache length) bools, True where a key is no padding.
      positions: (batch, new tokens), the positions of the new tokens.
    """

    index: jax.Array
    real: jax.Array
    positions: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class RotaryPositions:
    """Rotary positions.

    Attributes:
      theta: the slowest wavelength is about 2π·theta.
      pairs: rotate neighbours (x₀, x₁), as llama2.c; else (x₀, x_{d/2}), as
        Hugging Face.
    """

    theta: float = 10_000.0
    pairs: bool = False


def token_inputs(x: Any) -> tuple[jax.Array, jax.Array]:
    """Returns token ids and their mask.

    Args:
      x: {"input_ids": (batch, length) integers, "attention_mask": (batch, length), 1
        or True for real tokens; all are real if left out}.

    Returns:
      ids, int32, and mask, bool.
    """
    if not isinstance(x, dict) or "input_ids" not in x:
        got = f"a dict with {sorted(x)}" if isinstance(x, dict) else type(x).__name__
        raise UserError(
            "a text model reads a dict with 'input_ids' (batch, length) and "
            f"'attention_mask'; got {got}."
        )
    ids = jnp.asarray(x["input_ids"]).astype(jnp.int32)
    mask = x.get("attention_mask")
    mask = jnp.ones(ids.shape, bool) if mask is None else jnp.asarray(mask).astype(bool)
    return ids, mask


def token_positions(mask: jax.Array) -> jax.Array:
    """Returns (batch, length) positions that count real tokens from 0.

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


def rotate_by_position(
    x: jax.Array, where: jax.Array, rope: RotaryPositions
) -> jax.Array:
    """Rotates each pair of features by position · theta^(−2i/d).

    Args:
      x: (batch, length, heads, d).
      where: (batch, length) positions.
      rope: constants.

    Returns:
      Same shape and dtype; computed in float32.
    """
    half = x.shape[-1] // 2
    frequency = rope.theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = where[..., None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    wide = x.astype(jnp.float32)
    if rope.pairs:
        a, b = wide[..., ::2], wide[..., 1::2]
    else:
        a, b = wide[..., :half], wide[..., half:]
    a, b = a * cos - b * sin, b * cos + a * sin
    if rope.pairs:
        out = jnp.stack([a, b], -1).reshape(x.shape)
    else:
        out = jnp.concatenate([a, b], -1)
    return out.astype(x.dtype)


def visible_keys(
    mask: jax.Array, causal: bool, step: DecodingStep | None, new: int
) -> jax.Array:
    """Returns which keys each query sees, (batch, 1, queries, keys) bools."""
    if step is not None:
        keys = jnp.arange(step.real.shape[1])
        earlier = keys <= step.index + jnp.arange(new)[:, None]
        return (step.real[:, None] & earlier)[:, None]
    keys = mask[:, None, None, :]
    if not causal:
        return keys
    return keys & jnp.tril(jnp.ones((new, new), bool))


class Attention(nn.Module):
    """Multi-head attention with key padding, causality, rotary positions, a cache.

    Attributes:
      heads: query heads.
      kv_heads: key and value heads; None takes `heads`.
      head_width: features per head; None takes width / heads.
      causal: a token sees itself and what precedes it.
      bias: biases in the projections.
      fused: one projection "qkv" in place of "query", "key" and "value".
      rope: rotary positions, None for none.

    Trained keys and values, where the parameters hold some ("prefix_key" and
    "prefix_value", each (number, kv heads · width)), stand in front of the tokens' own
    and every query sees them. They have no positions and take no room in a cache.
    """

    heads: int
    kv_heads: int | None = None
    head_width: int | None = None
    causal: bool = False
    bias: bool = True
    fused: bool = False
    rope: RotaryPositions | None = None

    @nn.compact
    def __call__(
        self,
        x,
        mask,
        step: DecodingStep | None = None,
        cache: KeyValueCache | None = None,
    ):
        """Returns (output (batch, length, width), cache with the new keys)."""
        batch, length, width = x.shape
        query, key, value = self.projections(x)
        if self.rope is not None:
            where = token_positions(mask) if step is None else step.positions
            query = rotate_by_position(query, where, self.rope)
            key = rotate_by_position(key, where, self.rope)
        if cache is not None:
            place = (0, step.index, 0, 0)
            key = jax.lax.dynamic_update_slice(cache.keys, key, place)
            value = jax.lax.dynamic_update_slice(cache.values, value, place)
            cache = KeyValueCache(key, value)
        seen = visible_keys(mask, self.causal, step, length)
        if self.has_variable("params", "prefix_key"):
            key, value, seen = self.prefixed(key, value, seen)
        out = jax.nn.dot_product_attention(query, key, value, mask=seen)
        out = out.reshape(batch, length, -1)
        out = nn.Dense(width, use_bias=self.bias, kernel_init=INIT, name="out")(out)
        return out, cache

    def prefixed(self, key, value, seen):
        """Returns keys, values and what is seen of them, behind the trained ones."""

        def behind(name: str, x):
            own = self.get_variable("params", name)
            own = own.reshape(1, -1, *x.shape[2:]).astype(x.dtype)
            own = jnp.broadcast_to(own, (x.shape[0], *own.shape[1:]))
            return jnp.concatenate([own, x], 1)

        longer = behind("prefix_key", key)
        ahead = jnp.ones((*seen.shape[:3], longer.shape[1] - key.shape[1]), bool)
        seen = jnp.concatenate([ahead, seen], -1)
        return longer, behind("prefix_value", value), seen

    def projections(self, x):
        """Returns query, key and value, each (batch, length, its heads, width)."""
        batch, length, width = x.shape
        size = self.head_width or width // self.heads
        counts = (self.heads, *(self.kv_heads or self.heads,) * 2)

        def dense(features: int, name: str):
            return nn.Dense(features, use_bias=self.bias, kernel_init=INIT, name=name)(
                x
            )

        if self.fused:
            parts = jnp.split(dense(3 * self.heads * size, "qkv"), 3, -1)
        else:
            names = ("query", "key", "value")
            parts = [dense(n * size, name) for n, name in zip(counts, names)]
        return [p.reshape(batch, length, n, size) for p, n in zip(parts, counts)]


class FeedForward(nn.Module):
    """out(σ(in(x))), or gated: out(σ(gate(x)) · in(x)), Shazeer, arXiv:2002.05202."""

    hidden: int
    activation: str
    bias: bool = True
    gated: bool = False

    @nn.compact
    def __call__(self, x):
        def dense(features: int, name: str):
            return nn.Dense(features, use_bias=self.bias, kernel_init=INIT, name=name)

        act = staged.activation(self.activation)
        y = dense(self.hidden, "in")(x)
        y = act(dense(self.hidden, "gate")(x)) * y if self.gated else act(y)
        return dense(x.shape[-1], "out")(y)


def layer_norm(epsilon: float, name: str) -> nn.LayerNorm:
    # The fast variance E x² − (E x)² loses digits that the comparison would show.
    return nn.LayerNorm(epsilon, use_fast_variance=False, name=name)


def rms_norm(epsilon: float, name: str) -> nn.RMSNorm:
    return nn.RMSNorm(epsilon, name=name)


def check_heads(width: int, heads: int, kv_heads: int | None = None) -> None:
    """Raises UserError where the heads don't share the width evenly."""
    if width % heads:
        raise UserError(f"heads={heads} doesn't divide width={width}.")
    if kv_heads and heads % kv_heads:
        raise UserError(f"kv_heads={kv_heads} doesn't divide heads={heads}.")


def first_state(tokens: Tokens) -> jax.Array:
    """Returns the state of each sequence's first place, (batch, width)."""
    return tokens.states[:, 0]


def last_state(tokens: Tokens) -> jax.Array:
    """Returns the state of each text's last real token, (batch, width)."""
    length = tokens.mask.shape[1]
    index = length - 1 - jnp.argmax(tokens.mask[:, ::-1], -1)
    return jnp.take_along_axis(tokens.states, index[:, None, None], 1)[:, 0]


def mean_state(tokens: Tokens) -> jax.Array:
    """Returns the mean state over each text's real tokens, (batch, width)."""
    mask = tokens.mask[..., None].astype(tokens.states.dtype)
    return (tokens.states * mask).sum(1) / jnp.maximum(mask.sum(1), 1)
