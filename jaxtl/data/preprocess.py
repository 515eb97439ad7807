"""Preprocessing: stored values to a model's input, (x/scale − mean)/std.

`scale` is the stored value that means "white" or "full": 255 for uint8 images, 16 for
the 8×8 digits, 2000 for USPS. Data stay in their stored type on the device, a quarter
of the memory of float32, and become float32 inside the compiled step.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import PyTree
from jaxtl.data import images


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How stored values become a model's input; saved beside every trained model.

    Attributes:
      scale: divisor; x/scale lies in [0, 1] for images.
      mean: subtracted after the division; one number per channel or feature.
      std: divisor after that; one number per channel or feature.
      size: (height, width) that `load_image` brings a file to; None keeps the file's.
      shortest: with `size`, the length that the shorter side is resized to before
        `size` is cut out of the middle; None stretches to `size`.
      channels: 1 (luma) or 3 that `load_image` brings a file to; None keeps the
        file's.
    """

    scale: float = 1.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None
    shortest: int | None = None
    channels: int | None = None

    def __post_init__(self):
        if not self.scale > 0:
            raise UserError(
                f"preprocess.scale must be a positive number; got {self.scale!r}."
            )
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value is not None:
                numbers = tuple(float(v) for v in np.atleast_1d(value))
                object.__setattr__(self, name, numbers)
        if self.std is not None and not all(v > 0 for v in self.std):
            raise UserError(f"preprocess.std must be positive; got {self.std}.")
        object.__setattr__(self, "size", images.as_size(self.size))
        images.check_shortest(self.shortest, self.size)
        images.check_channels(self.channels)


def apply(pre: Preprocess, x: PyTree) -> PyTree:
    """Computes (x/scale − mean)/std in float32, with mean and std along the last axis.

    Args:
      pre: the preprocessing; `size`, `shortest`, `channels` concern `load_image` alone.
      x: (..., channels) or (..., features), any real dtype. A dict of arrays (text) is
        returned unchanged.

    Raises:
      UserError: mean or std of a length that is neither 1 nor x.shape[-1].
    """
    if isinstance(x, dict):
        return x
    x = jnp.asarray(x)
    for name in ("mean", "std"):
        value = getattr(pre, name)
        if value is not None and len(value) not in (1, x.shape[-1]):
            raise UserError(
                f"preprocess.{name} has {len(value)} numbers, "
                f"but the last axis of x, {tuple(x.shape)}, has {x.shape[-1]}."
            )
    x = x.astype(jnp.float32)
    if pre.scale != 1:
        x = x / pre.scale
    if pre.mean is not None:
        x = x - jnp.asarray(pre.mean, jnp.float32)
    if pre.std is not None:
        x = x / jnp.asarray(pre.std, jnp.float32)
    return x


def restore(pre: Preprocess, x: PyTree) -> PyTree:
    """Computes x·std + mean: undoes `apply` up to `scale`, [0, 1] for images."""
    if isinstance(x, dict):
        return x
    if pre.std is not None:
        x = x * jnp.asarray(pre.std, jnp.float32)
    if pre.mean is not None:
        x = x + jnp.asarray(pre.mean, jnp.float32)
    return x


def normalize(pre: Preprocess, x: PyTree) -> PyTree:
    """Computes (x − mean)/std of values that are divided by `scale` already."""
    return apply(dataclasses.replace(pre, scale=1.0), x)


def default(x: Any) -> Preprocess:
    """The preprocessing of data that bring none: /255 for uint8 images, else none."""
    if isinstance(x, dict):
        return Preprocess()
    image = len(x.shape) == 4
    scale = 255.0 if image and np.dtype(x.dtype) == np.uint8 else 1.0
    if not image:
        return Preprocess(scale=scale)
    channels = x.shape[3] if x.shape[3] in (1, 3) else None
    return Preprocess(scale=scale, size=tuple(x.shape[1:3]), channels=channels)


def to_json(pre: Preprocess) -> dict[str, Any]:
    """The fields that differ from their defaults, as JSON values."""
    defaults = {f.name: f.default for f in dataclasses.fields(pre)}
    values = dataclasses.asdict(pre)
    return {k: v for k, v in values.items() if v != defaults[k]}


def from_json(values: Mapping[str, Any]) -> Preprocess:
    """Rebuilds a `Preprocess` from `to_json`.

    Raises:
      UserError: an unknown field.
    """
    names = [f.name for f in dataclasses.fields(Preprocess)]
    for name in values:
        if name not in names:
            raise UserError(
                f"preprocess has no field {name!r}{nearest(name, names)}; "
                f"it has {', '.join(names)}."
            )
    return Preprocess(**values)


def load_image(path: str | pathlib.Path, pre: Preprocess) -> np.ndarray:
    """Reads one image file in the units of the data that `pre` was made for.

    Args:
      path: any file that PIL opens.
      pre: gives size, channels and scale: white becomes `pre.scale`, so that
        `apply(pre, image)` divides it to [0, 1] before mean and std.

    Returns:
      (height, width, channels): uint8 where scale is 255, float32 otherwise.

    Raises:
      UserError: no such file, or not an image.
    """
    x = images.decode(path, pre.size, pre.channels, pre.shortest)
    return x if pre.scale == 255 else x.astype(np.float32) * (pre.scale / 255.0)
