"""Normalizations of the last axis, by kind."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.layers.sequences import unit_length


def _layer_norm(epsilon: float, name: str, **leaves: bool) -> nn.LayerNorm:
    """LayerNorm whose variance is computed in two passes.

    The fast variance E x² − (E x)² loses digits that comparisons with other libraries
    would show.
    """
    return nn.LayerNorm(epsilon, use_fast_variance=False, name=name, **leaves)


class _OffsetRMSNorm(nn.Module):
    """x / √(mean x² + ε) · (1 + scale), computed in float32.

    References:
      Gemma Team: Gemma, arXiv:2403.08295.
    """

    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.zeros, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        mean = jnp.mean(jnp.square(wide), -1, keepdims=True)
        wide = wide * jax.lax.rsqrt(mean + self.epsilon)
        return (wide * (1 + scale.astype(jnp.float32))).astype(x.dtype)


class _UnitNorm(nn.Module):
    """x / max(‖x‖, 1e-12), which has no parameters."""

    epsilon: float

    def __call__(self, x: jax.Array) -> jax.Array:
        return unit_length(x)


# LayerNorm with scale and bias, with a scale alone, without parameters; RMSNorm; unit
# length.
NORMS: dict[str, Callable[..., nn.Module]] = {
    "layer": _layer_norm,
    "layer_scale": functools.partial(_layer_norm, use_bias=False),
    "layer_plain": functools.partial(_layer_norm, use_bias=False, use_scale=False),
    "rms": nn.RMSNorm,
    "rms_offset": _OffsetRMSNorm,
    "unit": _UnitNorm,
}
# Leaves of each.
LEAVES = {
    "layer": ("scale", "bias"),
    "layer_scale": ("scale",),
    "layer_plain": (),
    "rms": ("scale",),
    "rms_offset": ("scale",),
    "unit": (),
}


def norm(kind: str, epsilon: float, name: str) -> nn.Module:
    """The normalization of this kind, a key of `NORMS`."""
    return NORMS[kind](epsilon=epsilon, name=name)


def layer_norm(epsilon: float, name: str) -> nn.Module:
    """LayerNorm with scale and bias."""
    return norm("layer", epsilon, name)
