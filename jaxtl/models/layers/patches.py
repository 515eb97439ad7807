"""Patches of images as tokens, with others before them, and heads that pool them."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.core.types import Tokens
from jaxtl.models.layers import norms, sequences
from jaxtl.models.layers.attention import Projection
from jaxtl.models.layers.conv import Conv
from jaxtl.models.layers.dense import Dense, broadcast
from jaxtl.models.layers.initializers import NORMAL
from jaxtl.models.layers.relative_grid import RelativeGrid
from jaxtl.models.staged import Dropout, Mode


def _check_images(x: jax.Array, size: int, patch: int) -> None:
    """Raises UserError for images of another size than the model's.

    A rest at the border of images of that size is left out.
    """
    if x.ndim == 4 and x.shape[1:3] == (size, size):
        return
    if x.ndim != 4 or x.shape[1] % patch or x.shape[2] % patch:
        raise UserError(
            f"images of shape {tuple(x.shape)} don't divide into patches of {patch}×"
            f"{patch} (expected (batch, {size}, {size}, channels))."
        )
    raise UserError(
        f"images of {x.shape[1]}×{x.shape[2]} came to a model of size={size}: set "
        "the model's size to theirs; position vectors of pre-trained weights are "
        "then interpolated."
    )


class PatchEmbeddings(nn.Module):
    """Trained tokens and a vector per patch, plus position vectors, then dropout.

    Attributes:
      width: of the states.
      size: side of the images.
      patch: side of a patch.
      dropout: rate.
      tokens: names of the tokens before the patches, each with a position.
      registers: number of tokens behind those, without positions.
      has_position: whether there are position vectors.
      has_mask: whether the parameters hold a token for masked patches, which masked
        image modeling trains and no pass here reads.
      bias: whether patches have one.
      epsilon: of a norm behind all; None for no norm.
      relative_heads: heads that `relation` has numbers for; 0 for no relation.

    References:
      Darcet et al.: Vision Transformers Need Registers, ICLR 2024.
    """

    width: int
    size: int
    patch: int
    dropout: float = 0.0
    tokens: tuple[str, ...] = ("token",)
    registers: int = 0
    has_position: bool = True
    has_mask: bool = False
    bias: bool = True
    epsilon: float | None = None
    relative_heads: int = 0

    def setup(self) -> None:
        side, patch = self.size // self.patch, (self.patch, self.patch)
        self.patch_conv = Conv(
            self.width,
            patch,
            self.patch,
            "VALID",
            use_bias=self.bias,
            kernel_init=NORMAL,
            name="patch",
        )
        self.before = [self._vectors(name, 1) for name in self.tokens]
        if self.has_position:
            number = len(self.tokens) + side**2
            self.position = self._vectors("position", number)
        if self.registers:
            self.register = self._vectors("register", self.registers)
        if self.has_mask:
            self._vectors("mask", 1)
        if self.epsilon is not None:
            self.norm = norms.layer_norm(self.epsilon, "norm")
        if self.relative_heads:
            self.relative = RelativeGrid(self.relative_heads, side, has_class=True)
            if self.is_initializing():
                self.relative(1 + side**2)
        self.drop = Dropout(self.dropout)

    def _vectors(self, name: str, number: int) -> jax.Array:
        return self.param(name, NORMAL, (1, number, self.width))

    def __call__(self, x: jax.Array, mode: Mode) -> Tokens:
        _check_images(x, self.size, self.patch)
        x = self.patch_conv(x).reshape(x.shape[0], -1, self.width)

        def repeated(vectors: jax.Array) -> jax.Array:
            return broadcast(vectors, (x.shape[0], *vectors.shape[1:]))

        x = jnp.concatenate([*map(repeated, self.before), x], 1)
        if self.has_position:
            x += broadcast(self.position, x.shape)
        if self.registers:
            start = len(self.tokens)
            parts = [x[:, :start], repeated(self.register), x[:, start:]]
            x = jnp.concatenate(parts, 1)
        x = self.norm(x) if self.epsilon is not None else x
        return Tokens(self.drop(x, mode), jnp.ones(x.shape[:2], bool))

    def relation(
        self, query: jax.Array, key: jax.Array, project: Projection
    ) -> jax.Array:
        """What attention in every layer adds for the distance of two patches."""
        values = self.relative(query.shape[1]).astype(query.dtype)
        return broadcast(values, (query.shape[0], *values.shape[1:]))


class PooledPatchNorm(nn.Module):
    """The norm of the patches' mean, (batch, width).

    Attributes:
      epsilon: added to the variance.
      before: number of tokens before the patches.
    """

    epsilon: float
    before: int = 1

    @nn.compact
    def __call__(self, tokens: Tokens, mode: Mode) -> jax.Array:
        states = tokens.states[:, self.before :].mean(1)
        return norms.layer_norm(self.epsilon, "norm")(states)


class FirstTokenNorm(nn.Module):
    """The norm of the first token's state; the others stay as they are.

    Attributes:
      epsilon: added to the variance.
    """

    epsilon: float

    @nn.compact
    def __call__(self, tokens: Tokens, mode: Mode) -> Tokens:
        first = norms.layer_norm(self.epsilon, "norm")(tokens.states[:, :1])
        states = jnp.concatenate([first, tokens.states[:, 1:]], 1)
        return Tokens(states, tokens.mask)


class TokenHead(nn.Module):
    """Affine maps of pooled tokens, averaged where there are several.

    Attributes:
      outputs: width.
      pool: of the tokens to (batch, width), or (batch, maps, width) for several maps;
        an array is pooled already.
      maps: their names.
      bias: whether they have biases.
    """

    outputs: int
    pool: Callable[[Tokens], jax.Array] = sequences.first_state
    maps: tuple[str, ...] = ("dense",)
    bias: bool = True

    @nn.compact
    def __call__(self, x: Tokens | jax.Array, mode: Mode) -> jax.Array:
        x = self.pool(x) if isinstance(x, Tokens) else x
        dense = [
            Dense(self.outputs, use_bias=self.bias, kernel_init=NORMAL, name=name)
            for name in self.maps
        ]
        if len(dense) == 1:
            return dense[0](x)
        return sum(part(x[:, i]) for i, part in enumerate(dense)) / len(dense)


def first_two_states(tokens: Tokens) -> jax.Array:
    """The states of each sequence's first two tokens, (batch, 2, width)."""
    return tokens.states[:, :2]


def patch_mean(tokens: Tokens, before: int = 1) -> jax.Array:
    """The mean over the patches behind `before` tokens, (batch, width)."""
    return tokens.states[:, before:].mean(1)


def first_and_mean(tokens: Tokens, before: int = 1) -> jax.Array:
    """The first token's state beside the patches' mean, (batch, 2 · width)."""
    parts = [sequences.first_state(tokens), patch_mean(tokens, before)]
    return jnp.concatenate(parts, -1)
