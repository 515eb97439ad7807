"""RandAugment and Cutout: strong changes of images, for the compiled step.

`RandAugment` draws the operations for each example separately, at the cost of one
operation per example and round instead of all fourteen: a `lax.switch` under `vmap`
would run every branch for every example. The batch is put in random order and cut into
as many parts as there are operations, each part goes through one of them, and the order
is restored. All five geometric operations are one gather.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError, nearest
from jaxtl.data.augment import image_operations
from jaxtl.data.augment.image_operations import GEOMETRIC, OPERATIONS


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandAugment:
    """Random operations of random strength, one after another, drawn per example.

    Ranges are FixMatch's: blends of brightness, color, contrast and sharpness by 0.05
    to 0.95; 4 to 8 bits; any solarization threshold; rotations of ±30°; shear and shift
    by ±0.3. Images are in [0, 1], any number of channels, as in the views of a term;
    those of `Experiment.augment` are normalized, and would be clipped to [0, 1] here.

    Attributes:
      rounds: operations per example (the paper's N).
      operations: names of those to draw from; None takes all fourteen.
      fill: value of pixels that geometric operations take from outside the image.

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
                f"RandAugment.rounds must be a whole number ≥ 0; got {self.rounds!r}."
            )
        if self.operations is not None:
            object.__setattr__(self, "operations", tuple(self.operations))
        if self.operations == ():
            raise UserError(
                "RandAugment.operations is empty; None takes all operations."
            )
        for name in self.operations or ():
            if name not in OPERATIONS:
                raise UserError(
                    f"RandAugment.operations: there is no operation {name!r}"
                    f"{nearest(name, OPERATIONS)} "
                    f"(operations: {', '.join(OPERATIONS)})."
                )

    def __call__(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Changes each image of x, float (batch, height, width, channels) in [0, 1]."""
        check_float_images("RandAugment", x)
        names = OPERATIONS if self.operations is None else self.operations
        # Geometric operations come last, next to each other, to share one gather.
        names = sorted(names, key=lambda name: name in GEOMETRIC)
        for i in range(self.rounds):
            x = self._round(jax.random.fold_in(key, i), x, names)
        return x

    def _round(self, key: jax.Array, x: jax.Array, names: Sequence[str]) -> jax.Array:
        """Applies one operation to each image, drawn from `names`."""
        order_key, level_key = jax.random.split(key)
        batch = x.shape[0]
        size = -(-batch // len(names))  # images per operation
        # The batch is padded to equal parts, so that all operations are equally likely
        # however small it is; what the padding becomes is dropped.
        order = jax.random.permutation(order_key, size * len(names))
        level = jax.random.uniform(level_key, order.shape)
        shuffled = 255 * x[order % batch]
        pixelwise = [name for name in names if name not in GEOMETRIC]
        parts = []
        for i, name in enumerate(pixelwise):
            part = slice(i * size, (i + 1) * size)
            parts.append(
                image_operations.apply_pixelwise(name, shuffled[part], level[part])
            )
        if len(pixelwise) < len(names):
            start = len(pixelwise) * size
            parts.append(
                self._geometric(
                    shuffled[start:], level[start:], names[len(pixelwise) :], size
                )
            )
        changed = jnp.clip(jnp.concatenate(parts) / 255, 0, 1).astype(x.dtype)
        return changed[jnp.argsort(order)[:batch]]

    def _geometric(
        self, x: jax.Array, level: jax.Array, names: Sequence[str], size: int
    ) -> jax.Array:
        """Applies each geometric operation to `size` consecutive images."""
        height, width = x.shape[1:3]
        matrices = [
            image_operations.geometric_matrix(
                name, 2 * level[i * size : (i + 1) * size] - 1, height, width
            )
            for i, name in enumerate(names)
        ]
        return image_operations.affine(x, jnp.concatenate(matrices), 255 * self.fill)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cutout:
    """Covers one square of each image with one value, at a random position.

    The square's center is uniform over the pixels, so it may reach over the edge.

    Attributes:
      share: side of the square, as a fraction of the image's shorter side.
      fill: value of the covered pixels.

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
        """Covers a square of each image, float (batch, height, width, channels)."""
        check_float_images("Cutout", x)
        batch, height, width = x.shape[:3]
        side = round(self.share * min(height, width))
        size = jnp.asarray([height, width])
        corner = jax.random.randint(key, (batch, 2), 0, size) - side // 2
        row = jnp.arange(height) - corner[:, :1]
        column = jnp.arange(width) - corner[:, 1:]
        in_rows, in_columns = ((i >= 0) & (i < side) for i in (row, column))
        covered = (in_rows[:, :, None] & in_columns[:, None, :])[..., None]
        return jnp.where(covered, jnp.asarray(self.fill, x.dtype), x)


def check_float_images(name: str, x: Any) -> None:
    """Raises UserError unless x is a batch of float images."""
    if isinstance(x, dict) or x.ndim != 4:
        shape = "a dict of tokens" if isinstance(x, dict) else f"shape {tuple(x.shape)}"
        raise UserError(
            f"{name} needs images (batch, height, width, channels); got {shape}."
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UserError(f"{name} needs float images in [0, 1]; got {x.dtype}.")
