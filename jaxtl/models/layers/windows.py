"""Attention within windows of an image's places, as in Swin.

References:
  Liu et al.: Swin Transformer, ICCV 2021.
  Liu et al.: Swin Transformer V2, CVPR 2022.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.models.layers import attention
from jaxtl.models.layers.dense import Dense, broadcast
from jaxtl.models.layers.initializers import NORMAL
from jaxtl.models.layers.relative_grid import RelativeGrid, distance_rows

_HIDDEN = 512  # of the function of distances, in the paper and in transformers
# What is added where a shifted window joins places that are no neighbors.
_FAR = -100.0


def split_windows(x: jax.Array, window: int) -> jax.Array:
    """(batch, height, width, channels) to (batch · windows, window², channels)."""
    batch, height, width, channels = x.shape
    shape = (batch, height // window, window, width // window, window, channels)
    return x.reshape(shape).swapaxes(2, 3).reshape(-1, window**2, channels)


def join_windows(x: jax.Array, height: int, width: int, window: int) -> jax.Array:
    """The inverse of `split_windows`."""
    shape = (-1, height // window, width // window, window, window, x.shape[-1])
    return x.reshape(shape).swapaxes(2, 3).reshape(-1, height, width, x.shape[-1])


def _far_places(height: int, width: int, window: int, shift: int) -> np.ndarray:
    """(windows, window², window²): `_FAR` between places that no window had joined."""

    def regions(side: int) -> np.ndarray:
        place = np.arange(side)
        return (place >= side - window).astype(int) + (place >= side - shift)

    grid = regions(height)[:, None] * 3 + regions(width)
    shape = (height // window, window, width // window, window)
    grid = grid.reshape(shape).swapaxes(1, 2).reshape(-1, window**2)
    return np.where(grid[:, None] == grid[:, :, None], 0.0, _FAR).astype(np.float32)


class _DistanceFunction(nn.Module):
    """16 · sigmoid of a small network of each logarithmic distance (Swin V2, eq. 4).

    Attributes:
      heads: of attention.
      side: of a window.
      trained_side: of the windows that the network was trained with, 0 for `side`.
    """

    heads: int
    side: int
    trained_side: int

    @nn.compact
    def __call__(self) -> jax.Array:
        distance = np.arange(1 - self.side, self.side, dtype=np.float32)
        largest = max((self.trained_side or self.side) - 1, 1)
        distance = 8 * distance / largest
        distance = np.sign(distance) * np.log2(np.abs(distance) + 1) / math.log2(8)
        table = np.stack(np.meshgrid(distance, distance, indexing="ij"), -1)
        x = jnp.asarray(table.reshape(-1, 2))
        x = nn.relu(Dense(_HIDDEN, kernel_init=NORMAL, name="in")(x))
        out = Dense(self.heads, use_bias=False, kernel_init=NORMAL, name="out")
        values = 16 * nn.sigmoid(out(x))
        return values[distance_rows(self.side)].transpose(2, 0, 1)[None]


class WindowAttention(nn.Module):
    """Attention within windows of an image, every second time shifted by half a one.

    Attributes:
      heads: of attention.
      window: side of a window.
      shift: of the windows, 0 for none.
      qkv_bias: biases of query, key and value.
      is_second: whether it is that of Swin V2: unit queries and keys with a trained
        scale per head, keys without a bias, and a function of distances.
      trained_window: side of the windows that this function was trained with, 0 for
        `window`.
    """

    heads: int
    window: int
    shift: int
    qkv_bias: bool
    is_second: bool
    trained_window: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Attends in (batch, height, width, channels), padded with zeros to windows."""
        height, width = x.shape[1:3]
        pads = [-side % self.window for side in (height, width)]
        x = jnp.pad(x, ((0, 0), (0, pads[0]), (0, pads[1]), (0, 0)))
        sides = x.shape[1:3]
        x = jnp.roll(x, (-self.shift, -self.shift), (1, 2)) if self.shift else x
        tokens = split_windows(x, self.window)
        far = None
        if self.shift:
            far = _far_places(*sides, self.window, self.shift)
            # transformers adds it twice in V2, where products reach 100.
            far = jnp.tile((1 + self.is_second) * far, (x.shape[0], 1, 1))[:, None]
        attend = attention.Attention(
            self.heads,
            input_bias=self.qkv_bias,
            key_bias=not self.is_second,
            bias=True,
            qk_norm="unit" if self.is_second else "",
            scale=1.0 if self.is_second else None,
            has_logit_scale=self.is_second,
            name="attention",
        )
        near = self._distances()

        def relation(
            query: jax.Array, key: jax.Array, project: attention.Projection
        ) -> jax.Array:
            values = near.astype(query.dtype)
            values = broadcast(values, (query.shape[0], *values.shape[1:]))
            return values if far is None else values + far.astype(query.dtype)

        real = jnp.ones(tokens.shape[:2], bool)
        tokens, _ = attend(tokens, real, relation=relation)
        x = join_windows(tokens, *sides, self.window)
        x = jnp.roll(x, (self.shift, self.shift), (1, 2)) if self.shift else x
        return x[:, :height, :width]

    def _distances(self) -> jax.Array:
        """What the distance of two places adds, (1, heads, window², window²)."""
        if self.is_second:
            function = _DistanceFunction(
                self.heads, self.window, self.trained_window, name="distance"
            )
            return function()
        return RelativeGrid(self.heads, self.window, name="relative")(self.window**2)
