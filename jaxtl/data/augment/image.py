"""Random changes to a batch of images, pure, inside the compiled step.

Each is a frozen dataclass called with a key and images (batch, height, width,
channels); every example draws its own change. Images are floats after preprocessing;
`Flip` and `Crop` take any dtype.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flip:
    """Mirrors left and right with a probability."""

    probability: float = 0.5

    def __post_init__(self):
        _within("Flip.probability", self.probability, 1.0)

    def __call__(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Returns x, (batch, height, width, channels), with some images mirrored."""
        chosen = jax.random.bernoulli(key, self.probability, (_images(self, x),))
        return jnp.where(chosen[:, None, None, None], x[:, :, ::-1], x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crop:
    """Pads by `pad` pixels on each side and cuts the old size out at random.

    Attributes:
      pad: pixels; every shift from -pad to pad is equally likely.
      mode: "zero" pads with zeros, "reflect" with the mirrored image. After
        preprocessing with a mean, zero is the mean colour.
    """

    pad: int = 4
    mode: str = "zero"

    def __post_init__(self):
        if not (isinstance(self.pad, int) and self.pad >= 0):
            raise UserError(f"Crop.pad must be a number of pixels; got {self.pad!r}.")
        if self.mode not in ("zero", "reflect"):
            raise UserError(f"Crop.mode must be zero or reflect; got {self.mode!r}.")

    def __call__(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Returns x shifted; x is (batch, height, width, channels)."""
        count = _images(self, x)
        if self.mode == "reflect" and self.pad >= min(x.shape[1:3]):
            raise UserError(
                f"Crop.pad={self.pad} must be below the image's sides, {x.shape[1:3]}, "
                "to reflect."
            )
        mode = {"zero": "constant", "reflect": "reflect"}[self.mode]
        edge = (self.pad, self.pad)
        padded = jnp.pad(x, ((0, 0), edge, edge, (0, 0)), mode=mode)
        corner = jax.random.randint(key, (count, 2), 0, 2 * self.pad + 1)

        def cut(image, at):
            return jax.lax.dynamic_slice(image, (at[0], at[1], 0), x.shape[1:])

        return jax.vmap(cut)(padded, corner)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jitter:
    """Changes contrast, then brightness: (x − m)·c + m + b, m an image's mean.

    Attributes:
      brightness: b is uniform in ±brightness, in the units of x.
      contrast: c is uniform in 1 ± contrast.
    """

    brightness: float = 0.2
    contrast: float = 0.2

    def __post_init__(self):
        _within("Jitter.brightness", self.brightness, float("inf"))
        _within("Jitter.contrast", self.contrast, 1.0)

    def __call__(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Returns x changed; float (batch, height, width, channels)."""
        count = _images(self, x)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise UserError(f"Jitter needs float images; got {x.dtype}.")
        light, spread = jax.random.split(key)
        shape = (count, 1, 1, 1)
        shift = jax.random.uniform(light, shape, x.dtype, -1, 1) * self.brightness
        gain = 1 + jax.random.uniform(spread, shape, x.dtype, -1, 1) * self.contrast
        mean = x.mean((1, 2, 3), keepdims=True)
        return (x - mean) * gain + mean + shift


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
    """Adds normal noise, to vectors and to images.

    Attributes:
      scale: its standard deviation, in the units of x.
    """

    scale: float = 0.1

    def __post_init__(self):
        _within("Noise.scale", self.scale, float("inf"))

    def __call__(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Returns x with noise; floats of any shape."""
        if isinstance(x, dict) or not jnp.issubdtype(x.dtype, jnp.floating):
            kind = "a dict of tokens" if isinstance(x, dict) else x.dtype
            raise UserError(f"Noise needs floats; got {kind}.")
        return x + self.scale * jax.random.normal(key, x.shape, x.dtype)


def apply_augmentations(
    ops: Sequence[typing.Any], key: jax.Array, x: jax.Array
) -> jax.Array:
    """Applies the operations in order, each with its own key.

    Args:
      ops: callables (key, x) -> x.
      key: a PRNG key.
      x: (batch, height, width, channels).
    """
    for place, op in enumerate(ops):
        x = op(jax.random.fold_in(key, place), x)
    return x


def _images(op, x) -> int:
    if x.ndim != 4:
        raise UserError(
            f"{type(op).__name__} needs images (batch, height, width, channels); "
            f"got shape {tuple(x.shape)}."
        )
    return x.shape[0]


def _within(field, value, top):
    if not 0 <= value <= top:
        raise UserError(f"{field} must lie in 0 to {top:g}; got {value!r}.")
