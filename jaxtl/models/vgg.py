"""VGG 11, 13, 16, 19, with and without BatchNorm.

References:
  Simonyan & Zisserman: Very Deep Convolutional Networks, ICLR 2015, table 1 (A, B, D,
  E); BatchNorm, names and the pooling to 7×7 as in torchvision.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax

from jaxtl.core.errors import UserError
from jaxtl.models import staged, weight_layout
from jaxtl.models.layers import batch_norm
from jaxtl.models.layers.conv import Conv
from jaxtl.models.layers.dense import Dense
from jaxtl.models.layers.heads import DenseHead
from jaxtl.models.layers.pooling import adaptive_average_pool, max_pool_2x2
from jaxtl.models.weight_layout import WeightLayout

# depth -> convolutions per stage
DEPTHS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
# Channels of each stage as multiples of the first's: 64, 128, 256, 512, 512.
_FACTORS = (1, 2, 4, 8, 8)

_DENSE_INIT = nn.initializers.normal(0.01)
_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class _VGGStage(nn.Module):
    """3×3 convolutions with optional BatchNorm and ReLU, then 2×2 max pooling."""

    width: int
    depth: int
    norm: bool

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        for i in range(self.depth):
            name, pad = f"conv{i}", ((1, 1), (1, 1))
            layer = Conv(self.width, (3, 3), 1, pad, kernel_init=_INIT, name=name)
            x = layer(x)
            x = batch_norm.BatchNorm(name=f"bn{i}")(x, mode) if self.norm else x
            x = nn.relu(x)
        return max_pool_2x2(x)


class _VGGHidden(nn.Module):
    """Pooling to a fixed size where the input is an image, affine, ReLU, dropout."""

    width: int
    dropout: float
    pooled: int

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        if x.ndim == 4:
            x = adaptive_average_pool(x, self.pooled)
            # Channels first, as torch flattens, so that its kernels fit.
            x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        x = nn.relu(Dense(self.width, kernel_init=_DENSE_INIT, name="dense")(x))
        return staged.Dropout(self.dropout, name="dropout")(x, mode)


class VGG(staged.Staged):
    """Stages `stage1 … stage5, hidden1, hidden2, head`.

    Attributes:
      depth: 11, 13, 16 or 19.
      norm: BatchNorm after each convolution.
      width: channels of the first stage.
      hidden: width of the two hidden layers.
      pooled: side to which the last feature map is averaged.
      dropout: rate after each hidden layer.
    """

    READS: ClassVar[str] = "images"

    depth: int = 16
    norm: bool = False
    width: int = 64
    hidden: int = 4096
    pooled: int = 7
    dropout: float = 0.5

    stages = (*(f"stage{i + 1}" for i in range(5)), "hidden1", "hidden2", "head")

    def setup(self) -> None:
        if self.depth not in DEPTHS:
            closest = min(DEPTHS, key=lambda d: abs(d - self.depth))
            raise UserError(
                f"depth={self.depth}: a VGG has {', '.join(map(str, DEPTHS))} "
                f"layers; the nearest is {closest}."
            )
        for i, (count, factor) in enumerate(zip(DEPTHS[self.depth], _FACTORS)):
            self.add(f"stage{i + 1}", _VGGStage(self.width * factor, count, self.norm))
        for name in ("hidden1", "hidden2"):
            self.add(name, _VGGHidden(self.hidden, self.dropout, self.pooled))
        self.add("head", DenseHead(self.outputs, kernel_init=_DENSE_INIT))

    def layouts(self) -> dict[str, WeightLayout]:
        return {"torchvision": _torchvision_layout(self)}


def _torchvision_layout(model: VGG) -> WeightLayout:
    """The naming of torchvision.models.vgg: positions in a Sequential."""
    rules, position = [], 0
    for i, count in enumerate(DEPTHS[model.depth]):
        for k in range(count):
            path = f"stage{i + 1}"
            rules += weight_layout.conv(
                f"features.{position}", f"{path}/conv{k}", bias=True
            )
            position += 1
            if model.norm:
                rules += weight_layout.batch_norm(
                    f"features.{position}", f"{path}/bn{k}"
                )
                position += 1
            position += 1  # ReLU
        position += 1  # pooling
    for number, stage in ((0, "hidden1"), (3, "hidden2"), (6, "head")):
        rules += weight_layout.linear(f"classifier.{number}", f"{stage}/dense")
    return WeightLayout(
        tuple(rules),
        ignored=(weight_layout.COUNTERS,),
        prefixes=("module.",),
        stem="stage1/conv0/kernel",
        **weight_layout.IMAGENET,
    )


def from_tensors(
    shapes: Mapping[str, tuple[int, ...]], meta: Mapping[str, Any]
) -> VGG | None:
    """The model that a torchvision file was written from, None for other files."""
    if "classifier.6.weight" not in shapes or "features.0.weight" not in shapes:
        return None
    norm = "features.1.running_mean" in shapes
    kernels = sum(len(s) == 4 for n, s in shapes.items() if n.startswith("features."))
    depth = next((d for d, form in DEPTHS.items() if sum(form) == kernels), None)
    hidden, flattened = shapes["classifier.0.weight"]
    width = shapes["features.0.weight"][0]
    if depth is None:
        return None
    return VGG(
        outputs=shapes["classifier.6.weight"][0],
        depth=depth,
        norm=norm,
        width=width,
        hidden=hidden,
        pooled=round((flattened / (8 * width)) ** 0.5),
    )
