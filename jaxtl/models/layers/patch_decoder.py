"""The decoder of masked image modeling: from some patches to the pixels of all.

References:
  He et al.: Masked Autoencoders Are Scalable Vision Learners, CVPR 2022.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.core.types import Tokens
from jaxtl.models.layers import norms, transformer
from jaxtl.models.layers.dense import Dense, broadcast
from jaxtl.models.layers.initializers import NORMAL
from jaxtl.models.staged import Mode

_EPSILON = 1e-6  # of the norms


def sin_cos_positions(side: int, width: int) -> jax.Array:
    """Fixed position vectors of a square grid, (side², width), row by row.

    A quarter of the width each: sines and cosines of the row, then of the column, at
    frequencies 10,000^(−4k / width).
    """
    frequencies = 10_000.0 ** -(jnp.arange(width // 4) / (width // 4))
    angles = jnp.arange(side)[:, None] * frequencies
    waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], 1)
    rows, columns = jnp.repeat(waves, side, 0), jnp.tile(waves, (side, 1))
    return jnp.concatenate([rows, columns], 1)


class PatchDecoder(nn.Module):
    """A small transformer over all patches, with one vector for those that are hidden.

    Attributes:
      width: of its states.
      layers, heads: their numbers.
      outputs: numbers per patch.
      before: number of tokens before the patches, which it reads as well.
    """

    width: int
    layers: int
    heads: int
    outputs: int
    before: int

    @nn.compact
    def __call__(self, states: jax.Array, places: jax.Array) -> jax.Array:
        """Outputs of all patches, (batch, patches, outputs).

        Args:
          states: (batch, before + visible, width), of the encoder.
          places: (batch, patches): of each patch its number among the visible ones,
            which come first, and the hidden ones.
        """
        x = Dense(self.width, kernel_init=NORMAL, name="embed")(states)
        mask = self.param("mask", NORMAL, (1, 1, self.width))
        visible, patches = x.shape[1] - self.before, places.shape[1]
        hidden = broadcast(mask, (len(x), patches - visible, self.width))
        x, first = (
            jnp.concatenate([x[:, self.before :], hidden], 1),
            x[:, : self.before],
        )
        x = jnp.take_along_axis(x, places[..., None], 1)
        x = x + sin_cos_positions(round(patches**0.5), self.width).astype(x.dtype)
        x = jnp.concatenate([first, x], 1)
        block = transformer.Block(
            heads=self.heads,
            hidden=4 * self.width,
            activation="gelu_exact",
            epsilon=_EPSILON,
            causal=False,
        )
        tokens = Tokens(x, jnp.ones(x.shape[:2], bool))
        for i in range(self.layers):
            layer = transformer.TransformerLayer(block, None, name=f"layer_{i}")
            tokens = layer(tokens, Mode())
        x = norms.layer_norm(_EPSILON, "norm")(tokens.states[:, self.before :])
        return Dense(self.outputs, kernel_init=NORMAL, name="pixels")(x)
