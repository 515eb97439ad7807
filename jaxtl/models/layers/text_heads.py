"""Heads of encoders: of a text, of each token, of the vocabulary."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from jaxtl.core.types import Tokens
from jaxtl.models.layers import norms, sequences
from jaxtl.models.layers.activations import activation
from jaxtl.models.layers.dense import Dense, broadcast
from jaxtl.models.layers.initializers import NORMAL
from jaxtl.models.staged import Dropout, Mode

REDUCTIONS = {
    "mean": sequences.mean_state,
    "first": sequences.first_state,
    "max": sequences.max_state,
    "mean_sqrt_len": sequences.mean_sqrt_len_state,
    "weighted_mean": sequences.weighted_mean_state,
    "last": sequences.last_state,
}


def reduction(
    pooling: str | None, normalize: bool
) -> Callable[[Tokens], jax.Array] | None:
    """Tokens to one state per text, None where the head reads something else."""
    reduce = REDUCTIONS.get(pooling or "")
    if reduce is None or not normalize:
        return reduce
    return lambda tokens: sequences.unit_length(reduce(tokens))


class Pooler(nn.Module):
    """An activation of an affine map of the first token's state, (batch, width).

    Attributes:
      activation: by name.
      dropout: rate before the map.
    """

    activation: str = "tanh"
    dropout: float = 0.0

    @nn.compact
    def __call__(self, tokens: Tokens, mode: Mode) -> jax.Array:
        first = Dropout(self.dropout, name="dropout")(tokens.states[:, 0], mode)
        dense = Dense(first.shape[-1], kernel_init=NORMAL, name="dense")
        return activation(self.activation)(dense(first))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """What a head computes: an affine map, behind an inner layer if there is one.

    Attributes:
      outputs: width.
      pooling: a key of `REDUCTIONS` for an input of Tokens; None maps each token.
      normalize: whether the pooled state is scaled to unit length.
      dropout: rate before the last map.
      inner: activation of the inner layer, "" for no such layer.
      inner_width: of the inner layer; None for that of the states.
      inner_bias: whether that layer has a bias.
      early_dropout: whether dropout precedes it too.
      norm: kind of the norm behind it, a key of `norms.NORMS`; "" for none.
      epsilon: of the norm.
      tied: whether the kernel of the last map is the table of the token vectors.
      bias: whether the last map has a bias.
    """

    outputs: int | None
    pooling: str | None = None
    normalize: bool = False
    dropout: float = 0.0
    inner: str = ""
    inner_width: int | None = None
    inner_bias: bool = True
    early_dropout: bool = False
    norm: str = ""
    epsilon: float = 1e-12
    tied: bool = False
    bias: bool = True


class TextHead(nn.Module):
    """A head of an encoder, as its options say.

    Attributes:
      options: what it computes.
      embeddings: the stage whose table a tied head has.
    """

    options: HeadOptions
    embeddings: Any = None

    @nn.compact
    def __call__(self, x: Tokens | jax.Array, mode: Mode) -> jax.Array:
        options = self.options
        if isinstance(x, Tokens):
            reduce = reduction(options.pooling, options.normalize)
            x = reduce(x) if reduce else x.states
        if options.inner:
            rate = options.dropout if options.early_dropout else 0.0
            x = self._inner(Dropout(rate, name="dropout1")(x, mode))
        x = Dropout(options.dropout, name="dropout")(x, mode)
        if not options.tied:
            return Dense(
                options.outputs, use_bias=options.bias, kernel_init=NORMAL, name="dense"
            )(x)
        logits = self.embeddings.token.attend(x)
        if not options.bias:
            return logits
        bias = self.param("bias", nn.initializers.zeros, (logits.shape[-1],))
        return logits + broadcast(bias.astype(logits.dtype), logits.shape)

    def _inner(self, x: jax.Array) -> jax.Array:
        """The inner layer and its norm."""
        options = self.options
        width = options.inner_width or x.shape[-1]
        dense = Dense(
            width, use_bias=options.inner_bias, kernel_init=NORMAL, name="inner"
        )
        x = activation(options.inner)(dense(x))
        if not options.norm:
            return x
        return norms.norm(options.norm, options.epsilon, "norm")(x)


def flat_choices(x: Any) -> Any:
    """Inputs (batch, choices, …) as (batch · choices, …)."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), x)


def by_choice(x: Any, choices: int) -> Any:
    """Arrays (batch · choices, …) as (batch, choices, …); the inverse of the above."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, choices, *leaf.shape[1:]), x)
