"""Image files as they are meant to be seen: upright, on white, in 8 bits.

Training, `predict` and exports read pictures by `read` alone. The EXIF orientation is
applied; of a file with several frames the first is taken; transparent pixels are
composited on white, whatever color lies hidden below; 16 bits become 8 (the upper
ones); CMYK becomes RGB by the usual formula, and embedded color profiles are not
applied. Files of 32-bit numbers have no agreed white and are refused.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from jaxtl.core.errors import UserError

if TYPE_CHECKING:
    import PIL.Image

# PIL's modes of one channel of gray, with or without alpha.
_GRAY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N")
# Formats whose mode "I" holds 16 bits, scaled so that white is 65535.
_DEEP_FORMATS = ("PNG", "PPM")
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright, 5 to 8 exchange the sides


class Header(NamedTuple):
    """What the header of an image file says.

    Attributes:
      size: (height, width), upright.
      is_gray: whether it has one channel beside alpha.
      remarks: what `read` will decide, "turned upright by its EXIF orientation".
    """

    size: tuple[int, int]
    is_gray: bool
    remarks: tuple[str, ...]


def header(source: str | os.PathLike | BinaryIO) -> Header:
    """Reads the header of an image file, not its pixels.

    Raises:
      UserError: no such file, not an image, or one of 32-bit numbers.
    """
    import PIL.Image

    with _opened(source) as image:
        # The method of PNG files would decode the pixels for a chunk behind them.
        orientation = PIL.Image.Image.getexif(image).get(_ORIENTATION, 1)
        is_turned, swaps = orientation in range(2, 9), orientation in range(5, 9)
        if swaps and image.format == "TIFF":  # turned by Pillow as it is loaded
            image.load()
            swaps = False
        size = (image.height, image.width)
        profile = image.info.get("icc_profile")
        remarks = {
            "turned upright by the EXIF orientation": is_turned,
            "transparent, composited on white": image.has_transparency_data,
            "of several frames, the first read": getattr(image, "n_frames", 1) > 1,
            "of 16 bits, read as 8": _is_deep(image),
            "in CMYK, read as RGB": image.mode == "CMYK",
            "with a color profile that is not applied": bool(profile)
            and b"sRGB" not in profile,
        }
        return Header(
            size[::-1] if swaps else size,
            image.mode in _GRAY,
            tuple(text for text, applies in remarks.items() if applies),
        )


def read(source: str | os.PathLike | BinaryIO) -> PIL.Image.Image:
    """Reads an image file as a picture of mode "L" (gray) or "RGB".

    Raises:
      UserError: no such file, one that PIL can't decode, one of 32-bit numbers, or a
        16-bit one that would become black.
    """
    import PIL.ImageOps

    with _opened(source) as image:
        is_gray = image.mode in _GRAY
        image.load()
        if _is_deep(image):
            image = _in_8_bits(image, source)
        image = PIL.ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = _on_white(image)
        return image.convert("L" if is_gray else "RGB")


@contextlib.contextmanager
def _opened(source: str | os.PathLike | BinaryIO) -> Iterator[PIL.Image.Image]:
    """The opened file; all that its decoder raises becomes a UserError."""
    import PIL.Image

    try:
        with PIL.Image.open(source) as image:
            _check_mode(image, source)
            yield image
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"there is no image file {str(source)!r}.") from None
    except Exception as error:  # decoders raise errors of any type for damaged files
        raise UserError(f"{source} is not a readable image: {error}.") from None


def _check_mode(image: PIL.Image.Image, source: object) -> None:
    is_deep = image.mode == "I" and image.format in _DEEP_FORMATS
    if image.mode == "F" or (image.mode == "I" and not is_deep):
        kind = "floats" if image.mode == "F" else "32-bit whole numbers"
        raise UserError(
            f"{source} is not a readable image: it holds {kind}, of which nobody knows "
            "which one is white; save it with 8 or 16 bits, or its values as a .npy "
            "for Arrays(scale=…)."
        )


def _is_deep(image: PIL.Image.Image) -> bool:
    return image.mode in _DEEP or image.mode == "I"


def _in_8_bits(image: PIL.Image.Image, source: object) -> PIL.Image.Image:
    """The upper 8 of 16 bits, with the EXIF data and a transparent value kept."""
    import PIL.Image

    values = np.asarray(image).astype(np.int64)
    if 0 < values.max() < 256:
        raise UserError(
            f"{source} is not a readable image: of 16 bits it uses the values up to "
            f"{values.max()}, which all are black; save it with 8 bits."
        )
    gray = (values >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        gray[values == transparent] = 255
    deep = PIL.Image.fromarray(gray)
    if (exif := image.getexif()) is not None:
        deep.info["exif"] = exif.tobytes()
    return deep


def _on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    """Composites an image with transparent pixels on white, mode "RGB"."""
    import PIL.Image

    image = image.convert("RGBA")
    white = PIL.Image.new("RGBA", image.size, "white")
    return PIL.Image.alpha_composite(white, image).convert("RGB")
