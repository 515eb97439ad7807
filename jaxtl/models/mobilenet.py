"""MobileNet v1: 13 pairs of depthwise and pointwise convolutions.

References:
  Howard et al.: MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
  Applications, arXiv:1704.04861, table 1; padding, names and constants as in Keras.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax

from jaxtl.core.errors import UserError
from jaxtl.models import staged, weight_layout
from jaxtl.models.layers import batch_norm
from jaxtl.models.layers.conv import Conv
from jaxtl.models.layers.conv_cpu import PaddingPairs
from jaxtl.models.layers.dense import Dense
from jaxtl.models.layers.heads import PooledHead
from jaxtl.models.layers.pooling import global_average_pool
from jaxtl.models.weight_layout import Rule, WeightLayout

# (channels, stride) of the pointwise convolutions, by stage.
STAGES = (
    ((64, 1),),
    ((128, 2), (128, 1)),
    ((256, 2), (256, 1)),
    ((512, 2), *((512, 1),) * 5),
    ((1024, 2), (1024, 1)),
)


def _norm(name: str) -> batch_norm.BatchNorm:
    return batch_norm.BatchNorm(momentum=0.99, epsilon=1e-3, name=name)


def _pad(stride: int) -> PaddingPairs:
    # Where it strides, Keras pads only below and to the right.
    return ((0, 1), (0, 1)) if stride == 2 else ((1, 1), (1, 1))


class _MobileNetStem(nn.Module):
    """3×3 convolution of stride 2, BatchNorm, ReLU6."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        x = Conv(self.width, (3, 3), 2, _pad(2), use_bias=False, name="conv")(x)
        return nn.relu6(_norm("bn")(x, mode))


class _SeparableConv(nn.Module):
    """Depthwise 3×3 and pointwise convolution, each with BatchNorm and ReLU6."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        channels = x.shape[-1]
        x = Conv(
            channels,
            (3, 3),
            self.stride,
            _pad(self.stride),
            groups=channels,
            use_bias=False,
            name="depthwise",
        )(x)
        x = nn.relu6(_norm("bn1")(x, mode))
        x = Dense(self.width, use_bias=False, name="pointwise")(x)
        return nn.relu6(_norm("bn2")(x, mode))


class _MobileNetStage(nn.Module):
    """The separable convolutions of one resolution."""

    widths: tuple[int, ...]
    strides: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        for i, (width, stride) in enumerate(zip(self.widths, self.strides)):
            x = _SeparableConv(width, stride, name=f"block{i}")(x, mode)
        return x


class MobileNet(staged.Staged):
    """MobileNet v1: stages `stem, stage1 … stage5, head`; inputs scaled to [−1, 1].

    Attributes:
      alpha: factor on all widths (0.25, 0.5, 0.75, 1.0).
      dropout: rate before the head's affine map (Keras: 1e-3).
    """

    READS: ClassVar[str] = "images"

    alpha: float = 1.0
    dropout: float = 1e-3

    stages = ("stem", "stage1", "stage2", "stage3", "stage4", "stage5", "head")

    def setup(self) -> None:
        if not self.alpha > 0:
            raise UserError(f"alpha={self.alpha!r}: the width factor must be positive.")
        self.add("stem", _MobileNetStem(self.width(32)))
        for i, blocks in enumerate(STAGES):
            widths = tuple(self.width(w) for w, _ in blocks)
            strides = tuple(s for _, s in blocks)
            self.add(f"stage{i + 1}", _MobileNetStage(widths, strides))
        self.add("head", PooledHead(self.outputs, self.dropout))

    def width(self, channels: int) -> int:
        """Scales a number of channels by the width factor.

        Args:
          channels: of the network of alpha = 1.

        Returns:
          channels · alpha, rounded down, as in Keras.
        """
        return int(channels * self.alpha)

    def reduction(self) -> Callable[[Any], Any]:
        return global_average_pool

    def layouts(self) -> dict[str, WeightLayout]:
        return {"keras": _keras_layout()}


def _keras_layout() -> WeightLayout:
    """The naming of keras.applications.MobileNet; `conv_preds` is a 1×1 convolution."""
    rules = [Rule("conv1/kernel", "stem/conv/kernel")]
    rules += weight_layout.keras_batch_norm("conv1_bn", "stem/bn")
    number = 0
    for i, blocks in enumerate(STAGES):
        for b in range(len(blocks)):
            number += 1
            path = f"stage{i + 1}/block{b}"
            depthwise = f"conv_dw_{number}/depthwise_kernel"
            rules += [
                Rule(depthwise, f"{path}/depthwise/kernel", "depthwise"),
                *weight_layout.keras_batch_norm(f"conv_dw_{number}_bn", f"{path}/bn1"),
                Rule(
                    f"conv_pw_{number}/kernel", f"{path}/pointwise/kernel", "pointwise"
                ),
                *weight_layout.keras_batch_norm(f"conv_pw_{number}_bn", f"{path}/bn2"),
            ]
    rules += [
        Rule("conv_preds/kernel", "head/dense/kernel", "pointwise"),
        Rule("conv_preds/bias", "head/dense/bias"),
    ]
    return WeightLayout(tuple(rules), stem="stem/conv/kernel", **weight_layout.HALVES)


def from_tensors(
    shapes: Mapping[str, tuple[int, ...]], meta: Mapping[str, Any]
) -> MobileNet | None:
    """The model that a Keras file was written from, None for other files."""
    if "conv_dw_13/depthwise_kernel" not in shapes or "conv1/kernel" not in shapes:
        return None
    outputs = shapes.get("conv_preds/bias", (None,))[0]
    return MobileNet(outputs=outputs, alpha=shapes["conv1/kernel"][-1] / 32)
