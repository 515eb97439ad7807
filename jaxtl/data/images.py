"""Image files to arrays, and images brought to a size and a number of channels."""

from __future__ import annotations

import os
from typing import Any, BinaryIO

import numpy as np

from jaxtl.core import progress
from jaxtl.core.errors import UserError, nearest
from jaxtl.data import image_files

# Rec. 601, as PIL's convert("L") uses.
LUMA = (0.299, 0.587, 0.114)
_LARGEST = 65_535  # pixels of a side, the most that JPEG holds
# Methods of resampling -> their codes in PIL, which transformers stores.
RESAMPLING = {
    "nearest": 0,
    "lanczos": 1,
    "bilinear": 2,
    "bicubic": 3,
    "box": 4,
    "hamming": 5,
}


def decode(
    source: str | os.PathLike | BinaryIO,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    shortest: int | tuple[int, int] | None = None,
    resample: str | None = None,
) -> np.ndarray:
    """Decodes a path or a binary file to uint8 (height, width, channels).

    `image_files` tells how orientation, transparency and deep colors are read.

    Args:
      source: a path or a file-like object.
      size: (height, width), resized with antialiasing; None keeps the file's own.
      channels: 1, 3 or None: 1 for gray and bilevel files, 3 for all others.
      shortest, resample: as in `preprocess.Preprocess`.

    Raises:
      UserError: no such file, or one that PIL can't decode.
    """

    image = image_files.read(source)
    if channels is not None:
        image = image.convert("L" if channels == 1 else "RGB")
    crop = slice(None)
    if size is not None:
        scaled, crop = _scale_and_crop((image.height, image.width), size, shortest)
        if image.size != scaled[::-1]:
            image = image.resize(scaled[::-1], _filter(resample))
    x = np.asarray(image)[crop]
    return x[..., None] if x.ndim == 2 else x


def resize(
    x: np.ndarray,
    size: tuple[int, int],
    shortest: int | tuple[int, int] | None = None,
    resample: str | None = None,
) -> np.ndarray:
    """Resizes images with antialiasing.

    Args:
      x: (n, height, width, channels) of any real dtype; integers are rounded, and
        clipped to the range of their type.
      size: (height, width).
      shortest, resample: as in `preprocess.Preprocess`.

    Returns:
      (n, *size, channels) of the same dtype.
    """
    import PIL.Image

    scaled, crop = _scale_and_crop(x.shape[1:3], size, shortest)
    if x.shape[1:3] == scaled == tuple(size):
        return x
    method = _filter(resample)
    resized = np.empty((len(x), *size, x.shape[3]), x.dtype)
    integer = np.issubdtype(x.dtype, np.integer)
    for i, image in enumerate(progress.track(x, "resizing images")):
        for c in range(x.shape[3]):
            plane = PIL.Image.fromarray(image[:, :, c].astype(np.float32))
            plane = np.asarray(plane.resize(scaled[::-1], method))[crop]
            if integer:  # bicubic and Lanczos go beyond the values at edges
                limits = np.iinfo(x.dtype)
                plane = np.clip(np.rint(plane), limits.min, limits.max)
            resized[i, :, :, c] = plane
    return resized


def _filter(resample: str | None) -> int:
    """PIL's code of a method of resampling; None is bilinear."""
    return RESAMPLING[resample or "bilinear"]


def _scale_and_crop(
    image_size: tuple[int, int],
    size: tuple[int, int],
    shortest: int | tuple[int, int] | None,
) -> tuple[tuple[int, int], tuple[slice, slice]]:
    """The size to scale an image to, and the window of that to keep.

    Args:
      image_size: the image's height and width.
      size: height and width of the window.
      shortest: None stretches the image to `size`; else its shorter side is scaled to
        this, the other in proportion (rounded down), and `size` is cut out of the
        middle. (height, width) stretches the image to that before the cut.
    """
    if shortest is None:
        return tuple(size), (slice(None), slice(None))
    if isinstance(shortest, tuple):
        scaled = shortest
    else:
        short = min(image_size)
        scaled = tuple(max(shortest, shortest * side // short) for side in image_size)
    starts = [(a - b) // 2 for a, b in zip(scaled, size)]
    return scaled, tuple(slice(s, s + n) for s, n in zip(starts, size))


def convert_channels(x: np.ndarray, channels: int) -> np.ndarray:
    """Brings images (n, height, width, C) to 1 channel (luma) or 3 (gray repeated).

    Raises:
      UserError: a conversion other than from 1 or 3 channels to 3 or 1.
    """
    if x.shape[3] == channels:
        return x
    if x.shape[3] == 1 and channels == 3:
        return np.repeat(x, 3, axis=3)
    if x.shape[3] == 3 and channels == 1:
        gray = (x.astype(np.float32) @ np.asarray(LUMA, np.float32))[..., None]
        integer = np.issubdtype(x.dtype, np.integer)
        return (np.rint(gray) if integer else gray).astype(x.dtype)
    raise UserError(
        f"channels={channels} needs images of 1 or 3 channels; "
        f"these have {x.shape[3]}, shape {tuple(x.shape)}."
    )


def as_size(size: Any) -> tuple[int, int] | None:
    """(height, width) of an option `size`: None, one number for both, or a pair.

    Raises:
      UserError: any other value.
    """
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
    if max(pair) > _LARGEST:
        raise UserError(
            f"size must be at most {_LARGEST:,} pixels, as in picture files; got "
            f"{size!r}."
        )
    return int(pair[0]), int(pair[1])


def check_shortest(shortest: Any, size: Any) -> None:
    """Raises UserError unless `size` fits into an image of that shorter side."""
    if shortest is None:
        return
    needed = as_size(size) or (0, 0)
    sides = shortest if isinstance(shortest, tuple) else (shortest, shortest)
    is_whole = all(isinstance(v, (int, np.integer)) for v in sides)
    fits = len(sides) == 2 and is_whole and all(a >= b for a, b in zip(sides, needed))
    if (
        not fits
        or (shortest is not sides and min(sides) < max(needed))
        or not any(needed)
    ):
        raise UserError(
            f"shortest={shortest!r} must be a whole number of pixels, at least those "
            f"of size, which is cut out; got size={size!r}."
        )


def check_resample(resample: Any) -> None:
    """Raises UserError unless resample is None or a method of PIL."""
    if resample is not None and resample not in RESAMPLING:
        raise UserError(
            f"resample={resample!r} is no method of resampling"
            f"{nearest(resample, RESAMPLING)} (methods: {', '.join(RESAMPLING)})."
        )


def check_channels(channels: Any) -> None:
    """Raises UserError unless channels is None, 1 or 3."""
    if channels not in (None, 1, 3):
        raise UserError(f"channels must be 1 (luma) or 3 (RGB); got {channels!r}.")
