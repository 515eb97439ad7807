"""VGG 11, 13, 16, 19, with and without BatchNorm.

References:
  Simonyan & Zisserman: Very Deep Convolutional Networks, ICLR 2015, table 1 (A, B, D,
  E); BatchNorm, names and the pooling to 7×7 as in torchvision.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.models import staged, weight_layout
from jaxtl.models.layers import batch_norm
from jaxtl.models.layers.conv import Conv

# depth -> convolutions per stage; stages have 64, 128, 256, 512, 512 channels.
DEPTHS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
FACTORS = (1, 2, 4, 8, 8)

_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def _adaptive_average_pool(x: jax.Array, size: int) -> jax.Array:
    """Averages (batch, H, W, C) to (batch, size, size, C), as torch's adaptive pool.

    Output i averages the rows ⌊i·H/size⌋ … ⌈(i+1)·H/size⌉ − 1; where H < size, rows
    repeat.
    """

    def averages(length: int) -> np.ndarray:
        matrix = np.zeros((size, length), np.float32)
        for i in range(size):
            start, end = i * length // size, -((-(i + 1) * length) // size)
            matrix[i, start:end] = 1 / (end - start)
        return matrix

    if x.shape[1:3] == (size, size):
        return x
    rows, columns = (averages(n).astype(x.dtype) for n in x.shape[1:3])
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, x)


class _VGGStage(nn.Module):
    """3×3 convolutions with optional BatchNorm and ReLU, then 2×2 max pooling."""

    width: int
    depth: int
    norm: bool

    @nn.compact
    def __call__(self, x, mode):
        for i in range(self.depth):
            name, pad = f"conv{i}", ((1, 1), (1, 1))
            layer = Conv(self.width, (3, 3), 1, pad, kernel_init=_INIT, name=name)
            x = layer(x)
            x = batch_norm.BatchNorm(name=f"bn{i}")(x, mode) if self.norm else x
            x = nn.relu(x)
        return staged.max_pool(x)


class _VGGHidden(nn.Module):
    """Pooling to a fixed size where the input is an image, affine, ReLU, dropout."""

    width: int
    dropout: float
    pooled: int

    @nn.compact
    def __call__(self, x, mode):
        if x.ndim == 4:
            x = _adaptive_average_pool(x, self.pooled)
            # torch flattens (channels, height, width): so that its kernels fit.
            x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        init = nn.initializers.normal(0.01)
        x = nn.relu(nn.Dense(self.width, kernel_init=init, name="dense")(x))
        return staged.Dropout(self.dropout, name="dropout")(x, mode)


class _VGGHead(nn.Module):
    """An affine map to the outputs."""

    outputs: int

    @nn.compact
    def __call__(self, x, mode):
        init = nn.initializers.normal(0.01)
        return nn.Dense(self.outputs, kernel_init=init, name="dense")(x)


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

    depth: int = 16
    norm: bool = False
    width: int = 64
    hidden: int = 4096
    pooled: int = 7
    dropout: float = 0.5

    stages = (*(f"stage{i + 1}" for i in range(5)), "hidden1", "hidden2", "head")

    def setup(self):
        if self.depth not in DEPTHS:
            near = min(DEPTHS, key=lambda d: abs(d - self.depth))
            raise UserError(
                f"depth={self.depth}: a VGG has {', '.join(map(str, DEPTHS))} "
                f"layers; the nearest is {near}."
            )
        for i, (count, factor) in enumerate(zip(DEPTHS[self.depth], FACTORS)):
            self.add(f"stage{i + 1}", _VGGStage(self.width * factor, count, self.norm))
        for name in ("hidden1", "hidden2"):
            self.add(name, _VGGHidden(self.hidden, self.dropout, self.pooled))
        self.add("head", _VGGHead(self.outputs))

    def layouts(self):
        return {"torchvision": _torchvision_layout(self)}


def _torchvision_layout(model: VGG) -> weight_layout.WeightLayout:
    """The naming of torchvision.models.vgg: places in a Sequential."""
    rules, place = [], 0
    for i, count in enumerate(DEPTHS[model.depth]):
        for k in range(count):
            path = f"stage{i + 1}"
            rules += weight_layout.conv(
                f"features.{place}", f"{path}/conv{k}", bias=True
            )
            place += 1
            if model.norm:
                rules += weight_layout.batch_norm(f"features.{place}", f"{path}/bn{k}")
                place += 1
            place += 1  # ReLU
        place += 1  # pooling
    for number, stage in ((0, "hidden1"), (3, "hidden2"), (6, "head")):
        rules += weight_layout.linear(f"classifier.{number}", f"{stage}/dense")
    return weight_layout.WeightLayout(
        tuple(rules),
        ignored=(weight_layout.COUNTERS,),
        prefixes=("module.",),
        stem="stage1/conv0/kernel",
        **weight_layout.IMAGENET,
    )


def from_tensors(shapes: dict[str, tuple[int, ...]], meta: dict) -> VGG | None:
    """Returns the model that a torchvision file is of, None if it is none."""
    if "classifier.6.weight" not in shapes or "features.0.weight" not in shapes:
        return None
    norm = "features.1.running_mean" in shapes
    kernels = sum(len(s) == 4 for n, s in shapes.items() if n.startswith("features."))
    depth = next((d for d, form in DEPTHS.items() if sum(form) == kernels), None)
    hidden, last = shapes["classifier.0.weight"]
    width = shapes["features.0.weight"][0]
    if depth is None:
        return None
    return VGG(
        outputs=shapes["classifier.6.weight"][0],
        depth=depth,
        norm=norm,
        width=width,
        hidden=hidden,
        pooled=round((last / (8 * width)) ** 0.5),
    )
