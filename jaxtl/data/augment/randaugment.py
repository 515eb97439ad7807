"""RandAugment and Cutout: strong changes of images, pure, inside the compiled step.

Each operation is a pure function of images in [0, 255] and follows PIL's of the same
name but for PIL's rounding to whole levels in between. `RandAugment` gives every
example operations of its own at the cost of one operation per example and round, not of
all fourteen: a `lax.switch` under `vmap` would run every branch for every example.
Instead the batch is put in random order and cut into as many parts as there are
operations, each part meets one of them, and the order is put back. All five geometric
operations are one gather.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core.errors import UserError, nearest
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


def grey(x: jax.Array) -> jax.Array:
    """Returns the luma of RGB, else the mean of the channels, (n, h, w, 1)."""
    if x.shape[-1] == 3:
        return (x @ jnp.asarray(LUMA, x.dtype))[..., None]
    return x.mean(-1, keepdims=True)


def brightness(x, factor) -> jax.Array:
    """x · factor: 0 is black, 1 the image (`ImageEnhance.Brightness`)."""
    return x * factor


def color(x, factor) -> jax.Array:
    """From grey (0) to the image (1) (`ImageEnhance.Color`)."""
    return grey(x) * (1 - factor) + x * factor


def contrast(x, factor) -> jax.Array:
    """From the mean grey (0) to the image (1) (`ImageEnhance.Contrast`)."""
    mean = jnp.floor(jnp.round(grey(x)).mean((1, 2, 3), keepdims=True) + 0.5)
    return mean * (1 - factor) + x * factor


def sharpness(x, factor) -> jax.Array:
    """From smoothed (0) to the image (1) (`ImageEnhance.Sharpness`); edges stay."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = x.shape[1:3]
    # Nine shifted sums: a convolution of a few channels is slow on CPU.
    rows = sum(padded[:, i : i + height] for i in range(3))
    around = sum(rows[:, :, j : j + width] for j in range(3))
    smooth = (around + 4 * x) / 13
    inner = np.zeros((1, height, width, 1), bool)
    inner[:, 1:-1, 1:-1] = True
    return jnp.where(inner, smooth * (1 - factor) + x * factor, x)


def autocontrast(x) -> jax.Array:
    """Stretches every channel to 0…255; a constant one stays (`ImageOps`)."""
    low, high = x.min((1, 2), keepdims=True), x.max((1, 2), keepdims=True)
    span = high - low
    return jnp.where(span > 0, (x - low) * 255 / jnp.where(span > 0, span, 1), x)


def equalize(x) -> jax.Array:
    """Flattens every channel's histogram of whole levels (`ImageOps.equalize`)."""
    count, height, width, channels = x.shape
    levels = jnp.clip(jnp.round(x), 0, 255).astype(jnp.int32)
    # One histogram per image and channel, side by side in one array.
    offset = 256 * jnp.arange(count * channels).reshape(count, 1, 1, channels)
    bins = jnp.zeros(256 * count * channels, jnp.int32)
    histogram = bins.at[(levels + offset).reshape(-1)].add(1).reshape(-1, 256)
    # PIL leaves the brightest level that occurs out of the step's size.
    last = levels.max((1, 2)).reshape(-1, 1)
    most = jnp.take_along_axis(histogram, last, axis=1)
    step = (height * width - most) // 255
    before = jnp.cumsum(histogram, axis=1) - histogram
    table = jnp.minimum((step // 2 + before) // jnp.maximum(step, 1), 255)
    table = jnp.where(step > 0, table, jnp.arange(256))
    return table.reshape(-1)[levels + offset].astype(x.dtype)


def posterize(x, bits) -> jax.Array:
    """Keeps the highest `bits` of the 8 (`ImageOps.posterize`)."""
    size = 2.0 ** (8 - bits)
    return jnp.floor(jnp.round(x) / size) * size


def solarize(x, threshold) -> jax.Array:
    """Turns values from the threshold on round, 255 − x (`ImageOps.solarize`)."""
    return jnp.where(x < threshold, x, 255 - x)


def affine(x, matrix, fill=0.0) -> jax.Array:
    """Image whose pixel p is the nearest one to matrix · (p, 1) of the old image.

    Args:
      x: (n, height, width, channels).
      matrix: (n, 2, 3), x before y, in pixels; pixel centres lie at halves.
      fill: value of what lies outside.

    Returns:
      What `PIL.Image.transform(size, AFFINE, matrix)` does, with nearest neighbours.
    """
    count, height, width, channels = x.shape
    rows, columns = jnp.meshgrid(
        jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij"
    )
    places = jnp.stack([columns.ravel(), rows.ravel(), jnp.ones(height * width)])
    # Sums of three products: a matrix product may round coarsely on a device.
    found = jnp.floor((matrix[:, :, :, None] * places).sum(2)).astype(jnp.int32)
    across, down = found[:, 0], found[:, 1]
    inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
    at = jnp.clip(down, 0, height - 1) * width + jnp.clip(across, 0, width - 1)
    flat = x.reshape(count, height * width, channels)
    moved = jnp.take_along_axis(flat, at[..., None], axis=1)
    return jnp.where(inside[..., None], moved, fill).reshape(x.shape)


def rotation(angle, height: int, width: int) -> jax.Array:
    """Returns the matrix of a turn by degrees about the centre, (n, 2, 3).

    Counter-clockwise for positive angles, as `PIL.Image.rotate`.
    """
    turn = -jnp.deg2rad(angle)
    c, s = jnp.cos(turn), jnp.sin(turn)
    x, y = width / 2, height / 2
    first = jnp.stack([c, s, x - c * x - s * y], -1)
    second = jnp.stack([-s, c, y + s * x - c * y], -1)
    return jnp.stack([first, second], -2)


def geometric(name: str, level, height: int, width: int) -> jax.Array:
    """Returns the matrix of a geometric operation at levels in [−1, 1], (n, 2, 3)."""
    if name == "rotate":
        return rotation(30 * level, height, width)
    zero, one, level = jnp.zeros_like(level), jnp.ones_like(level), 0.3 * level
    rows = {
        "shear_x": ([one, level, zero], [zero, one, zero]),
        "shear_y": ([one, zero, zero], [level, one, zero]),
        "translate_x": ([one, zero, level * width], [zero, one, zero]),
        "translate_y": ([one, zero, zero], [zero, one, level * height]),
    }[name]
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def pixelwise(name: str, x, level) -> jax.Array:
    """Returns images changed by an operation that is not geometric.

    Args:
      name: of `OPERATIONS`.
      x: (n, height, width, channels) in [0, 255].
      level: (n,) in [0, 1): the share of the way through the operation's range.
    """
    level = level[:, None, None, None]
    blends = {
        "brightness": brightness,
        "color": color,
        "contrast": contrast,
        "sharpness": sharpness,
    }
    if name in blends:
        return blends[name](x, 0.05 + 0.9 * level)
    if name == "posterize":
        return posterize(x, 4 + jnp.floor(5 * level))
    if name == "solarize":
        return solarize(x, 256 * level)
    return {"autocontrast": autocontrast, "equalize": equalize}[name](x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandAugment:
    """Some operations at random strength, one after another, drawn for each example.

    Ranges are FixMatch's: blends of brightness, color, contrast and sharpness by 0.05
    to 0.95; 4 to 8 bits; any solarization threshold; turns of ±30°; shear and shift by
    ±0.3. Images are in [0, 1], any number of channels: a term's view sees them so;
    `Experiment.augment` sees normalised ones, which this would cut off at 0 and 1.

    Attributes:
      rounds: operations per example (the paper's N).
      operations: names of those to draw from; None takes all fourteen.
      fill: what comes in from outside by geometric operations.

    References:
      Cubuk et al., RandAugment, NeurIPS 2020; Sohn et al., FixMatch, NeurIPS 2020,
      appendix: the transformations of RandAugment and their ranges.
    """

    rounds: int = 2
    operations: tuple[str, ...] | None = None
    fill: float = 0.0

    def __post_init__(self):
        if not (isinstance(self.rounds, int) and self.rounds >= 0):
            raise UserError(
                f"RandAugment.rounds must be a whole number; got {self.rounds!r}."
            )
        if self.operations is not None:
            object.__setattr__(self, "operations", tuple(self.operations))
        if self.operations == ():
            raise UserError("RandAugment.operations=() names none; None takes all.")
        for name in self.operations or ():
            if name not in OPERATIONS:
                raise UserError(
                    f"RandAugment.operations: {name!r} is unknown"
                    f"{nearest(name, OPERATIONS)} (known: {', '.join(OPERATIONS)})."
                )

    def __call__(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Returns x changed; float (batch, height, width, channels) in [0, 1]."""
        _float_images("RandAugment", x)
        names = OPERATIONS if self.operations is None else self.operations
        # Geometric ones in one row, so that they are one gather.
        names = sorted(names, key=lambda name: name in GEOMETRIC)
        for place in range(self.rounds):
            x = self._round(jax.random.fold_in(key, place), x, names)
        return x

    def _round(self, key, x, names: Sequence[str]) -> jax.Array:
        mixing, strength = jax.random.split(key)
        count = x.shape[0]
        each = -(-count // len(names))
        # A place per example and some that nobody looks at, so that every operation is
        # equally likely however small the batch.
        order = jax.random.permutation(mixing, each * len(names))
        level = jax.random.uniform(strength, order.shape)
        slots = 255 * x[order % count]
        plain = [n for n in names if n not in GEOMETRIC]
        parts = []
        for i, name in enumerate(plain):
            span = slice(i * each, (i + 1) * each)
            same = name == "identity"
            parts.append(
                slots[span] if same else pixelwise(name, slots[span], level[span])
            )
        if len(plain) < len(names):
            parts.append(self._moved(slots, level, names, len(plain), each))
        changed = jnp.clip(jnp.concatenate(parts) / 255, 0, 1).astype(x.dtype)
        return changed[jnp.argsort(order)[:count]]

    def _moved(self, slots, level, names, first: int, each: int) -> jax.Array:
        height, width = slots.shape[1:3]
        matrix = [
            geometric(name, 2 * level[i * each : (i + 1) * each] - 1, height, width)
            for i, name in enumerate(names)
            if i >= first
        ]
        return affine(slots[first * each :], jnp.concatenate(matrix), 255 * self.fill)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cutout:
    """Covers one square of every image, at a place of its own, with one value.

    Its centre is uniform over the pixels, so that squares may reach over the edge.

    Attributes:
      share: side of the square, as a share of the image's shorter side.
      fill: the value.

    References:
      DeVries & Taylor, Improved Regularization of Convolutional Neural Networks with
      Cutout, arXiv:1708.04552 (16 of 32 pixels on CIFAR-10).
    """

    share: float = 0.5
    fill: float = 0.5

    def __post_init__(self):
        if not 0 <= self.share <= 1:
            raise UserError(f"Cutout.share must lie in 0 to 1; got {self.share!r}.")

    def __call__(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Returns x with squares covered; float (batch, height, width, channels)."""
        _float_images("Cutout", x)
        count, height, width = x.shape[:3]
        side = round(self.share * min(height, width))
        size = jnp.asarray([height, width])
        first = jax.random.randint(key, (count, 2), 0, size) - side // 2
        down = jnp.arange(height) - first[:, :1]
        across = jnp.arange(width) - first[:, 1:]
        down, across = ((at >= 0) & (at < side) for at in (down, across))
        hidden = (down[:, :, None] & across[:, None, :])[..., None]
        return jnp.where(hidden, jnp.asarray(self.fill, x.dtype), x)


def _float_images(name: str, x) -> None:
    if isinstance(x, dict) or x.ndim != 4:
        shape = "a dict of tokens" if isinstance(x, dict) else f"shape {tuple(x.shape)}"
        raise UserError(
            f"{name} needs images (batch, height, width, channels); got {shape}."
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UserError(f"{name} needs float images in [0, 1]; got {x.dtype}.")
