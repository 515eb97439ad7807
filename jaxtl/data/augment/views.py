"""Random changes of images for two views of one example (`tl.selfsup`).

Each is a frozen dataclass called with a key and float images (batch, height, width,
channels) in [0, 1]; parameters are drawn for each image separately.

References:
  Chen et al., A Simple Framework for Contrastive Learning of Visual Representations,
  ICML 2020, appendix A; Grill et al., Bootstrap Your Own Latent, NeurIPS 2020,
  appendix B.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.data.augment import image_operations, view_operations
from jaxtl.data.augment.randaugment import check_float_images


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ViewOperation:
    """Base class: changes some of the images.

    Attributes:
      probability: that an image is changed.
    """

    probability: float = 1.0

    def __post_init__(self) -> None:
        _check_within(self, "probability", self.probability, 0.0, 1.0)

    def __call__(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Changes images of x, float (batch, height, width, channels) in [0, 1]."""
        check_float_images(type(self).__name__, x)
        choice_key, key = jax.random.split(key)
        chosen = jax.random.bernoulli(choice_key, self.probability, (len(x), 1, 1, 1))
        return jnp.where(chosen, self._changed(key, x), x).astype(x.dtype)

    def _changed(self, key: jax.Array, x: jax.Array) -> jax.Array:
        raise TypeError(f"{type(self).__name__} defines no _changed(key, x)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomResizedCrop(_ViewOperation):
    """Cuts a random box out of an image and resizes it to the image's size.

    Attributes:
      scale: bounds of the box's share of the area; DINO's large crops have (0.4, 1).
      ratio: bounds of the box's width / height.
      probability: that an image is changed.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, most in (("scale", 1.0), ("ratio", float("inf"))):
            bounds = getattr(self, name)
            object.__setattr__(self, name, tuple(bounds))
            if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] <= most:
                raise UserError(
                    f"RandomResizedCrop.{name} must be two rising numbers above 0"
                    f"{' and at most 1' * (most == 1.0)}; got {bounds!r}."
                )

    def _changed(self, key: jax.Array, x: jax.Array) -> jax.Array:
        size = (x.shape[1], x.shape[2])
        box = view_operations.random_boxes(key, len(x), size, self.scale, self.ratio)
        return view_operations.resized_crop(x, box)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColorJitter(_ViewOperation):
    """Changes brightness, contrast, saturation and hue, in random order.

    The order is one for the batch, the strengths are drawn for each image; values are
    clipped to [0, 1] after each change. Saturation and hue leave images of one channel
    as they are.

    Attributes:
      brightness, contrast, saturation: a factor is uniform in [max(0, 1 − s), 1 + s].
      hue: share of a turn, uniform in ±hue; at most ½.
      probability: that an image is changed; 0.8 in SimCLR and BYOL.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    probability: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("brightness", "contrast", "saturation"):
            _check_within(self, name, getattr(self, name), 0.0, float("inf"))
        _check_within(self, "hue", self.hue, 0.0, 0.5)

    def _changed(self, key: jax.Array, x: jax.Array) -> jax.Array:
        order_key, *keys = jax.random.split(key, 5)

        def factor(key: jax.Array, strength: float) -> jax.Array:
            bounds = max(0.0, 1 - strength), 1 + strength
            return jax.random.uniform(key, (len(x), 1, 1, 1), x.dtype, *bounds)

        factors = [
            factor(key, strength)
            for key, strength in zip(
                keys, (self.brightness, self.contrast, self.saturation)
            )
        ]
        shift = self.hue * jax.random.uniform(keys[3], (len(x),), x.dtype, -1, 1)
        changes = [
            lambda x: image_operations.brightness(x, factors[0]),
            lambda x: image_operations.contrast(255 * x, factors[1]) / 255,
            lambda x: image_operations.color(x, factors[2]),
            lambda x: view_operations.hue(x, shift),
        ]
        order = jax.random.permutation(order_key, len(changes))

        def step(i: Any, x: jax.Array) -> jax.Array:
            return jnp.clip(jax.lax.switch(order[i], changes, x), 0, 1).astype(x.dtype)

        return jax.lax.fori_loop(0, len(changes), step, x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomGrayscale(_ViewOperation):
    """Turns images gray, with as many channels as before.

    Attributes:
      probability: that an image is changed.
    """

    probability: float = 0.2

    def _changed(self, key: jax.Array, x: jax.Array) -> jax.Array:
        return image_operations.color(x, 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianBlur(_ViewOperation):
    """Blurs images by a Gaussian of random width.

    Attributes:
      sigma: bounds of its standard deviation in pixels, which is uniform between them.
      share: side of the kernel as a share of the image's shorter side, rounded up to
        an odd number of pixels; 23 of 224 in SimCLR and BYOL.
      probability: that an image is changed.
    """

    sigma: tuple[float, float] = (0.1, 2.0)
    share: float = 0.1
    probability: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "sigma", tuple(self.sigma))
        if len(self.sigma) != 2 or not 0 < self.sigma[0] <= self.sigma[1]:
            raise UserError(
                f"GaussianBlur.sigma must be two rising numbers above 0; got "
                f"{self.sigma!r}."
            )
        _check_within(self, "share", self.share, 0.0, 1.0)

    def _changed(self, key: jax.Array, x: jax.Array) -> jax.Array:
        reach = min(round(self.share * min(x.shape[1:3]) / 2), min(x.shape[1:3]) - 1)
        sigma = jax.random.uniform(key, (len(x),), x.dtype, *self.sigma)
        return view_operations.gaussian_blur(x, sigma, 2 * reach + 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solarize(_ViewOperation):
    """Inverts the values of images from a threshold on.

    Attributes:
      threshold: in [0, 1]; 128 of 255 in BYOL.
      probability: that an image is changed.
    """

    threshold: float = 128 / 255
    probability: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_within(self, "threshold", self.threshold, 0.0, 1.0)

    def _changed(self, key: jax.Array, x: jax.Array) -> jax.Array:
        return image_operations.solarize(255 * x, 255 * self.threshold) / 255


def _check_within(
    operation: Any, field: str, value: float, low: float, high: float
) -> None:
    if not low <= value <= high:
        span = (
            f"at least {low:g}" if high == float("inf") else f"in {low:g} to {high:g}"
        )
        name = f"{type(operation).__name__}.{field}"
        raise UserError(f"{name} must be a number {span}; got {value!r}.")
