"""Batch normalization layers, plain and stochastic, that follow the mode."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.core.tree import as_float32
from jaxtl.models.layers.fusion_barrier import fusion_barrier
from jaxtl.models.staged import Mode

Moments = tuple[jax.Array, jax.Array]  # mean and variance, (channels,) each


class BatchNorm(nn.Module):
    """Batch normalization whose mode decides which statistics are used and updated.

    Names and statistics (variance over n, not n − 1) are `nn.BatchNorm`'s. The value
    is x · k + (bias − mean · k) with k = scale / √(variance + ε): unlike
    (x − mean) · k, it leaves the backward pass nothing to store beside x, which takes
    a third off a network's temporary memory and a tenth off its step on CPU.

    Attributes:
      momentum: m in `running = m · running + (1 − m) · batch` (torch's is 1 − m).
      epsilon: added to the variance.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        x = fusion_barrier(x)
        shape = ((x.shape[-1],), jnp.float32)
        means = self.variable("batch_stats", "mean", jnp.zeros, *shape)
        variances = self.variable("batch_stats", "var", jnp.ones, *shape)
        scale = self.param("scale", nn.initializers.ones_init(), *shape)
        bias = self.param("bias", nn.initializers.zeros_init(), *shape)
        mean, variance = moving = means.value, variances.value
        if mode.statistics(self):
            mean, variance = _channel_moments(x)
            if not self.is_initializing():
                m = self.momentum
                means.value = m * means.value + (1 - m) * mean
                variances.value = m * variances.value + (1 - m) * variance
            if mode.stochnorm:
                mean, variance = mix_statistics(
                    _stochnorm_key(self), mode.stochnorm, moving, (mean, variance)
                )
        k = scale * jax.lax.rsqrt(variance + self.epsilon)
        dtype = jnp.promote_types(x.dtype, scale.dtype)
        return (x * k + (bias - mean * k)).astype(dtype)


def mix_statistics(
    key: jax.Array, share: float, moving: Moments, batch: Moments
) -> Moments:
    """Stochastic normalization: each channel takes either pair of statistics.

    Args:
      key: PRNG key; one draw per channel decides for mean and variance.
      share: probability of the moving statistics. The paper's p is that of the
        batch's, 1 − share; its value of 0.5 is the same in both.
      moving: moving statistics before this batch updates them.
      batch: statistics of the batch itself.

    Returns:
      (mean, variance); gradients flow through the channels that took the batch's.

    References:
      Kou et al., Stochastic Normalization, NeurIPS 2020.
    """
    takes_moving = jax.random.bernoulli(key, share, batch[0].shape)
    mean, variance = (jnp.where(takes_moving, m, b) for m, b in zip(moving, batch))
    return mean, variance


def _stochnorm_key(module: nn.Module) -> jax.Array:
    if not module.has_rng("dropout"):
        raise UserError("stochnorm > 0 draws in training mode: give apply a key=.")
    return module.make_rng("dropout")


def _channel_moments(x: jax.Array) -> Moments:
    """Mean and variance of every channel, in float32 or wider."""
    x = as_float32(x)
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    # One pass over x, as E x² − (E x)²; rounding may take that below 0.
    return mean, jnp.maximum((x * x).mean(axes) - mean**2, 0)
