"""Attention: key padding, causality, windows, rotary positions, a cache.

References:
  Vaswani et al.: Attention Is All You Need, NeurIPS 2017.
  Ainslie et al.: GQA, EMNLP 2023 (fewer key than query heads).
  Beltagy et al.: Longformer, arXiv:2004.05150 (windows).
  Gemma Team: Gemma 2, arXiv:2408.00118 (soft caps).
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.layers import norms, sequences
from jaxtl.models.layers.dense import Dense, broadcast
from jaxtl.models.layers.initializers import NORMAL
from jaxtl.models.layers.rotary import RotaryPositions, rotate

# (name of a map of the layer, vectors (number, width)) -> (number, heads, head width).
Projection = Callable[[str, jax.Array], jax.Array]
# (queries, keys, maps of the layer) -> what their products get, (batch or 1, heads,
# length, length).
Relation = Callable[[jax.Array, jax.Array, Projection], jax.Array]


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


def _visible_keys(
    mask: jax.Array,
    causal: bool,
    window: int | None,
    step: DecodingStep | None,
    queries: int,
) -> jax.Array:
    """The keys that each query attends to, (batch, 1, queries or 1, keys) bools."""
    real = (mask if step is None else step.real)[:, None, None, :]
    if not causal and window is None:
        return real
    place = jnp.arange(queries)[:, None] + (0 if step is None else step.index)
    distance = place - jnp.arange(real.shape[-1])
    near = distance >= 0 if causal else jnp.ones_like(distance, bool)
    if window is not None:
        near &= jnp.abs(distance) < window
    return real & near


def _attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    visible: jax.Array,
    scale: float | None,
    softcap: float | None,
    bias: jax.Array | None,
) -> jax.Array:
    """softmax(q · k · scale + bias) · v, the products capped as c · tanh(· / c)."""
    if softcap is None:
        return jax.nn.dot_product_attention(
            query, key, value, bias, mask=visible, scale=scale
        )
    groups = query.shape[2] // key.shape[2]
    key, value = (jnp.repeat(x, groups, 2) for x in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    products = jnp.einsum(
        "bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32
    )
    products = softcap * jnp.tanh(products * scale / softcap)
    products = products if bias is None else products + bias
    lowest = 0.7 * jnp.finfo(jnp.float32).min
    weights = jax.nn.softmax(jnp.where(visible, products, lowest), -1)
    return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(value.dtype), value)


class Attention(nn.Module):
    """Multi-head attention with key padding, causality, rotary positions, a cache.

    Attributes:
      heads: query heads.
      kv_heads: key and value heads; None takes `heads`.
      head_width: features per head; None takes width / heads.
      causal: a token attends to itself and to the tokens before it.
      window: it attends to tokens at a distance below this one; None to all.
      bias: biases in the projections.
      input_bias: biases of query, key and value; None takes `bias`.
      key_bias: whether the key has one with them.
      fused: one projection "qkv" in place of "query", "key" and "value": "parts" has
        all queries, keys and values in this order, "heads" those of head after head;
        "" for three projections.
      rope: rotary positions, None for none.
      scale: factor of the products of queries and keys; None takes 1 / √head width.
      softcap: c of c · tanh(product / c); None for plain products.
      qk_norm: kind of norm of each head's queries and keys, a key of `norms.NORMS`;
        "" for none.
      epsilon: of these norms.
      relative_maps: names of further maps, which a relation applies.
      has_logit_scale: whether the products of each head have a trained factor, e to the
        power of a parameter, of at most 100 (Swin V2).

    Trained keys and values, where the parameters hold some ("prefix_key" and
    "prefix_value", each (number, kv heads · width)), precede those of the tokens and
    every query attends to them. They have no positions and take no room in a cache.
    """

    heads: int
    kv_heads: int | None = None
    head_width: int | None = None
    causal: bool = False
    window: int | None = None
    bias: bool = True
    input_bias: bool | None = None
    key_bias: bool = True
    fused: str = ""
    rope: RotaryPositions | None = None
    scale: float | None = None
    softcap: float | None = None
    qk_norm: str = ""
    epsilon: float = 1e-6
    relative_maps: tuple[str, ...] = ()
    has_logit_scale: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        step: DecodingStep | None = None,
        cache: KeyValueCache | None = None,
        relation: Relation | None = None,
    ) -> tuple[jax.Array, KeyValueCache | None]:
        """Attends from every token of x.

        Args:
          x: (batch, length, width).
          mask: (batch, length) bools, True for real tokens.
          step: position of x in the cache, None without a cache.
          cache: keys and values of earlier calls.
          relation: what is added to the products of queries and keys.

        Returns:
          The output (batch, length, width), and the cache with the new keys.
        """
        batch, length, width = x.shape
        maps = self._maps(width)
        query, key, value = self._projections(x, maps)
        if self.qk_norm:
            query = norms.norm(self.qk_norm, self.epsilon, "query_norm")(query)
            key = norms.norm(self.qk_norm, self.epsilon, "key_norm")(key)
        if self.has_logit_scale:
            scale = self._logit_scale().astype(query.dtype)
            query *= broadcast(scale, query.shape)
        if self.rope is not None:
            positions = (
                sequences.token_positions(mask) if step is None else step.positions
            )
            total = length if step is None else positions.max() + 1
            query = rotate(query, positions, self.rope, total)
            key = rotate(key, positions, self.rope, total)
        if cache is not None:
            place = (0, step.index, 0, 0)
            key = jax.lax.dynamic_update_slice(cache.keys, key, place)
            value = jax.lax.dynamic_update_slice(cache.values, value, place)
            cache = KeyValueCache(key, value)
        visible = _visible_keys(mask, self.causal, self.window, step, length)
        bias = None
        if relation is not None:
            bias = relation(query, key, functools.partial(_project, maps, self.heads))
        if self.has_variable("params", "prefix_key"):
            key, value, visible = self._with_prefix(key, value, visible)
        if bias is not None:  # trained keys have no place
            bias = jnp.pad(bias, ((0, 0),) * 3 + ((key.shape[1] - bias.shape[3], 0),))
        out = _attend(query, key, value, visible, self.scale, self.softcap, bias)
        out = out.reshape(batch, length, -1)
        out = Dense(width, use_bias=self.bias, kernel_init=NORMAL, name="out")(out)
        return out, cache

    def _logit_scale(self) -> jax.Array:
        """The trained factor of each head, (heads, 1)."""
        initial = nn.initializers.constant(math.log(10))
        scale = self.param("logit_scale", initial, (self.heads, 1, 1))
        return jnp.exp(jnp.minimum(scale, math.log(100)))[:, 0]

    def _with_prefix(
        self, key: jax.Array, value: jax.Array, visible: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Keys, values and their visibility with the trained ones in front."""

        def prepend(name: str, x: jax.Array) -> jax.Array:
            prefix = self.get_variable("params", name)
            prefix = prefix.reshape(1, -1, *x.shape[2:]).astype(x.dtype)
            prefix = broadcast(prefix, (x.shape[0], *prefix.shape[1:]))
            return jnp.concatenate([prefix, x], 1)

        keys = prepend("prefix_key", key)
        ones = jnp.ones((*visible.shape[:3], keys.shape[1] - key.shape[1]), bool)
        visible = jnp.concatenate([ones, visible], -1)
        return keys, prepend("prefix_value", value), visible

    def _maps(self, width: int) -> dict[str, Dense]:
        """The layer's affine maps to queries, keys and values by name."""
        size = self.head_width or width // self.heads
        kv_heads = self.kv_heads or self.heads
        heads = {"query": self.heads, "key": kv_heads, "value": kv_heads}
        if self.fused:
            heads = {"qkv": sum(heads.values())}
        bias = self.bias if self.input_bias is None else self.input_bias
        heads |= dict.fromkeys(self.relative_maps, self.heads)
        has_bias = dict.fromkeys(heads, bias) | (
            {} if self.key_bias else {"key": False}
        )
        return {
            name: Dense(
                number * size, use_bias=has_bias[name], kernel_init=NORMAL, name=name
            )
            for name, number in heads.items()
        }

    def _projections(self, x: jax.Array, maps: dict[str, Dense]) -> list[jax.Array]:
        """Query, key and value, each (batch, length, its heads, head width)."""
        batch, length, width = x.shape
        size = self.head_width or width // self.heads
        counts = (self.heads, *(self.kv_heads or self.heads,) * 2)
        if self.fused == "heads":
            joint = maps["qkv"](x).reshape(batch, length, self.heads, -1)
            return jnp.split(joint, 3, -1)
        if self.fused:
            ends = (counts[0] * size, (counts[0] + counts[1]) * size)
            parts = jnp.split(maps["qkv"](x), ends, -1)
        else:
            parts = [maps[name](x) for name in ("query", "key", "value")]
        return [p.reshape(batch, length, n, size) for p, n in zip(parts, counts)]


def _project(
    maps: dict[str, Dense], heads: int, name: str, vectors: jax.Array
) -> jax.Array:
    """A `Projection` by these maps."""
    return maps[name](vectors).reshape(len(vectors), heads, -1)
