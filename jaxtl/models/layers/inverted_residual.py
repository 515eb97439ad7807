"""Inverted residual blocks, as MobileNet v2 and EfficientNet have them.

References:
  Sandler et al.: MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018.
  Tan & Le: EfficientNet, ICML 2019.
"""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax

from jaxtl.models import weight_layout
from jaxtl.models.layers.activations import activation
from jaxtl.models.layers.batch_norm import BatchNorm
from jaxtl.models.layers.conv import Conv
from jaxtl.models.layers.conv_cpu import PaddingPairs
from jaxtl.models.layers.squeeze_excite import SqueezeExcite
from jaxtl.models.layers.stochastic_depth import StochasticDepth
from jaxtl.models.staged import Mode
from jaxtl.models.weight_layout import Rule


class ConvNorm(nn.Module):
    """A convolution without bias, BatchNorm, and an activation.

    Attributes:
      width: channels.
      kernel: side of the kernel.
      stride: of the window.
      padding: as `conv` takes it.
      activation: by name.
      momentum, epsilon: of BatchNorm.
    """

    width: int
    kernel: int
    stride: int = 1
    padding: str | PaddingPairs = "SAME"
    activation: str = "relu"
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        kernel = (self.kernel, self.kernel)
        conv = Conv(
            self.width, kernel, self.stride, self.padding, use_bias=False, name="conv"
        )
        norm = BatchNorm(self.momentum, self.epsilon, name="bn")
        return activation(self.activation)(norm(conv(x), mode))


class BlockForm(NamedTuple):
    """What an inverted residual block computes.

    Attributes:
      width: channels that it puts out.
      expanded: channels of the depthwise convolution; None leaves the first
        convolution out.
      kernel, stride, padding, dilation: of the depthwise convolution.
      squeezed: channels of the squeeze-and-excitation behind it; 0 for none.
      residual: whether the input is added to the result.
      drop: rate of stochastic depth of a residual block.
    """

    width: int
    expanded: int | None = None
    kernel: int = 3
    stride: int = 1
    padding: str | PaddingPairs = "SAME"
    dilation: int = 1
    squeezed: int = 0
    residual: bool = False
    drop: float = 0.0


class InvertedResidual(nn.Module):
    """1×1 convolution to more channels, depthwise convolution, 1×1 to fewer channels.

    Each has BatchNorm, the first two an activation.

    Attributes:
      form: of the block.
      activation: by name, also of the squeeze-and-excitation.
      momentum, epsilon: of BatchNorm.
    """

    form: BlockForm
    activation: str = "relu6"
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        def normalized(y: jax.Array, name: str) -> jax.Array:
            norm = BatchNorm(self.momentum, self.epsilon, name=f"{name}_bn")
            return norm(y, mode)

        def pointwise(y: jax.Array, width: int, name: str) -> jax.Array:
            conv = Conv(width, (1, 1), use_bias=False, name=f"{name}_conv")
            return normalized(conv(y), name)

        form, act, y = self.form, activation(self.activation), x
        if form.expanded is not None:
            y = act(pointwise(y, form.expanded, "expand"))
        conv = Conv(
            y.shape[-1],
            (form.kernel, form.kernel),
            form.stride,
            form.padding,
            groups=y.shape[-1],
            use_bias=False,
            dilation=form.dilation,
            name="depthwise_conv",
        )
        y = act(normalized(conv(y), "depthwise"))
        if form.squeezed:
            y = SqueezeExcite(form.squeezed, self.activation, name="squeeze")(y)
        y = pointwise(y, form.width, "project")
        if not form.residual:
            return y
        return x + StochasticDepth(form.drop, name="drop")(y, mode)


class InvertedResiduals(nn.Module):
    """A stage of inverted residual blocks; the other fields are those of a block."""

    forms: tuple[BlockForm, ...]
    activation: str = "relu6"
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        shared = (self.activation, self.momentum, self.epsilon)
        for i, form in enumerate(self.forms):
            x = InvertedResidual(form, *shared, name=f"block{i}")(x, mode)
        return x


def make_divisible(width: float, divisor: int, least: int | None = None) -> int:
    """The nearest multiple of a divisor, at least 90 % of `width` and `least`."""
    rounded = max(least or divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * width else rounded


def block_rules(
    source: str,
    path: str,
    parts: Mapping[str, tuple[str, str]],
    squeeze: tuple[str, str, str] | None = None,
) -> list[Rule]:
    """Rules of a block.

    Args:
      source: name of the block in the file.
      path: of the block in the tree.
      parts: "expand", "depthwise", "project" -> names of convolution and BatchNorm.
      squeeze: names of the squeeze-and-excitation and of its two layers.
    """
    rules = []
    for part, (conv, norm) in parts.items():
        rules += weight_layout.conv(f"{source}.{conv}", f"{path}/{part}_conv")
        rules += weight_layout.batch_norm(f"{source}.{norm}", f"{path}/{part}_bn")
    if squeeze:
        name, *layers = squeeze
        owner = f"{source}.{name}" if name else source
        rules += weight_layout.squeeze_excite(owner, f"{path}/squeeze", tuple(layers))
    return rules


def conv_norm_rules(conv: str, norm: str, path: str) -> list[Rule]:
    """Rules of a `ConvNorm` from the names of its two layers."""
    return [
        *weight_layout.conv(conv, f"{path}/conv"),
        *weight_layout.batch_norm(norm, f"{path}/bn"),
    ]
