"""From stored values to what a model reads: (x/scale − mean)/std, and one image file.

`scale` is the stored value that means "white" or "full": 255 for uint8 images, 16 for
the 8×8 digits, 2000 for USPS. Data stay in their stored type on the device, a quarter
of the memory of float32, and become float32 inside the compiled step.
"""

from __future__ import annotations

import dataclasses
import pathlib
import typing

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core.errors import UserError, nearest

# Rec. 601, as PIL's convert("L") uses.
LUMA = (0.299, 0.587, 0.114)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How stored values become a model's input; saved beside every trained model.

    Attributes:
      scale: divisor; x/scale lies in [0, 1] for images.
      mean: subtracted after the division; one number per channel or feature.
      std: divisor after that; one number per channel or feature.
      size: (height, width) that `load_image` brings a file to; None keeps its own.
      shortest: with `size`, the length that the shorter side is resized to before
        `size` is cut out of the middle; None stretches to `size`.
      channels: 1 (luma) or 3 that `load_image` brings a file to; None keeps its own.
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
        object.__setattr__(self, "size", image_size(self.size))
        shortest_side(self.shortest, self.size)
        image_channels(self.channels)


def apply(pre: Preprocess, x: typing.Any) -> jax.Array:
    """Returns float32 (x/scale − mean)/std; mean and std run along the last axis.

    Args:
      pre: what to apply; `size`, `shortest`, `channels` concern `load_image` alone.
      x: (..., channels) or (..., features), any real dtype. A dict of arrays (text) is
        handed back as it is.

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


def restore(pre: Preprocess, x: typing.Any) -> typing.Any:
    """Returns stored values over `scale`, [0, 1] for images, of what `apply` gave."""
    if isinstance(x, dict):
        return x
    if pre.std is not None:
        x = x * jnp.asarray(pre.std, jnp.float32)
    if pre.mean is not None:
        x = x + jnp.asarray(pre.mean, jnp.float32)
    return x


def normalize(pre: Preprocess, x: typing.Any) -> typing.Any:
    """Returns (x − mean)/std of values that are divided by `scale` already."""
    return apply(dataclasses.replace(pre, scale=1.0), x)


def default(x: typing.Any) -> Preprocess:
    """The preprocessing of data that bring none: /255 for uint8 images, else none."""
    if isinstance(x, dict):
        return Preprocess()
    image = len(x.shape) == 4
    scale = 255.0 if image and np.dtype(x.dtype) == np.uint8 else 1.0
    if not image:
        return Preprocess(scale=scale)
    channels = x.shape[3] if x.shape[3] in (1, 3) else None
    return Preprocess(scale=scale, size=tuple(x.shape[1:3]), channels=channels)


def to_json(pre: Preprocess) -> dict:
    """Returns a dict of JSON values; fields at their default are left out."""
    plain = {f.name: f.default for f in dataclasses.fields(pre)}
    values = dataclasses.asdict(pre)
    return {k: v for k, v in values.items() if v != plain[k]}


def from_json(values: dict) -> Preprocess:
    """Returns the Preprocess that `to_json` wrote.

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
        `apply(pre, image)` sees [0, 1] before mean and std.

    Returns:
      (height, width, channels): uint8 where scale is 255, float32 otherwise.

    Raises:
      UserError: no such file, or not an image.
    """
    x = decode(path, pre.size, pre.channels, pre.shortest)
    return x if pre.scale == 255 else x.astype(np.float32) * (pre.scale / 255.0)


def decode(source, size=None, channels=None, shortest=None) -> np.ndarray:
    """PIL-decodes a path or a binary file to uint8 (height, width, channels).

    Args:
      source: a path or a file-like object.
      size: (height, width), bilinear with antialiasing; None keeps the file's own.
      channels: 1, 3 or None: 1 for grey and bilevel files, 3 for all others.
      shortest: as in `Preprocess`.
    """
    import PIL.Image

    try:
        with PIL.Image.open(source) as image:
            if channels is None:
                channels = 1 if image.mode in GREY_MODES else 3
            if image.mode.startswith("I"):  # PIL would clip 16 bits at 255
                image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            image = image.convert("L" if channels == 1 else "RGB")
    except FileNotFoundError:
        raise UserError(f"there is no image file {str(source)!r}.") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{source} is not a readable image: {error}.") from None
    cut = slice(None)
    if size is not None:
        whole, cut = framing((image.height, image.width), size, shortest)
        if image.size != whole[::-1]:
            image = image.resize(whole[::-1], PIL.Image.Resampling.BILINEAR)
    x = np.asarray(image)[cut]
    return x[..., None] if x.ndim == 2 else x


def framing(image: tuple[int, int], size: tuple[int, int], shortest: int | None):
    """Returns (height, width) to resize an image to, and what to keep of that.

    Args:
      image: its own height and width.
      size: wanted height and width.
      shortest: None stretches; else the shorter side becomes so long, the other keeps
        the proportion (rounded down), and `size` is cut out of the middle.
    """
    if shortest is None:
        return tuple(size), (slice(None), slice(None))
    whole = tuple(max(shortest, shortest * side // min(image)) for side in image)
    starts = [(a - b) // 2 for a, b in zip(whole, size)]
    return whole, tuple(slice(s, s + n) for s, n in zip(starts, size))


GREY_MODES = ("1", "L", "LA", "I", "I;16", "F")


def resize(x: np.ndarray, size: tuple[int, int], shortest=None) -> np.ndarray:
    """Resizes images (N, H, W, C) of any real dtype, bilinear with antialiasing.

    Integer dtypes are rounded and keep their type; `shortest` is as in `Preprocess`.
    """
    import PIL.Image

    image, cut = framing(x.shape[1:3], size, shortest)
    if x.shape[1:3] == image == tuple(size):
        return x
    kind = PIL.Image.Resampling.BILINEAR
    out = np.empty((len(x), *size, x.shape[3]), x.dtype)
    whole = np.issubdtype(x.dtype, np.integer)
    for i, one in enumerate(x):
        for c in range(x.shape[3]):
            plane = PIL.Image.fromarray(one[:, :, c].astype(np.float32))
            plane = np.asarray(plane.resize(image[::-1], kind))[cut]
            out[i, :, :, c] = np.rint(plane) if whole else plane
    return out


def recolour(x: np.ndarray, channels: int) -> np.ndarray:
    """Brings images (N, H, W, C) to 1 channel (luma) or 3 (the grey one repeated)."""
    if x.shape[3] == channels:
        return x
    if x.shape[3] == 1 and channels == 3:
        return np.repeat(x, 3, axis=3)
    if x.shape[3] == 3 and channels == 1:
        grey = (x.astype(np.float32) @ np.asarray(LUMA, np.float32))[..., None]
        whole = np.issubdtype(x.dtype, np.integer)
        return (np.rint(grey) if whole else grey).astype(x.dtype)
    raise UserError(
        f"channels={channels} needs images of 1 or 3 channels; "
        f"these have {x.shape[3]}, shape {tuple(x.shape)}."
    )


def image_size(size) -> tuple[int, int] | None:
    """Returns (height, width) from None, one number or a pair."""
    if size is None:
        return None
    pair = (size, size) if isinstance(size, (int, np.integer)) else tuple(size)
    if len(pair) != 2 or not all(
        isinstance(v, (int, np.integer)) and v >= 1 for v in pair
    ):
        raise UserError(
            f"size must be a positive number of pixels or (height, width); "
            f"got {size!r}."
        )
    return int(pair[0]), int(pair[1])


def shortest_side(shortest, size) -> None:
    """Raises UserError unless `size` fits into an image of that shorter side."""
    if shortest is None:
        return
    least = max(image_size(size) or (0,))
    if not least or not isinstance(shortest, (int, np.integer)) or shortest < least:
        raise UserError(
            f"shortest={shortest!r} must be a whole number of pixels, at least those "
            f"of size, which is cut out; got size={size!r}."
        )


def image_channels(channels) -> None:
    """Raises UserError unless channels is None, 1 or 3."""
    if channels not in (None, 1, 3):
        raise UserError(f"channels must be 1 (luma) or 3 (RGB); got {channels!r}.")
