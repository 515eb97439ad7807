"""Pooling of feature maps (batch, height, width, channels).

Max pooling takes maxima of strided slices: on CPU the gradient of `nn.max_pool` is more
than ten times slower. Where values tie, the gradient is split between them.
"""

import jax
import jax.numpy as jnp
import numpy as np


def global_average_pool(x: jax.Array) -> jax.Array:
    """Averages over all positions: (batch, H, W, C) to (batch, C).

    An input that is already (batch, C) stays as it is.
    """
    return x.mean((1, 2)) if x.ndim == 4 else x


def global_max_pool(x: jax.Array) -> jax.Array:
    """Maxima over all positions: (batch, H, W, C) to (batch, C); (batch, C) stays."""
    if x.ndim != 4:
        return x
    return maxima(x.reshape(x.shape[0], -1, x.shape[-1]))


def maxima(x: jax.Array) -> jax.Array:
    """Maxima over the middle axis of (batch, length, C): (batch, C).

    The gradient goes to the first of equal maxima, as in torch. That of `x.max` goes
    where x equals the maximum; compiled code on CPU may compute x twice, with different
    roundings, and then loses most of it.
    """
    return jnp.take_along_axis(x, x.argmax(1, keepdims=True), 1)[:, 0]


def adaptive_average_pool(x: jax.Array, size: int) -> jax.Array:
    """Averages (batch, H, W, C) to (batch, size, size, C), as torch's adaptive pool.

    Output i averages the rows ⌊i·H/size⌋ … ⌈(i+1)·H/size⌉ − 1; where H < size, rows
    repeat.
    """

    def averages(length: int) -> np.ndarray:
        matrix = np.zeros((size, length), np.float32)
        for i in range(size):
            start, end = i * length // size, -((-(i + 1) * length) // size)
            matrix[i, start:end] = 1 / (end - start)
        return matrix

    if x.shape[1:3] == (size, size):
        return x
    rows, columns = (averages(n).astype(x.dtype) for n in x.shape[1:3])
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, x)


def max_pool_2x2(x: jax.Array) -> jax.Array:
    """2×2 max pooling with stride 2; an odd last row or column is cut off."""
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    x = x[:, :height, :width]
    x = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(x[:, :, ::2], x[:, :, 1::2])


def max_pool_3x3(x: jax.Array) -> jax.Array:
    """3×3 max pooling with stride 2 and a border of 1, one axis after the other."""
    for axis in (1, 2):
        size = x.shape[axis]
        widths = [(0, 0)] * 4
        widths[axis] = (1, 1)
        x = jnp.pad(x, widths, constant_values=-jnp.inf)
        count = (size - 1) // 2 + 1
        slices = [
            jax.lax.slice_in_dim(x, i, i + 2 * count - 1, 2, axis) for i in range(3)
        ]
        x = jnp.maximum(jnp.maximum(slices[0], slices[1]), slices[2])
    return x
