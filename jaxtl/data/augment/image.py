"""Random changes to a batch of images: pure functions, for the compiled step.

Each is a frozen dataclass called with a key and images (batch, height, width,
channels); the changes of the examples are independent. Images are floats after
preprocessing; `Flip` and `Crop` take any dtype.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.data.preprocess import IMAGE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flip:
    """Mirrors left and right with a probability.

    Attributes:
      probability: that an image is mirrored.
    """

    probability: float = 0.5

    def __post_init__(self):
        _check_range("Flip.probability", self.probability, 1.0)

    def __call__(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Mirrors some images of x, (batch, height, width, channels)."""
        mirrored = jax.random.bernoulli(key, self.probability, (_batch(self, x),))
        return jnp.where(mirrored[:, None, None, None], x[:, :, ::-1], x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crop:
    """Pads images on each side and cuts the original size out at random.

    Attributes:
      pad: pixels; every shift from -pad to pad is equally likely.
      mode: "zero" pads with zeros, "reflect" with the mirrored image. After
        preprocessing with a mean, zero is the mean color.
    """

    pad: int = 4
    mode: str = "zero"

    def __post_init__(self):
        if not (isinstance(self.pad, int) and self.pad >= 0):
            raise UserError(
                f"Crop.pad must be a whole number of pixels ≥ 0; got {self.pad!r}."
            )
        if self.mode not in ("zero", "reflect"):
            raise UserError(
                f"Crop.mode must be 'zero' or 'reflect'; got {self.mode!r}."
            )

    def __call__(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Shifts each image of x, (batch, height, width, channels)."""
        batch = _batch(self, x)
        if self.mode == "reflect" and self.pad >= min(x.shape[1:3]):
            raise UserError(
                f"Crop.pad={self.pad} must be below the image's sides, {x.shape[1:3]}, "
                "to reflect; use a smaller pad or mode='zero'."
            )
        mode = {"zero": "constant", "reflect": "reflect"}[self.mode]
        edge = (self.pad, self.pad)
        padded = jnp.pad(x, ((0, 0), edge, edge, (0, 0)), mode=mode)
        corners = jax.random.randint(key, (batch, 2), 0, 2 * self.pad + 1)

        def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), x.shape[1:])

        return jax.vmap(crop)(padded, corners)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jitter:
    """Changes contrast, then brightness: (x − m)·c + m + b, with m an image's mean.

    Attributes:
      brightness: b is uniform in ±brightness, in the units of x.
      contrast: c is uniform in 1 ± contrast.
    """

    brightness: float = 0.2
    contrast: float = 0.2

    def __post_init__(self):
        _check_range("Jitter.brightness", self.brightness, float("inf"))
        _check_range("Jitter.contrast", self.contrast, 1.0)

    def __call__(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Changes each image of x, float (batch, height, width, channels)."""
        shape = (_batch(self, x), 1, 1, 1)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise UserError(f"Jitter needs float images; got {x.dtype}.")
        shift_key, gain_key = jax.random.split(key)
        shift = jax.random.uniform(shift_key, shape, x.dtype, -1, 1) * self.brightness
        gain = 1 + jax.random.uniform(gain_key, shape, x.dtype, -1, 1) * self.contrast
        mean = x.mean((1, 2, 3), keepdims=True)
        return (x - mean) * gain + mean + shift


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
    """Adds normal noise, to vectors and to images.

    Attributes:
      scale: standard deviation of the noise, in the units of x.
    """

    scale: float = 0.1

    def __post_init__(self):
        _check_range("Noise.scale", self.scale, float("inf"))

    def __call__(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Adds noise to x, floats of any shape."""
        if isinstance(x, dict) or not jnp.issubdtype(x.dtype, jnp.floating):
            kind = "a dict of tokens" if isinstance(x, dict) else x.dtype
            raise UserError(f"Noise needs floats; got {kind}.")
        return x + self.scale * jax.random.normal(key, x.shape, x.dtype)


def apply_augmentations(
    operations: Sequence[Callable[[jax.Array, Any], Any]], key: jax.Array, x: Any
) -> Any:
    """Applies augmentations in order, each with a key of its own.

    Args:
      operations: callables (key, x) -> x.
      key: a PRNG key; operation i gets `fold_in(key, i)`.
      x: a batch of inputs; of images with texts the operations of `augment.text` get
        the texts, all others the image.
    """
    for i, operation in enumerate(operations):
        step_key = jax.random.fold_in(key, i)
        is_pair = isinstance(x, dict) and IMAGE in x
        if is_pair and not getattr(operation, "of_texts", False):
            x = {**x, IMAGE: operation(step_key, x[IMAGE])}
        else:
            x = operation(step_key, x)
    return x


def _batch(operation: Any, x: jax.Array) -> int:
    """The batch size of images; UserError for any other array."""
    if x.ndim != 4:
        raise UserError(
            f"{type(operation).__name__} needs images (batch, height, width, "
            f"channels); got shape {tuple(x.shape)}."
        )
    return x.shape[0]


def _check_range(field: str, value: float, high: float) -> None:
    if not 0 <= value <= high:
        raise UserError(f"{field} must lie in 0 to {high:g}; got {value!r}.")
