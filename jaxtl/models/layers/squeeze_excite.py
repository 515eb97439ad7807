"""Squeeze-and-excitation: channels weighted by what the whole image has of them."""

import flax.linen as nn
import jax

from jaxtl.models.layers.activations import activation
from jaxtl.models.layers.dense import Dense, broadcast
from jaxtl.models.layers.pooling import global_average_pool


class SqueezeExcite(nn.Module):
    """x · σ(W₂ a(W₁ mean(x) + b₁) + b₂), the mean over positions.

    Attributes:
      squeezed: channels between the two matrices.
      activation: a, by name.

    References:
      Hu, Shen, Sun: Squeeze-and-Excitation Networks, CVPR 2018.
    """

    squeezed: int
    activation: str = "relu"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        weights = Dense(self.squeezed, name="reduce")(global_average_pool(x))
        weights = activation(self.activation)(weights)
        weights = nn.sigmoid(Dense(x.shape[-1], name="expand")(weights))
        weights = weights.reshape(x.shape[0], 1, 1, x.shape[-1])
        return x * broadcast(weights, x.shape)
