"""Layers of transformers: attention and a feed-forward part, with norms around them.

References:
  Vaswani et al.: Attention Is All You Need, NeurIPS 2017.
  Xiong et al.: On Layer Normalization in the Transformer Architecture, ICML 2020.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax

from jaxtl.core.errors import UserError
from jaxtl.core.types import Tokens
from jaxtl.models.layers import attention, norms
from jaxtl.models.layers.activations import activation
from jaxtl.models.layers.dense import Dense, broadcast
from jaxtl.models.layers.initializers import NORMAL
from jaxtl.models.layers.relative_grid import RelativeGrid
from jaxtl.models.layers.rotary import RotaryPositions
from jaxtl.models.layers.stochastic_depth import StochasticDepth
from jaxtl.models.staged import Dropout, Mode


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """What one layer computes.

    Attributes:
      heads, kv_heads, head_width, causal, window, fused, rope, scale, softcap, qk_norm,
        relative_maps: as of `attention.Attention`.
      hidden: width inside the feed-forward part.
      activation: by name.
      order: "pre": x + f(norm(x)) for both parts f; "post": norm(x + f(x));
        "sandwich": x + norm(f(norm(x))); "parallel": x + f(norm(x)) + g(norm(x)).
      norm: kind, a key of `norms.NORMS`.
      first_norm: whether there is a norm before attention.
      epsilon: of the norms.
      input_bias, output_bias: biases of the projections to queries, keys and values,
        and of the one behind attention.
      mlp_bias: biases in the feed-forward part.
      gated: whether that is the gated form; "joint" with one projection for both of
        its factors.
      dropout: of the output of each part.
      layer_scale: initial factor of each feature of both parts' outputs (Touvron et
        al., ICCV 2021); None for no factors.
      drop_path: rate of stochastic depth of both parts.
      key_bias: whether the projection to keys has a bias, if `input_bias`.
      grid: side of a grid of patches behind a class token, whose distances attention
        adds trained numbers for; None for none.
    """

    heads: int
    hidden: int
    activation: str
    order: str = "pre"
    norm: str = "layer"
    first_norm: bool = True
    epsilon: float = 1e-5
    kv_heads: int | None = None
    head_width: int | None = None
    causal: bool = True
    window: int | None = None
    fused: str = ""
    input_bias: bool = True
    output_bias: bool = True
    mlp_bias: bool = True
    rope: RotaryPositions | None = None
    scale: float | None = None
    softcap: float | None = None
    qk_norm: str = ""
    relative_maps: tuple[str, ...] = ()
    gated: bool | str = False
    dropout: float = 0.0
    layer_scale: float | None = None
    drop_path: float = 0.0
    key_bias: bool = True
    grid: int | None = None

    def kernels(self) -> dict[str, bool]:
        """Path of each affine map in the layer -> whether it has a bias."""
        inputs = ("qkv",) if self.fused else ("query", "key", "value")
        inputs += self.relative_maps
        hidden = {False: ("in",), True: ("gate", "in"), "joint": ("gate_in",)}
        return {
            **{f"attention/{name}": self.input_bias for name in inputs},
            **({} if self.key_bias else {"attention/key": False}),
            "attention/out": self.output_bias,
            **{f"mlp/{name}": self.mlp_bias for name in (*hidden[self.gated], "out")},
        }

    def norms(self) -> dict[str, str]:
        """Path of each norm in the layer -> its kind."""
        names = ("attention_norm",) * self.first_norm + ("mlp_norm",)
        if self.order == "sandwich":
            names += ("attention_out_norm", "mlp_out_norm")
        heads = ("attention/query_norm", "attention/key_norm")
        return {
            **dict.fromkeys(names, self.norm),
            **(dict.fromkeys(heads, self.qk_norm) if self.qk_norm else {}),
        }

    def leaves(self) -> tuple[str, ...]:
        """Paths of further leaves in the layer."""
        scales = ("attention_scale/scale", "mlp_scale/scale")
        has_scales, has_grid = self.layer_scale is not None, self.grid is not None
        return scales * has_scales + ("relative/table",) * has_grid


class TransformerLayer(nn.Module):
    """Attention and a feed-forward part, as a `Block` says.

    Attributes:
      block: what it computes.
      embeddings: stage whose `relation` the products of queries and keys get; None for
        plain products.
    """

    block: Block
    embeddings: Any = None

    @nn.compact
    def run(
        self,
        x: jax.Array,
        mask: jax.Array,
        mode: Mode,
        step: attention.DecodingStep | None = None,
        cache: attention.KeyValueCache | None = None,
    ) -> tuple[jax.Array, attention.KeyValueCache | None]:
        """The layer's output and its new cache; see `attention.Attention`."""
        block = self.block
        relation = self._relation()
        norm = functools.partial(norms.norm, block.norm, block.epsilon)
        attend = _attention(block)
        feed_forward = FeedForward(
            block.hidden, block.activation, block.mlp_bias, block.gated, name="mlp"
        )

        def drop(number: int, y: jax.Array) -> jax.Array:
            y = Dropout(block.dropout, name=f"dropout{number}")(y, mode)
            if block.layer_scale is not None:
                name = ("attention_scale", "mlp_scale")[number - 1]
                y = _LayerScale(block.layer_scale, name=name)(y)
            return StochasticDepth(block.drop_path, name=f"drop_path{number}")(y, mode)

        if block.order == "post":
            y, cache = attend(x, mask, step, cache, relation)
            x = norm("attention_norm")(x + drop(1, y))
            return norm("mlp_norm")(x + drop(2, feed_forward(x))), cache
        y = norm("attention_norm")(x) if block.first_norm else x
        y, cache = attend(y, mask, step, cache, relation)
        y = norm("attention_out_norm")(y) if block.order == "sandwich" else y
        y = x + drop(1, y)
        z = norm("mlp_norm")(x if block.order == "parallel" else y)
        z = feed_forward(z)
        z = norm("mlp_out_norm")(z) if block.order == "sandwich" else z
        return y + drop(2, z), cache

    def __call__(self, tokens: Tokens, mode: Mode) -> Tokens:
        return Tokens(self.run(*tokens, mode)[0], tokens.mask)

    def _relation(self) -> attention.Relation | None:
        """What attention adds: of all layers, of this one, of both, or nothing."""
        shared = None if self.embeddings is None else self.embeddings.relation
        block = self.block
        if block.grid is None:
            return shared
        grid = RelativeGrid(block.heads, block.grid, has_class=True, name="relative")

        def relation(
            query: jax.Array, key: jax.Array, project: attention.Projection
        ) -> jax.Array:
            own = grid(query.shape[1]).astype(query.dtype)
            own = broadcast(own, (query.shape[0], *own.shape[1:]))
            return own if shared is None else own + shared(query, key, project)

        return relation


class _LayerScale(nn.Module):
    """x · scale, feature by feature."""

    initial: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        constant = nn.initializers.constant(self.initial)
        scale = self.param("scale", constant, (x.shape[-1],))
        return x * broadcast(scale.astype(x.dtype), x.shape)


def _attention(block: Block) -> attention.Attention:
    """The layer's attention."""
    return attention.Attention(
        block.heads,
        block.kv_heads,
        block.head_width,
        causal=block.causal,
        window=block.window,
        bias=block.output_bias,
        input_bias=block.input_bias,
        key_bias=block.key_bias,
        fused=block.fused,
        rope=block.rope,
        scale=block.scale,
        softcap=block.softcap,
        qk_norm=block.qk_norm,
        epsilon=block.epsilon,
        relative_maps=block.relative_maps,
        name="attention",
    )


class FeedForward(nn.Module):
    """out(σ(in(x))), or gated: out(σ(gate(x)) · in(x)), Shazeer, arXiv:2002.05202.

    Attributes:
      hidden: width inside.
      activation: σ by name.
      bias: biases in the projections.
      gated: whether it is the gated form; "joint" computes both factors by one
        projection "gate_in", σ's first.
    """

    hidden: int
    activation: str
    bias: bool = True
    gated: bool | str = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def dense(features: int, name: str) -> Dense:
            return Dense(features, use_bias=self.bias, kernel_init=NORMAL, name=name)

        act = activation(self.activation)
        if self.gated == "joint":
            gate, y = jax.numpy.split(dense(2 * self.hidden, "gate_in")(x), 2, -1)
            return dense(x.shape[-1], "out")(act(gate) * y)
        y = dense(self.hidden, "in")(x)
        y = act(dense(self.hidden, "gate")(x)) * y if self.gated else act(y)
        return dense(x.shape[-1], "out")(y)


class FinalNorm(nn.Module):
    """The normalization after the last layer, as a stage, and a projection.

    Attributes:
      epsilon: added to the variance.
      kind: of norm, a key of `norms.NORMS`; "" for none.
      width: of the projection behind it, which has no bias; None for none.
    """

    epsilon: float
    kind: str = "layer"
    width: int | None = None

    @nn.compact
    def __call__(self, tokens: Tokens, mode: Mode) -> Tokens:
        x: Any = tokens.states
        x = norms.norm(self.kind, self.epsilon, "norm")(x) if self.kind else x
        if self.width is not None:
            dense = Dense(
                self.width, use_bias=False, kernel_init=NORMAL, name="project"
            )
            x = dense(x)
        return Tokens(x, tokens.mask)


def check_heads(width: int, heads: int, kv_heads: int | None = None) -> None:
    """Raises UserError where the heads don't share the width evenly."""
    if width % heads:
        raise UserError(f"heads={heads} doesn't divide width={width}.")
    if kv_heads and heads % kv_heads:
        raise UserError(f"kv_heads={kv_heads} doesn't divide heads={heads}.")
