"""Parts of transformers: attention, rotary positions, feed-forward layers, norms.

References:
  Vaswani et al.: Attention Is All You Need, NeurIPS 2017.
  Su et al.: RoFormer, arXiv:2104.09864 (rotary positions).
  Ainslie et al.: GQA, EMNLP 2023 (fewer key than query heads).
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.core.types import Tokens
from jaxtl.models.layers import sequences
from jaxtl.models.layers.activations import activation
from jaxtl.models.staged import Mode

INIT = nn.initializers.normal(0.02)


class KeyValueCache(NamedTuple):
    """Keys and values of one layer so far, each (batch, length, kv heads, width)."""

    keys: jax.Array
    values: jax.Array


class DecodingStep(NamedTuple):
    """Position of a cached call in the sequence.

    Attributes:
      index: place of the first new token in the cache, a scalar.
      real: (batch, cache length) bools, True where a key is no padding.
      positions: (batch, new tokens), the positions of the new tokens.
    """

    index: jax.Array
    real: jax.Array
    positions: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class RotaryPositions:
    """Constants of rotary positions.

    Attributes:
      theta: the slowest wavelength is about 2π·theta.
      pairs: rotate neighbors (x₀, x₁), as llama2.c; else (x₀, x_{d/2}), as
        Hugging Face.
      factor: frequencies are divided by it (Chen et al., arXiv:2306.15595).
      bands: (low, high, context) of Llama 3.1, which divides the frequencies of
        wavelengths above context / low alone, leaves those below context / high, and
        interpolates between them; () divides all.
      ramp: (first, last) of YaRN (Peng et al., ICLR 2024): pairs of features before
        the first keep their frequency, those after the last are divided, with a linear
        ramp between them; () for none.
      scale: factor of queries and keys (YaRN's attention factor).
    """

    theta: float = 10_000.0
    pairs: bool = False
    factor: float = 1.0
    bands: tuple[float, ...] = ()
    ramp: tuple[float, ...] = ()
    scale: float = 1.0


def rotary_frequencies(rope: RotaryPositions, width: int) -> jax.Array:
    """Radians per position of each pair of features, (width / 2,) float32."""
    half = width // 2
    frequency = rope.theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    if rope.ramp:
        start, end = rope.ramp
        pair = jnp.arange(half, dtype=jnp.float32)
        share = 1 - jnp.clip((pair - start) / (end - start), 0.0, 1.0)
        return frequency * (share + (1 - share) / rope.factor)
    if not rope.bands:
        return frequency / rope.factor
    low, high, context = rope.bands
    turns = context * frequency / (2 * jnp.pi)  # wavelengths in the context
    share = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return frequency * (share + (1 - share) / rope.factor)


def _rotate(x: jax.Array, positions: jax.Array, rope: RotaryPositions) -> jax.Array:
    """Rotates each pair of features by position · frequency.

    Args:
      x: (batch, length, heads, d).
      positions: (batch, length).
      rope: constants.

    Returns:
      Same shape and dtype; computed in float32.
    """
    half = x.shape[-1] // 2
    frequency = rotary_frequencies(rope, x.shape[-1])
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle) * rope.scale, jnp.sin(angle) * rope.scale
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


def _visible_keys(
    mask: jax.Array, causal: bool, step: DecodingStep | None, queries: int
) -> jax.Array:
    """The keys that each query attends to, (batch, 1, queries, keys) bools."""
    if step is not None:
        keys = jnp.arange(step.real.shape[1])
        earlier = keys <= step.index + jnp.arange(queries)[:, None]
        return (step.real[:, None] & earlier)[:, None]
    keys = mask[:, None, None, :]
    if not causal:
        return keys
    return keys & jnp.tril(jnp.ones((queries, queries), bool))


class Attention(nn.Module):
    """Multi-head attention with key padding, causality, rotary positions, a cache.

    Attributes:
      heads: query heads.
      kv_heads: key and value heads; None takes `heads`.
      head_width: features per head; None takes width / heads.
      causal: a token attends to itself and to the tokens before it.
      bias: biases in the projections.
      input_bias: biases of query, key and value; None takes `bias`.
      fused: one projection "qkv" in place of "query", "key" and "value".
      rope: rotary positions, None for none.
      scale: factor of the products of queries and keys; None takes 1 / √head width.

    Trained keys and values, where the parameters hold some ("prefix_key" and
    "prefix_value", each (number, kv heads · width)), precede those of the tokens and
    every query attends to them. They have no positions and take no room in a cache.
    """

    heads: int
    kv_heads: int | None = None
    head_width: int | None = None
    causal: bool = False
    bias: bool = True
    input_bias: bool | None = None
    fused: bool = False
    rope: RotaryPositions | None = None
    scale: float | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        step: DecodingStep | None = None,
        cache: KeyValueCache | None = None,
    ) -> tuple[jax.Array, KeyValueCache | None]:
        """Attends from every token of x.

        Args:
          x: (batch, length, width).
          mask: (batch, length) bools, True for real tokens.
          step: position of x in the cache, None without a cache.
          cache: keys and values of earlier calls.

        Returns:
          The output (batch, length, width), and the cache with the new keys.
        """
        batch, length, width = x.shape
        query, key, value = self._projections(x)
        if self.rope is not None:
            positions = (
                sequences.token_positions(mask) if step is None else step.positions
            )
            query = _rotate(query, positions, self.rope)
            key = _rotate(key, positions, self.rope)
        if cache is not None:
            place = (0, step.index, 0, 0)
            key = jax.lax.dynamic_update_slice(cache.keys, key, place)
            value = jax.lax.dynamic_update_slice(cache.values, value, place)
            cache = KeyValueCache(key, value)
        visible = _visible_keys(mask, self.causal, step, length)
        if self.has_variable("params", "prefix_key"):
            key, value, visible = self._with_prefix(key, value, visible)
        out = jax.nn.dot_product_attention(
            query, key, value, mask=visible, scale=self.scale
        )
        out = out.reshape(batch, length, -1)
        out = nn.Dense(width, use_bias=self.bias, kernel_init=INIT, name="out")(out)
        return out, cache

    def _with_prefix(
        self, key: jax.Array, value: jax.Array, visible: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Keys, values and their visibility with the trained ones in front."""

        def prepend(name: str, x: jax.Array) -> jax.Array:
            prefix = self.get_variable("params", name)
            prefix = prefix.reshape(1, -1, *x.shape[2:]).astype(x.dtype)
            prefix = jnp.broadcast_to(prefix, (x.shape[0], *prefix.shape[1:]))
            return jnp.concatenate([prefix, x], 1)

        keys = prepend("prefix_key", key)
        ones = jnp.ones((*visible.shape[:3], keys.shape[1] - key.shape[1]), bool)
        visible = jnp.concatenate([ones, visible], -1)
        return keys, prepend("prefix_value", value), visible

    def _projections(self, x: jax.Array) -> list[jax.Array]:
        """Query, key and value, each (batch, length, its heads, head width)."""
        batch, length, width = x.shape
        size = self.head_width or width // self.heads
        counts = (self.heads, *(self.kv_heads or self.heads,) * 2)

        bias = self.bias if self.input_bias is None else self.input_bias

        def project(features: int, name: str) -> jax.Array:
            return nn.Dense(features, use_bias=bias, kernel_init=INIT, name=name)(x)

        if self.fused:
            parts = jnp.split(project(3 * self.heads * size, "qkv"), 3, -1)
        else:
            names = ("query", "key", "value")
            parts = [project(n * size, name) for n, name in zip(counts, names)]
        return [p.reshape(batch, length, n, size) for p, n in zip(parts, counts)]


class FeedForward(nn.Module):
    """out(σ(in(x))), or gated: out(σ(gate(x)) · in(x)), Shazeer, arXiv:2002.05202.

    Attributes:
      hidden: width inside.
      activation: σ by name.
      bias: biases in the projections.
      gated: whether it is the gated form.
    """

    hidden: int
    activation: str
    bias: bool = True
    gated: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def dense(features: int, name: str) -> nn.Dense:
            return nn.Dense(features, use_bias=self.bias, kernel_init=INIT, name=name)

        act = activation(self.activation)
        y = dense(self.hidden, "in")(x)
        y = act(dense(self.hidden, "gate")(x)) * y if self.gated else act(y)
        return dense(x.shape[-1], "out")(y)


class FinalNorm(nn.Module):
    """The normalization after the last layer, as a stage.

    Attributes:
      epsilon: added to the variance.
      rms: RMSNorm in place of LayerNorm.
    """

    epsilon: float
    rms: bool

    @nn.compact
    def __call__(self, tokens: Tokens, mode: Mode) -> Tokens:
        norm = rms_norm if self.rms else layer_norm
        return Tokens(norm(self.epsilon, "norm")(tokens.states), tokens.mask)


def layer_norm(epsilon: float, name: str) -> nn.LayerNorm:
    """LayerNorm whose variance is computed in two passes.

    The fast variance E x² − (E x)² loses digits that comparisons with other libraries
    would show.
    """
    return nn.LayerNorm(epsilon, use_fast_variance=False, name=name)


def rms_norm(epsilon: float, name: str) -> nn.RMSNorm:
    """RMSNorm with this ε."""
    return nn.RMSNorm(epsilon, name=name)


def check_heads(width: int, heads: int, kv_heads: int | None = None) -> None:
    """Raises UserError where the heads don't share the width evenly."""
    if width % heads:
        raise UserError(f"heads={heads} doesn't divide width={width}.")
    if kv_heads and heads % kv_heads:
        raise UserError(f"kv_heads={kv_heads} doesn't divide heads={heads}.")
