"""Residual blocks of convolutions with BatchNorm, as ResNet and RegNet have them.

References:
  He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax

from jaxtl.models import weight_layout
from jaxtl.models.layers.activations import activation
from jaxtl.models.layers.batch_norm import BatchNorm
from jaxtl.models.layers.conv import Conv
from jaxtl.models.layers.squeeze_excite import SqueezeExcite
from jaxtl.models.staged import Mode
from jaxtl.models.weight_layout import Rule

_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def plain_conv(
    width: int, kernel: int, stride: int, name: str, groups: int = 1
) -> Conv:
    """A convolution without bias, with zeros of half a kernel on every side."""
    # Explicit padding: "SAME" pads even inputs of stride 2 on the other side.
    pad = ((kernel // 2,) * 2,) * 2
    return Conv(
        width,
        (kernel, kernel),
        stride,
        pad,
        groups,
        use_bias=False,
        kernel_init=_INIT,
        name=name,
    )


class ResidualBlock(nn.Module):
    """Convolutions with BatchNorm and activation, added to a shortcut.

    The shortcut is a strided 1×1 convolution with BatchNorm where the shape changes.

    Attributes:
      widths: channels of the convolutions.
      kernels: their sides.
      stride: of the convolution of index `strided`.
      strided: see `stride`.
      groups: of the second convolution.
      squeezed: channels of a squeeze-and-excitation before the last convolution; 0
        for none.
      inner_activation: behind every convolution but the last, by name.
      activation: of the sum.
    """

    widths: tuple[int, ...]
    kernels: tuple[int, ...]
    stride: int = 1
    strided: int = 0
    groups: int = 1
    squeezed: int = 0
    inner_activation: str = "relu"
    activation: str = "relu"

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        y, last = x, len(self.widths) - 1
        for i, (width, kernel) in enumerate(zip(self.widths, self.kernels)):
            if i == last and self.squeezed:
                y = SqueezeExcite(self.squeezed, name="squeeze")(y)
            stride = self.stride if i == self.strided else 1
            groups = self.groups if i == 1 else 1
            y = plain_conv(width, kernel, stride, f"conv{i + 1}", groups)(y)
            y = BatchNorm(name=f"bn{i + 1}")(y, mode)
            y = y if i == last else activation(self.inner_activation)(y)
        if self.stride > 1 or x.shape[-1] != self.widths[-1]:
            x = plain_conv(self.widths[-1], 1, self.stride, "shortcut_conv")(x)
            x = BatchNorm(name="shortcut_bn")(x, mode)
        return activation(self.activation)(x + y)


def hf_rules(
    source: str, path: str, parts: Sequence[str], squeeze: str = ""
) -> list[Rule]:
    """Rules of a block, whose convolutions transformers names by their places.

    Args:
      source: name of the block in the file.
      path: of the block in the tree.
      parts: names of its convolutions, "shortcut" the last of them where it has one.
      squeeze: name of its squeeze-and-excitation, "" for none.
    """
    rules, number = [], 0
    for part in parts:
        if part == "shortcut":
            conv, norm = "shortcut_conv", "shortcut_bn"
        else:
            number += 1
            conv, norm = f"conv{number}", f"bn{number}"
        rules += weight_layout.conv(f"{source}.{part}.convolution", f"{path}/{conv}")
        rules += weight_layout.batch_norm(
            f"{source}.{part}.normalization", f"{path}/{norm}"
        )
    if squeeze:
        rules += weight_layout.squeeze_excite(
            f"{source}.{squeeze}", path + "/squeeze", ("attention.0", "attention.2")
        )
    return rules
