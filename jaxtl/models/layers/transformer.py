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
from jaxtl.models.layers.dense import Dense
from jaxtl.models.layers.initializers import NORMAL
from jaxtl.models.layers.rotary import RotaryPositions
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

    def kernels(self) -> dict[str, bool]:
        """Path of each affine map in the layer -> whether it has a bias."""
        inputs = ("qkv",) if self.fused else ("query", "key", "value")
        inputs += self.relative_maps
        hidden = {False: ("in",), True: ("gate", "in"), "joint": ("gate_in",)}
        return {
            **{f"attention/{name}": self.input_bias for name in inputs},
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
        relation = None if self.embeddings is None else self.embeddings.relation
        norm = functools.partial(norms.norm, block.norm, block.epsilon)
        attend = _attention(block)
        feed_forward = FeedForward(
            block.hidden, block.activation, block.mlp_bias, block.gated, name="mlp"
        )

        def drop(name: str, y: jax.Array) -> jax.Array:
            return Dropout(block.dropout, name=name)(y, mode)

        if block.order == "post":
            y, cache = attend(x, mask, step, cache, relation)
            x = norm("attention_norm")(x + drop("dropout1", y))
            return norm("mlp_norm")(x + drop("dropout2", feed_forward(x))), cache
        y = norm("attention_norm")(x) if block.first_norm else x
        y, cache = attend(y, mask, step, cache, relation)
        y = norm("attention_out_norm")(y) if block.order == "sandwich" else y
        y = x + drop("dropout1", y)
        z = norm("mlp_norm")(x if block.order == "parallel" else y)
        z = feed_forward(z)
        z = norm("mlp_out_norm")(z) if block.order == "sandwich" else z
        return y + drop("dropout2", z), cache

    def __call__(self, tokens: Tokens, mode: Mode) -> Tokens:
        return Tokens(self.run(*tokens, mode)[0], tokens.mask)


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
