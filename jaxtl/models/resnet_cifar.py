"""The CIFAR ResNets: 6n + 2 layers of width 16, 32, 64 with option-A shortcuts.

References:
  He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016,
  section 4.2 (ResNet-20 has 269,722 parameters for 10 classes).
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.core.errors import UserError
from jaxtl.models import staged, weight_layout
from jaxtl.models.layers import batch_norm
from jaxtl.models.layers.conv import Conv
from jaxtl.models.layers.heads import PooledHead
from jaxtl.models.layers.pooling import global_average_pool
from jaxtl.models.weight_layout import WeightLayout

_INIT = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def _conv(width: int, stride: int, name: str) -> Conv:
    # Explicit padding: "SAME" pads even inputs of stride 2 on the other side.
    pad = ((1, 1), (1, 1))
    return Conv(
        width, (3, 3), stride, pad, use_bias=False, kernel_init=_INIT, name=name
    )


def _option_a_shortcut(x: jax.Array, width: int, stride: int) -> jax.Array:
    """Every `stride`-th pixel, with channels of zeros on both sides of x's."""
    x = x[:, ::stride, ::stride]
    extra = width - x.shape[-1]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2)))


class _CifarBlock(nn.Module):
    """Two 3×3 convolutions with BatchNorm and a parameter-free shortcut."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        y = _conv(self.width, self.stride, "conv1")(x)
        y = nn.relu(batch_norm.BatchNorm(name="bn1")(y, mode))
        y = _conv(self.width, 1, "conv2")(y)
        y = batch_norm.BatchNorm(name="bn2")(y, mode)
        return nn.relu(y + _option_a_shortcut(x, self.width, self.stride))


class _CifarStem(nn.Module):
    """3×3 convolution, BatchNorm, ReLU."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        x = _conv(self.width, 1, "conv")(x)
        return nn.relu(batch_norm.BatchNorm(name="bn")(x, mode))


class _CifarStage(nn.Module):
    """A stage of blocks, of which the first has the stage's stride."""

    width: int
    stride: int
    depth: int

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        for i in range(self.depth):
            stride = self.stride if i == 0 else 1
            x = _CifarBlock(self.width, stride, name=f"block{i}")(x, mode)
        return x


class ResNet(staged.Staged):
    """A CIFAR-style ResNet: stages `stem, stage1, stage2, stage3, head`.

    Attributes:
      depth: 6n + 2 (20, 32, 44, 56, 110).
      width: channels of the first stage, doubled in the second and the third.
    """

    READS: ClassVar[str] = "images"

    depth: int = 20
    width: int = 16

    stages = ("stem", "stage1", "stage2", "stage3", "head")

    @property
    def blocks(self) -> int:
        """Number of blocks per stage."""
        return (self.depth - 2) // 6

    def reduction(self) -> Callable[[Any], Any]:
        return global_average_pool

    def layouts(self) -> dict[str, WeightLayout]:
        return {"akamaster": _akamaster_layout(self)}

    def setup(self) -> None:
        if self.depth < 8 or (self.depth - 2) % 6:
            raise UserError(
                f"depth={self.depth}: a CIFAR ResNet has 6n + 2 layers; "
                f"the nearest is {max(8, round((self.depth - 2) / 6) * 6 + 2)}."
            )
        self.add("stem", _CifarStem(self.width))
        for i in range(3):
            stride = 1 if i == 0 else 2
            stage = _CifarStage(self.width * 2**i, stride, self.blocks)
            self.add(f"stage{i + 1}", stage)
        self.add("head", PooledHead(self.outputs))


def _akamaster_layout(model: ResNet) -> WeightLayout:
    """The naming of github.com/akamaster/pytorch_resnet_cifar10."""
    rules = [
        *weight_layout.conv("conv1", "stem/conv"),
        *weight_layout.batch_norm("bn1", "stem/bn"),
    ]
    for i in range(1, 4):
        for b in range(model.blocks):
            for k in (1, 2):
                source, path = f"layer{i}.{b}", f"stage{i}/block{b}"
                rules += weight_layout.conv(f"{source}.conv{k}", f"{path}/conv{k}")
                rules += weight_layout.batch_norm(f"{source}.bn{k}", f"{path}/bn{k}")
    rules += weight_layout.linear("linear", "head/dense")
    return WeightLayout(
        tuple(rules),
        ignored=(weight_layout.COUNTERS,),
        prefixes=("module.",),
        stem="stem/conv/kernel",
        **weight_layout.IMAGENET,
    )


def from_tensors(
    shapes: Mapping[str, tuple[int, ...]], meta: Mapping[str, Any]
) -> ResNet | None:
    """The model that an akamaster file was written from, None for other files."""
    if "linear.weight" not in shapes or "layer3.0.conv1.weight" not in shapes:
        return None
    blocks = sum(f"layer1.{b}.conv1.weight" in shapes for b in range(100))
    outputs, width = shapes["linear.weight"][0], shapes["conv1.weight"][0]
    return ResNet(outputs=outputs, depth=6 * blocks + 2, width=width)
