"""Operations of self-supervised views: pure functions of images with drawn parameters.

Each follows torchvision's of the same name for float images. Images are (n, height,
width, channels) in any scale; parameters are one number, or one of each image, (n,).
Brightness, contrast, saturation, grayscale and solarization are PIL's, in
`image_operations`.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

_TRIES = 10  # draws of a box


def hue(x: jax.Array, shift: jax.Array | float) -> jax.Array:
    """Turns the hue of RGB images, which keep value and saturation (`adjust_hue`).

    Args:
      x: (n, height, width, 3), at least 0; images of other channels stay as they are.
      shift: share of a full turn, in [−½, ½].
    """
    if x.shape[-1] != 3:
        return x
    red, green, blue = x[..., 0], x[..., 1], x[..., 2]
    value = x.max(-1)
    chroma = value - x.min(-1)
    divisor = jnp.where(chroma > 0, chroma, 1)
    sector = jnp.where(
        value == red,
        (green - blue) / divisor,
        jnp.where(
            value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor
        ),
    )
    sector = sector + 6 * _per_image(shift, sector)
    # Each channel falls from the value by the chroma, over two of the six sectors.
    channels = []
    for start in (5, 3, 1):
        place = (start + sector) % 6
        channels.append(value - chroma * jnp.clip(jnp.minimum(place, 4 - place), 0, 1))
    return jnp.stack(channels, -1).astype(x.dtype)


def gaussian_blur(x: jax.Array, sigma: jax.Array | float, size: int) -> jax.Array:
    """Convolves with a Gaussian, mirrored at the borders (`gaussian_blur`).

    Args:
      x: images; both sides are longer than half of `size`.
      sigma: standard deviation in pixels, above 0.
      size: odd number of pixels of the kernel's side.
    """
    reach = size // 2
    offsets = jnp.arange(-reach, reach + 1, dtype=x.dtype)
    weights = jnp.exp(-0.5 * jnp.square(offsets[:, None] / jnp.atleast_1d(sigma)))
    weights = (weights / weights.sum(0)).astype(x.dtype)
    for axis in (1, 2):
        edge = [(0, 0)] * 4
        edge[axis] = (reach, reach)
        padded, length = jnp.pad(x, edge, mode="reflect"), x.shape[axis]
        # Shifted sums: a convolution of a few channels is slow on CPU.
        x = sum(
            _per_image(weights[i], x)
            * jax.lax.slice_in_dim(padded, i, i + length, axis=axis)
            for i in range(size)
        )
    return x


def resized_crop(x: jax.Array, box: jax.Array) -> jax.Array:
    """Cuts a box out of each image and resizes it to the image's size.

    Bilinear, as torchvision's `resized_crop`.

    Args:
      x: images.
      box: (n, 4): top, left, height and width in pixels.
    """
    rows = _resizing_weights(box[:, 0], box[:, 2], x.shape[1]).astype(x.dtype)
    columns = _resizing_weights(box[:, 1], box[:, 3], x.shape[2]).astype(x.dtype)
    return jnp.einsum("nik,nklc,njl->nijc", rows, x, columns)


def random_boxes(
    key: jax.Array,
    count: int,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> jax.Array:
    """Draws boxes, (count, 4), as torchvision's `RandomResizedCrop.get_params`.

    The share of the area is uniform, and so is the logarithm of width / height; of ten
    draws the first one that fits is taken, and `central_box` where none does.

    Args:
      key: PRNG key.
      count: number of boxes.
      size: height and width of the images.
      scale: bounds of the share of the area.
      ratio: bounds of width / height.
    """
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    shape, limits = (_TRIES, count, 1), jnp.asarray(size, float)
    area = math.prod(size) * jax.random.uniform(area_key, shape, float, *scale)
    bounds = map(math.log, ratio)
    aspect = jnp.exp(jax.random.uniform(ratio_key, shape, float, *bounds))
    drawn = jnp.round(jnp.sqrt(area * jnp.concatenate([1 / aspect, aspect], -1)))
    fits = ((drawn > 0) & (drawn <= limits)).all(-1, keepdims=True)
    sides = jnp.take_along_axis(drawn, jnp.argmax(fits, 0)[None], 0)[0]
    room = limits - sides
    place = jax.random.uniform(place_key, (count, 2))
    corner = jnp.minimum(jnp.floor(place * (room + 1)), room)
    central = jnp.asarray(central_box(size, ratio), float)
    return jnp.where(fits.any(0), jnp.concatenate([corner, sides], -1), central)


def central_box(
    size: tuple[int, int], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """The largest box in the middle whose width / height is within bounds.

    Args:
      size: height and width of the images.
      ratio: bounds of width / height.

    Returns:
      Top, left, height and width in pixels.
    """
    height, width = size
    box_height = min(height, round(width / ratio[0]))
    box_width = min(width, round(height * ratio[1]))
    top, left = (height - box_height) // 2, (width - box_width) // 2
    return top, left, box_height, box_width


def _resizing_weights(start: jax.Array, length: jax.Array, size: int) -> jax.Array:
    """(n, size, size): how much each pixel of an axis adds to each new one.

    A triangle around the new pixel's center, cut at the box's ends; a box is no larger
    than the image, so that no pixels are averaged.
    """
    start, length = start[:, None, None], length[:, None, None]
    center = start + (jnp.arange(size)[:, None] + 0.5) * length / size
    pixel = jnp.arange(size) + 0.5
    inside = (pixel > start) & (pixel < start + length)
    weights = jnp.where(inside, jnp.maximum(1 - jnp.abs(pixel - center), 0), 0)
    return weights / weights.sum(-1, keepdims=True)


def _per_image(values: jax.Array | float, x: jax.Array) -> jax.Array:
    """Numbers of each image, (n,) or one for all, in a shape that fits x."""
    values = jnp.asarray(values)
    return values.reshape(values.shape + (1,) * (x.ndim - 1)) if values.ndim else values
