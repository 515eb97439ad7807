"""MobileNet v2: inverted residuals with linear bottlenecks.

References:
  Sandler et al.: MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018,
  table 2; names and options as in transformers. The momentum of BatchNorm is the
  paper's decay of 0.997, which transformers hands to torch as it is, where it means
  0.003.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax

from jaxtl.core.errors import UserError
from jaxtl.models import config_values, staged, weight_layout
from jaxtl.models.config_table import ConfigTable, Key
from jaxtl.models.layers import inverted_residual
from jaxtl.models.layers.conv_cpu import PaddingPairs
from jaxtl.models.layers.heads import PooledHead
from jaxtl.models.layers.inverted_residual import (
    BlockForm,
    ConvNorm,
    InvertedResidual,
    InvertedResiduals,
)
from jaxtl.models.layers.pooling import global_average_pool
from jaxtl.models.weight_layout import WeightLayout

# (channels, blocks, stride of the first block) of each stage.
_STAGES = ((24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
_MOMENTUM = 0.997


class _MobileNetV2Stem(nn.Module):
    """3×3 convolution of stride 2 and a block; fields of `ConvNorm` and the block."""

    width: int
    padding: str | PaddingPairs
    form: BlockForm
    activation: str
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        shared = (self.activation, _MOMENTUM, self.epsilon)
        x = ConvNorm(self.width, 3, 2, self.padding, *shared, name="first")(x, mode)
        return InvertedResidual(self.form, *shared, name="block0")(x, mode)


class MobileNetV2(staged.Staged):
    """MobileNet v2: stages `stem, stage1 … stage6, top, head`; inputs in [−1, 1].

    Attributes:
      alpha: factor on all widths (0.35, 0.5, 0.75, 1.0, 1.4).
      divisor: widths are multiples of it.
      least: the smallest width.
      expand: factor of a block's inner width on its input's.
      output_stride: by which the last feature map is smaller than the image; below 32
        later blocks dilate their convolutions in place of striding.
      lean_stem: whether the stem's block has no expansion of its own.
      full_top: whether the last convolution has 1280 channels where `alpha` is below 1.
      activation: by name.
      tf_padding: zeros as TensorFlow pads, in place of one on every side.
      dropout: rate before the head's affine map.
      epsilon: of BatchNorm.
    """

    READS: ClassVar[str] = "images"

    alpha: float = 1.0
    divisor: int = 8
    least: int = 8
    expand: float = 6.0
    output_stride: int = 32
    lean_stem: bool = True
    full_top: bool = True
    activation: str = "relu6"
    tf_padding: bool = True
    dropout: float = 0.2
    epsilon: float = 1e-3

    stages = ("stem", *(f"stage{i + 1}" for i in range(6)), "top", "head")

    def width(self, channels: int) -> int:
        """Scales a number of channels by the width factor.

        Args:
          channels: of the network of alpha = 1.

        Returns:
          channels · alpha as a multiple of `divisor`, at least `least` and 90 % of it.
        """
        scaled = round(channels * self.alpha)
        return inverted_residual.make_divisible(scaled, self.divisor, self.least)

    def forms(self) -> list[tuple[BlockForm, ...]]:
        """The blocks of each stage."""
        inside, total, dilation, stages = self.width(16), 2, 1, []
        for channels, blocks, first_stride in _STAGES:
            forms, width = [], self.width(channels)
            for b in range(blocks):
                stride, dilated = (first_stride if b == 0 else 1), 1
                if total == self.output_stride:
                    # The block behind the one that would stride is the first to dilate.
                    dilated, dilation, stride = dilation, dilation * stride, 1
                total *= stride
                expanded = inverted_residual.make_divisible(
                    round(inside * self.expand), self.divisor, self.least
                )
                is_residual = stride == 1 and inside == width
                padding = "SAME" if self.tf_padding else ((dilated, dilated),) * 2
                form = BlockForm(width, expanded, 3, stride, padding, dilated)
                forms.append(form._replace(residual=is_residual))
                inside = width
            stages.append(tuple(forms))
        return stages

    def setup(self) -> None:
        if not self.alpha > 0:
            raise UserError(f"alpha={self.alpha!r}: the width factor must be positive.")
        shared = (self.activation, _MOMENTUM, self.epsilon)
        padding = "SAME" if self.tf_padding else ((1, 1), (1, 1))
        width = self.width(32)
        form = BlockForm(
            self.width(16), None if self.lean_stem else width, padding=padding
        )
        stem = _MobileNetV2Stem(width, padding, form, self.activation, self.epsilon)
        self.add("stem", stem)
        for i, forms in enumerate(self.forms()):
            self.add(f"stage{i + 1}", InvertedResiduals(forms, *shared))
        top = 1280 if self.full_top and self.alpha < 1 else self.width(1280)
        self.add("top", ConvNorm(top, 1, 1, "SAME", *shared))
        self.add("head", PooledHead(self.outputs, self.dropout))

    def reduction(self) -> Callable[[Any], Any]:
        return global_average_pool

    def layouts(self) -> dict[str, WeightLayout]:
        return {"hf": _hf_layout(self)}


def _hf_layout(model: MobileNetV2) -> WeightLayout:
    """The naming of transformers' MobileNetV2."""

    def names(source: str) -> tuple[str, str]:
        return f"{source}.convolution", f"{source}.normalization"

    stem = "mobilenet_v2.conv_stem"
    rules = inverted_residual.conv_norm_rules(
        *names(f"{stem}.first_conv"), "stem/first"
    )
    parts = {
        "expand": names("expand_1x1"),
        "depthwise": names("conv_3x3"),
        "project": names("reduce_1x1"),
    }
    lean = {part: parts[part] for part in ("depthwise", "project")}
    rules += inverted_residual.block_rules(
        stem, "stem/block0", lean if model.lean_stem else parts
    )
    number = 0
    for i, forms in enumerate(model.forms()):
        for b in range(len(forms)):
            source, path = f"mobilenet_v2.layer.{number}", f"stage{i + 1}/block{b}"
            rules += inverted_residual.block_rules(source, path, parts)
            number += 1
    rules += inverted_residual.conv_norm_rules(*names("mobilenet_v2.conv_1x1"), "top")
    rules += weight_layout.linear("classifier", "head/dense")
    return WeightLayout(
        tuple(rules),
        ignored=(weight_layout.COUNTERS,),
        prefixes=("module.", "mobilenet_v2."),
        stem="stem/first/conv/kernel",
        **weight_layout.HALVES,
    )


CONFIG = ConfigTable(
    "mobilenet_v2",
    stem="MobileNetV2",
    predicts=(None,),
    honored={
        "depth_multiplier": Key("alpha", config_values.positive, 1.0),
        "depth_divisible_by": Key("divisor", config_values.count, 8),
        "min_depth": Key("least", config_values.count, 8),
        "expand_ratio": Key("expand", config_values.positive, 6.0),
        "output_stride": Key("output_stride", config_values.count, 32),
        "first_layer_is_expansion": Key("lean_stem", config_values.flag, True),
        "finegrained_output": Key("full_top", config_values.flag, True),
        "hidden_act": Key("activation", config_values.activation, "relu6"),
        "tf_padding": Key("tf_padding", config_values.flag, True),
        "classifier_dropout_prob": Key("dropout", config_values.rate, 0.8),
        "layer_norm_eps": Key("epsilon", config_values.positive, 1e-3),
    },
    read_by_family=("num_channels",),  # the weights' kernel has as many
    harmless={
        "image_size": "convolutions take images of any size",
        "semantic_loss_ignore_index": "a task of segmentation",
    },
)


def from_config(config: Mapping[str, Any], **fields: Any) -> MobileNetV2:
    """Builds the model that a config.json of type "mobilenet_v2" describes.

    Raises:
      UserError: a key or a value that is not supported.
    """
    entries = CONFIG.fields(config)
    config_values.count("num_channels", config.get("num_channels", 3))
    return MobileNetV2(**{**entries, **fields})
