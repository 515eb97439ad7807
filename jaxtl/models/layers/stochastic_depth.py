"""Stochastic depth: residual branches that are left out at random in training."""

import flax.linen as nn
import jax

from jaxtl.models.staged import Mode


class StochasticDepth(nn.Module):
    """Leaves the branch of whole examples out; the others are divided by 1 − rate.

    Attributes:
      rate: probability with which the branch of an example is 0 in training mode.

    References:
      Huang et al.: Deep Networks with Stochastic Depth, ECCV 2016.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        if self.rate == 0.0:
            return x
        axes = tuple(range(1, x.ndim))
        is_off = not mode.dropout(self)
        return nn.Dropout(self.rate, broadcast_dims=axes, deterministic=is_off)(x)


def depth_rates(rate: float, layers: int) -> list[float]:
    """Rates that grow linearly from 0 at the first layer to `rate` at the last."""
    return [rate * i / max(layers - 1, 1) for i in range(layers)]
