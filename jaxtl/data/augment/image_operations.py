"""The operations of RandAugment: pure functions of images in [0, 255].

Each follows PIL's of the same name, except for PIL's rounding to whole levels in
between.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.data.images import LUMA

GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
OPERATIONS = (
    "identity",
    "autocontrast",
    "brightness",
    "color",
    "contrast",
    "equalize",
    "posterize",
    "sharpness",
    "solarize",
    *GEOMETRIC,
)


def _gray(x: jax.Array) -> jax.Array:
    """Luma of RGB images, else the mean of the channels, (n, height, width, 1)."""
    if x.shape[-1] == 3:
        return (x @ jnp.asarray(LUMA, x.dtype))[..., None]
    return x.mean(-1, keepdims=True)


def brightness(x: jax.Array, factor: Any) -> jax.Array:
    """Blends black (0) with the image (1), x · factor (`ImageEnhance.Brightness`)."""
    return x * factor


def color(x: jax.Array, factor: Any) -> jax.Array:
    """Blends gray (0) with the image (1) (`ImageEnhance.Color`)."""
    return _gray(x) * (1 - factor) + x * factor


def contrast(x: jax.Array, factor: Any) -> jax.Array:
    """Blends the mean gray (0) with the image (1) (`ImageEnhance.Contrast`)."""
    mean = jnp.floor(jnp.round(_gray(x)).mean((1, 2, 3), keepdims=True) + 0.5)
    return mean * (1 - factor) + x * factor


def sharpness(x: jax.Array, factor: Any) -> jax.Array:
    """Blends the smoothed image (0) with the image (1) (`ImageEnhance.Sharpness`).

    Pixels at the border are unchanged, as in PIL.
    """
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = x.shape[1:3]
    # Nine shifted sums: a convolution of a few channels is slow on CPU.
    rows = sum(padded[:, i : i + height] for i in range(3))
    window_sum = sum(rows[:, :, j : j + width] for j in range(3))
    smooth = (window_sum + 4 * x) / 13
    inner = np.zeros((1, height, width, 1), bool)
    inner[:, 1:-1, 1:-1] = True
    return jnp.where(inner, smooth * (1 - factor) + x * factor, x)


def autocontrast(x: jax.Array) -> jax.Array:
    """Stretches each channel to 0…255, unless it is constant (`ImageOps`)."""
    low, high = x.min((1, 2), keepdims=True), x.max((1, 2), keepdims=True)
    span = high - low
    return jnp.where(span > 0, (x - low) * 255 / jnp.where(span > 0, span, 1), x)


def equalize(x: jax.Array) -> jax.Array:
    """Flattens each channel's histogram of whole levels (`ImageOps.equalize`)."""
    count, height, width, channels = x.shape
    levels = jnp.clip(jnp.round(x), 0, 255).astype(jnp.int32)
    # The histograms of all images and channels side by side in one array.
    offset = 256 * jnp.arange(count * channels).reshape(count, 1, 1, channels)
    bins = jnp.zeros(256 * count * channels, jnp.int32)
    histogram = bins.at[(levels + offset).reshape(-1)].add(1).reshape(-1, 256)
    # PIL leaves the brightest level that occurs out of the step's size.
    brightest = levels.max((1, 2)).reshape(-1, 1)
    brightest_count = jnp.take_along_axis(histogram, brightest, axis=1)
    step = (height * width - brightest_count) // 255
    below = jnp.cumsum(histogram, axis=1) - histogram
    table = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    table = jnp.where(step > 0, table, jnp.arange(256))
    return table.reshape(-1)[levels + offset].astype(x.dtype)


def posterize(x: jax.Array, bits: Any) -> jax.Array:
    """Keeps the highest `bits` of the 8 (`ImageOps.posterize`)."""
    size = 2.0 ** (8 - bits)
    return jnp.floor(jnp.round(x) / size) * size


def solarize(x: jax.Array, threshold: Any) -> jax.Array:
    """Inverts values from the threshold on, 255 − x (`ImageOps.solarize`)."""
    return jnp.where(x < threshold, x, 255 - x)


def affine(x: jax.Array, matrix: jax.Array, fill: float = 0.0) -> jax.Array:
    """Transforms images as `PIL.Image.transform(size, AFFINE, matrix)` does.

    Args:
      x: (n, height, width, channels).
      matrix: (n, 2, 3): the new pixel at p is the nearest one to matrix · (p, 1) in
        the old image, in pixels, x before y; pixel centers lie at halves.
      fill: value of pixels from outside the old image.
    """
    count, height, width, channels = x.shape
    rows, columns = jnp.meshgrid(
        jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij"
    )
    points = jnp.stack([columns.ravel(), rows.ravel(), jnp.ones(height * width)])
    # Sums of three products: a matrix product may round coarsely on a device.
    source = jnp.floor((matrix[:, :, :, None] * points).sum(2)).astype(jnp.int32)
    column, row = source[:, 0], source[:, 1]
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
    flat = x.reshape(count, height * width, channels)
    gathered = jnp.take_along_axis(flat, index[..., None], axis=1)
    return jnp.where(inside[..., None], gathered, fill).reshape(x.shape)


def _rotation(angle: jax.Array, height: int, width: int) -> jax.Array:
    """Matrix, (n, 2, 3), of rotations by degrees about the center.

    Counter-clockwise for positive angles, as `PIL.Image.rotate`.
    """
    radians = -jnp.deg2rad(angle)
    c, s = jnp.cos(radians), jnp.sin(radians)
    x, y = width / 2, height / 2
    x_row = jnp.stack([c, s, x - c * x - s * y], -1)
    y_row = jnp.stack([-s, c, y + s * x - c * y], -1)
    return jnp.stack([x_row, y_row], -2)


def geometric_matrix(name: str, level: jax.Array, height: int, width: int) -> jax.Array:
    """Matrix, (n, 2, 3), of a geometric operation at levels (n,) in [−1, 1]."""
    if name == "rotate":
        return _rotation(30 * level, height, width)
    zeros, ones, level = jnp.zeros_like(level), jnp.ones_like(level), 0.3 * level
    rows = {
        "shear_x": ([ones, level, zeros], [zeros, ones, zeros]),
        "shear_y": ([ones, zeros, zeros], [level, ones, zeros]),
        "translate_x": ([ones, zeros, level * width], [zeros, ones, zeros]),
        "translate_y": ([ones, zeros, zeros], [zeros, ones, level * height]),
    }[name]
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def apply_pixelwise(name: str, x: jax.Array, level: jax.Array) -> jax.Array:
    """Applies an operation that is not geometric.

    Args:
      name: of `OPERATIONS`.
      x: (n, height, width, channels) in [0, 255].
      level: (n,) in [0, 1): position in the operation's range.
    """
    level = level[:, None, None, None]
    blends = {
        "brightness": brightness,
        "color": color,
        "contrast": contrast,
        "sharpness": sharpness,
    }
    if name == "identity":
        return x
    if name in blends:
        return blends[name](x, 0.05 + 0.9 * level)
    if name == "posterize":
        return posterize(x, 4 + jnp.floor(5 * level))
    if name == "solarize":
        return solarize(x, 256 * level)
    return {"autocontrast": autocontrast, "equalize": equalize}[name](x)
