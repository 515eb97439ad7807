"""Heads that several model families share: affine maps to the outputs."""

from collections.abc import Callable

import flax.linen as nn
import jax

from jaxtl.models.layers.dense import Dense
from jaxtl.models.layers.pooling import global_average_pool
from jaxtl.models.staged import Dropout, Mode


class DenseHead(nn.Module):
    """An affine map of the flattened input; the loss applies the output activation.

    Attributes:
      outputs: width.
      kernel_init: initializer of the kernel.
    """

    outputs: int
    kernel_init: Callable = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        return Dense(self.outputs, kernel_init=self.kernel_init, name="dense")(x)


class PooledHead(nn.Module):
    """Global pooling, dropout and an affine map.

    Attributes:
      outputs: width.
      dropout: rate after the pooling.
      pool: (batch, height, width, channels) to (batch, channels).
    """

    outputs: int
    dropout: float = 0.0
    pool: Callable[[jax.Array], jax.Array] = global_average_pool

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        x = Dropout(self.dropout, name="dropout")(self.pool(x), mode)
        return Dense(self.outputs, name="dense")(x)
