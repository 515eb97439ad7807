"""Preprocessing: stored values to a model's input, (x/scale − mean)/std.

Holes of tables (NaN) are filled before that, and marked by columns of 0 and 1 behind.

`scale` is the stored value that means "white" or "full": 255 for uint8 images, 16 for
the 8×8 digits, 2000 for USPS. Data stay in their stored type on the device, a quarter
of the memory of float32, and become float32 inside the compiled step.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import PyTree
from jaxtl.data import images

IMAGE = "image"  # the input of images that come with other inputs, their texts say


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How stored values become a model's input; saved beside every trained model.

    Attributes:
      scale: divisor; x/scale lies in [0, 1] for images.
      mean: subtracted after the division; one number per channel or feature.
      std: divisor after that; one number per channel or feature.
      size: (height, width) that `load_image` brings a file to; None keeps the file's.
      shortest: with `size`, the length that the shorter side is resized to before
        `size` is cut out of the middle, or (height, width) that images are stretched
        to before; None stretches to `size`.
      resample: method of resizing, a key of `images.RESAMPLING`; None is bilinear.
      channels: 1 (luma) or 3 that `load_image` brings a file to; None keeps the
        file's.
      offset: what is subtracted from the data's values before they are stored, one
        number per feature (`storage.py`); mean is of the data's values all the same.
      target_offset: likewise of regression targets; added to a model's outputs.
      fill: put in the place of NaN, one number per feature, in the data's units; None
        fills nothing.
      indicators: features of which a column is appended, 1 where they are NaN, else 0.
      unseen: features that are read as 0: one-hot columns that no train row has.
    """

    scale: float = 1.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None
    shortest: int | tuple[int, int] | None = None
    resample: str | None = None
    channels: int | None = None
    offset: tuple[float, ...] | None = None
    target_offset: tuple[float, ...] | None = None
    fill: tuple[float, ...] | None = None
    indicators: tuple[int, ...] = ()
    unseen: tuple[int, ...] = ()

    def __post_init__(self):
        if not self.scale > 0:
            raise UserError(
                f"preprocess.scale must be a positive number; got {self.scale!r}."
            )
        for name in ("mean", "std", "offset", "target_offset", "fill"):
            value = getattr(self, name)
            if value is not None:
                numbers = tuple(float(v) for v in np.atleast_1d(value))
                object.__setattr__(self, name, numbers)
        for name in ("indicators", "unseen"):
            object.__setattr__(self, name, tuple(int(i) for i in getattr(self, name)))
        if self.std is not None and not all(v > 0 for v in self.std):
            raise UserError(f"preprocess.std must be positive; got {self.std}.")
        object.__setattr__(self, "size", images.as_size(self.size))
        if isinstance(self.shortest, list):
            object.__setattr__(self, "shortest", tuple(self.shortest))
        images.check_shortest(self.shortest, self.size)
        images.check_resample(self.resample)
        images.check_channels(self.channels)


def apply(pre: Preprocess, x: PyTree) -> PyTree:
    """Computes (x/scale − mean)/std in float32, with mean and std along the last axis.

    Of a table with `fill`, NaN is filled before that, and `indicators` are appended.

    Args:
      pre: the preprocessing; `size`, `shortest`, `channels` concern `load_image` alone.
      x: (..., channels) or (..., features), any real dtype, `offset` subtracted. Of a
        dict of arrays the entry "image" is preprocessed, the others (text) stay.

    Returns:
      float32 of x's shape, wider by `indicators`; a dict for a dict.

    Raises:
      UserError: mean, std or fill of a length that is neither 1 nor x.shape[-1].
    """
    if isinstance(x, dict):
        return _of_image(apply, pre, x)
    x = jnp.asarray(x)
    for name in ("mean", "std", "fill"):
        value = getattr(pre, name)
        if value is not None and len(value) not in (1, x.shape[-1]):
            raise UserError(
                f"preprocess.{name} has {len(value)} numbers, "
                f"but the last axis of x, {tuple(x.shape)}, has {x.shape[-1]}."
            )
    x = x.astype(jnp.float32)
    is_hole = jnp.isnan(x[..., list(pre.indicators)]) if pre.indicators else None
    if pre.fill is not None:
        x = jnp.where(jnp.isnan(x), jnp.asarray(stored_fill(pre), jnp.float32), x)
    if pre.unseen:
        x = jnp.where(np.isin(np.arange(x.shape[-1]), pre.unseen), 0.0, x)
    if pre.scale != 1:
        x = x / pre.scale
    mean = _stored_mean(pre)
    if mean is not None:
        x = x - jnp.asarray(mean, jnp.float32)
    if pre.std is not None:
        x = x / jnp.asarray(pre.std, jnp.float32)
    if is_hole is None:
        return x
    return jnp.concatenate([x, is_hole.astype(jnp.float32)], axis=-1)


def _of_image(
    function: Callable[[Preprocess, Any], Any], pre: Preprocess, x: dict[str, Any]
) -> dict[str, Any]:
    """The inputs with a function applied to the image, where one is among them."""
    return {**x, IMAGE: function(pre, x[IMAGE])} if IMAGE in x else x


def stored_fill(pre: Preprocess) -> np.ndarray:
    """The fill values in the units of stored values, fill − offset.

    Args:
      pre: has a `fill`.

    Returns:
      float64 (features,), or (1,) where one number fills all.
    """
    return np.asarray(pre.fill) - np.asarray(pre.offset or 0.0)


def _stored_mean(pre: Preprocess) -> np.ndarray | None:
    """The mean of stored values divided by scale: mean − offset/scale, in float64."""
    if pre.offset is None:
        return None if pre.mean is None else np.asarray(pre.mean)
    return np.asarray(pre.mean or 0.0) - np.asarray(pre.offset) / pre.scale


def restore(pre: Preprocess, x: PyTree) -> PyTree:
    """Computes x·std + mean: undoes `apply` up to `scale`, [0, 1] for images.

    Indicators stay where they are.

    Args:
      pre: the preprocessing that `apply` used.
      x: what `apply` returned; of a dict the entry "image" is restored.

    Returns:
      float32 of x's shape: stored values (those of the data less `offset`) divided by
      `scale`.
    """
    if isinstance(x, dict):
        return _of_image(restore, pre, x)
    x, indicators = _without_indicators(pre, x)
    if pre.std is not None:
        x = x * jnp.asarray(pre.std, jnp.float32)
    mean = _stored_mean(pre)
    x = x if mean is None else x + jnp.asarray(mean, jnp.float32)
    return jnp.concatenate([x, indicators], axis=-1) if pre.indicators else x


def normalize(pre: Preprocess, x: PyTree) -> PyTree:
    """Computes (x − mean)/std of values that are divided by `scale` already.

    Args:
      pre: mean and std count; `scale`, `fill` and `unseen` do not.
      x: (..., channels) or (..., features), divided by `scale` and filled already, with
        indicators if `pre` has some; of a dict the entry "image".

    Returns:
      float32 of x's shape; the indicators stay as they are.
    """
    if isinstance(x, dict):
        return _of_image(normalize, pre, x)
    mean = _stored_mean(pre)
    mean = None if mean is None else tuple(np.atleast_1d(mean).tolist())
    plain = Preprocess(mean=mean, std=pre.std)
    if not pre.indicators:
        return apply(plain, x)
    x, indicators = _without_indicators(pre, x)
    return jnp.concatenate([apply(plain, x), indicators], axis=-1)


def _without_indicators(pre: Preprocess, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The features and, apart from them, the indicators that `apply` appended."""
    width = x.shape[-1] - len(pre.indicators)
    return x[..., :width], x[..., width:]


def stored_like(pre: Preprocess, stored: Preprocess) -> Preprocess:
    """Adapts a preprocessing to values that are stored as those of another one.

    Args:
      pre: gives everything but the two offsets.
      stored: of the data set; gives `offset` and `target_offset`.

    Returns:
      `pre` with the offsets of `stored`.

    Raises:
      UserError: it has no mean, and the values are stored with an offset, so that they
        could not be told apart.
    """
    if stored.offset is not None and pre.mean is None:
        raise UserError(
            "preprocess.mean is None, but features of this data reach "
            f"{max(map(abs, stored.offset)):g} and differ by so little that 32 bits "
            "lose it without a mean: give preprocess a mean and std, or none at all."
        )
    return dataclasses.replace(
        pre, offset=stored.offset, target_offset=stored.target_offset
    )


def filled_like(pre: Preprocess, shared: Preprocess) -> Preprocess:
    """Gives the preprocessing of a table the fill and indicators of another one.

    Args:
      pre: fitted on the table; its `fill` stays where the other has none.
      shared: of the model, whose inputs have its indicators.

    Returns:
      `pre` with the fill (if there is one) and the indicators of `shared`.
    """
    fill = pre.fill if shared.fill is None else shared.fill
    return dataclasses.replace(pre, fill=fill, indicators=shared.indicators)


def check_targets(model: Preprocess, data: Preprocess) -> None:
    """Raises UserError where a model's outputs and the data's targets are offset.

    Args:
      model: of the model's training data.
      data: of the data to use it on.
    """
    if model.target_offset != data.target_offset:
        offsets = [
            "0" if pre.target_offset is None else f"{pre.target_offset}"
            for pre in (model, data)
        ]
        raise UserError(
            f"the model predicts differences from {offsets[0]}, the targets of this "
            f"data are differences from {offsets[1]} (in 32 bits their values can't be "
            "told apart): subtract one number from the targets of both."
        )


def default(x: Any) -> Preprocess:
    """Chooses the preprocessing of data that bring none.

    Args:
      x: all inputs, (N, ...); of a dict the entry "image" counts, and texts alone have
        no preprocessing.

    Returns:
      scale=255 for uint8 images (4 axes), else 1; size and channels of images as they
      are.
    """
    if isinstance(x, dict):
        return default(x[IMAGE]) if IMAGE in x else Preprocess()
    image = len(x.shape) == 4
    scale = 255.0 if image and np.dtype(x.dtype) == np.uint8 else 1.0
    if not image:
        return Preprocess(scale=scale)
    channels = x.shape[3] if x.shape[3] in (1, 3) else None
    return Preprocess(scale=scale, size=tuple(x.shape[1:3]), channels=channels)


def to_json(pre: Preprocess) -> dict[str, Any]:
    """Writes a preprocessing as JSON values.

    Args:
      pre: any preprocessing.

    Returns:
      The fields that differ from their defaults, by name.
    """
    defaults = {f.name: f.default for f in dataclasses.fields(pre)}
    values = dataclasses.asdict(pre)
    return {k: v for k, v in values.items() if v != defaults[k]}


def from_json(values: Mapping[str, Any]) -> Preprocess:
    """Rebuilds a `Preprocess` from `to_json`.

    Args:
      values: field -> value, lists for tuples; fields that are left out take defaults.

    Returns:
      The preprocessing that `to_json` wrote.

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
    x = images.decode(path, pre.size, pre.channels, pre.shortest, pre.resample)
    return x if pre.scale == 255 else x.astype(np.float32) * (pre.scale / 255.0)
