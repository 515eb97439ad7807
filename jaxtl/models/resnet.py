"""ResNet 18, 34, 50, 101, 152 for large images.

References:
  He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, table 1.
  The stride of a bottleneck is in its 3×3 convolution, as in torchvision ("v1.5").
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax

from jaxtl.core.errors import UserError
from jaxtl.models import config_values, staged, weight_layout
from jaxtl.models.layers import batch_norm
from jaxtl.models.layers.activations import activation
from jaxtl.models.layers.conv import Conv
from jaxtl.models.layers.heads import PooledHead
from jaxtl.models.layers.pooling import global_average_pool, max_pool_3x3
from jaxtl.models.resnet_config import CONFIG
from jaxtl.models.weight_layout import Rule, WeightLayout

# depth -> (blocks per stage, whether they are bottlenecks)
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}

_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def _conv(width: int, kernel: int, stride: int, name: str) -> Conv:
    # Explicit padding: "SAME" pads even inputs of stride 2 on the other side.
    pad = ((kernel // 2,) * 2,) * 2
    return Conv(
        width,
        (kernel, kernel),
        stride,
        pad,
        use_bias=False,
        kernel_init=_INIT,
        name=name,
    )


class _ResNetBlock(nn.Module):
    """A residual block: 3×3, 3×3, or as a bottleneck 1×1, 3×3, 1×1 of 4 × width.

    Attributes:
      width: channels of the 3×3 convolution.
      stride: of the block.
      bottleneck: whether it is the second form.
      project: whether the shortcut is a strided 1×1 convolution with BatchNorm.
      activation: of the sum with the shortcut, by name; the others are ReLU.
      stride_first: whether a bottleneck strides in its first convolution.
    """

    width: int
    stride: int
    bottleneck: bool
    project: bool
    activation: str
    stride_first: bool

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        kernels = (1, 3, 1) if self.bottleneck else (3, 3)
        # index of the convolution that strides
        strided = 1 if self.bottleneck and not self.stride_first else 0
        out = self.width * 4 if self.bottleneck else self.width
        y = x
        for i, kernel in enumerate(kernels):
            last = i == len(kernels) - 1
            stride = self.stride if i == strided else 1
            width = out if last else self.width
            y = _conv(width, kernel, stride, f"conv{i + 1}")(y)
            y = batch_norm.BatchNorm(name=f"bn{i + 1}")(y, mode)
            y = y if last else nn.relu(y)
        if self.project:
            x = _conv(out, 1, self.stride, "shortcut_conv")(x)
            x = batch_norm.BatchNorm(name="shortcut_bn")(x, mode)
        return activation(self.activation)(x + y)


class _ResNetStem(nn.Module):
    """7×7 convolution and 3×3 max pooling, each of stride 2, between them BatchNorm."""

    width: int
    activation: str

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        x = _conv(self.width, 7, 2, "conv")(x)
        x = batch_norm.BatchNorm(name="bn")(x, mode)
        return max_pool_3x3(activation(self.activation)(x))


class _ResNetStage(nn.Module):
    """The blocks of one resolution, of which the first strides and projects."""

    width: int
    stride: int
    depth: int
    bottleneck: bool
    activation: str
    stride_first: bool

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        for i in range(self.depth):
            stride = self.stride if i == 0 else 1
            # The first stage of the plain form changes no shape: nothing to project.
            project = i == 0 and (self.bottleneck or stride > 1)
            block = _ResNetBlock(
                self.width,
                stride,
                self.bottleneck,
                project,
                self.activation,
                self.stride_first,
                name=f"block{i}",
            )
            x = block(x, mode)
        return x


class ResNetImageNet(staged.Staged):
    """A ResNet for large images: stages `stem, stage1, …, stage4, head`.

    Attributes:
      depth: 18, 34, 50, 101 or 152.
      width: channels of the stem.
      sizes: blocks per stage and whether they are bottlenecks, in place of `depth`;
        for networks whose depth is none of these.
      bottleneck: see `sizes`.
      activation: of the stem and behind each block, by name.
      first_stride: stride of the first stage.
      stride_first: whether bottlenecks stride in their first convolution, as in the
        paper, in place of the second.
    """

    READS: ClassVar[str] = "images"

    depth: int = 50
    width: int = 64
    sizes: tuple[int, ...] | None = None
    bottleneck: bool = True
    activation: str = "relu"
    first_stride: int = 1
    stride_first: bool = False

    stages = ("stem", "stage1", "stage2", "stage3", "stage4", "head")

    @property
    def form(self) -> tuple[tuple[int, ...], bool]:
        """Blocks per stage, and whether they are bottlenecks."""
        if self.sizes is not None:
            if len(self.sizes) != 4:
                raise UserError(f"sizes={self.sizes}: expected 4 numbers of blocks.")
            return tuple(self.sizes), self.bottleneck
        if self.depth not in DEPTHS:
            closest = min(DEPTHS, key=lambda d: abs(d - self.depth))
            raise UserError(
                f"depth={self.depth}: a ResNet has {', '.join(map(str, DEPTHS))} "
                f"layers; the nearest is {closest}."
            )
        return DEPTHS[self.depth]

    def setup(self) -> None:
        sizes, bottleneck = self.form
        self.add("stem", _ResNetStem(self.width, self.activation))
        for i, size in enumerate(sizes):
            stage = _ResNetStage(
                self.width * 2**i,
                self.first_stride if i == 0 else 2,
                size,
                bottleneck,
                self.activation,
                self.stride_first,
            )
            self.add(f"stage{i + 1}", stage)
        self.add("head", PooledHead(self.outputs))

    def reduction(self) -> Callable[[Any], Any]:
        return global_average_pool

    def layouts(self) -> dict[str, WeightLayout]:
        return {"torchvision": _torchvision_layout(self), "hf": _hf_layout(self)}


def _torchvision_layout(model: ResNetImageNet) -> WeightLayout:
    """The naming of torchvision.models.resnet."""
    sizes, bottleneck = model.form
    rules = [
        *weight_layout.conv("conv1", "stem/conv"),
        *weight_layout.batch_norm("bn1", "stem/bn"),
    ]
    for i, size in enumerate(sizes):
        for b in range(size):
            source, path = f"layer{i + 1}.{b}", f"stage{i + 1}/block{b}"
            for k in range(1, 4 if bottleneck else 3):
                rules += weight_layout.conv(f"{source}.conv{k}", f"{path}/conv{k}")
                rules += weight_layout.batch_norm(f"{source}.bn{k}", f"{path}/bn{k}")
            if b == 0 and (bottleneck or i > 0 or model.first_stride > 1):
                shortcut = f"{source}.downsample"
                rules += weight_layout.conv(f"{shortcut}.0", f"{path}/shortcut_conv")
                rules += weight_layout.batch_norm(
                    f"{shortcut}.1", f"{path}/shortcut_bn"
                )
    rules += weight_layout.linear("fc", "head/dense")
    return _layout(rules, ("module.",))


def _hf_layout(model: ResNetImageNet) -> WeightLayout:
    """The naming of transformers' ResNet."""
    sizes, bottleneck = model.form
    stem = "resnet.embedder.embedder"
    rules = [
        *weight_layout.conv(f"{stem}.convolution", "stem/conv"),
        *weight_layout.batch_norm(f"{stem}.normalization", "stem/bn"),
    ]
    for i, size in enumerate(sizes):
        for b in range(size):
            source = f"resnet.encoder.stages.{i}.layers.{b}"
            path = f"stage{i + 1}/block{b}"
            names = {
                f"layer.{k}": (f"conv{k + 1}", f"bn{k + 1}")
                for k in range(3 if bottleneck else 2)
            }
            if b == 0 and (bottleneck or i > 0 or model.first_stride > 1):
                names["shortcut"] = ("shortcut_conv", "shortcut_bn")
            for name, (conv, bn) in names.items():
                rules += weight_layout.conv(
                    f"{source}.{name}.convolution", f"{path}/{conv}"
                )
                rules += weight_layout.batch_norm(
                    f"{source}.{name}.normalization", f"{path}/{bn}"
                )
    rules += weight_layout.linear("classifier.1", "head/dense")
    return _layout(rules, ("module.", "resnet."))


def _layout(rules: list[Rule], prefixes: tuple[str, ...]) -> WeightLayout:
    return WeightLayout(
        tuple(rules),
        ignored=(weight_layout.COUNTERS,),
        prefixes=prefixes,
        stem="stem/conv/kernel",
        **weight_layout.IMAGENET,
    )


def from_config(config: Mapping[str, Any], **fields: Any) -> ResNetImageNet:
    """Builds the model that a config.json of type "resnet" describes.

    Raises:
      UserError: a key or a value that is not supported, widths that do not double.
      KeyError: an entry that is missing.
    """
    entries = CONFIG.fields(config)
    kinds = config_values.one_of("bottleneck", "basic")
    bottleneck = kinds("layer_type", config.get("layer_type", "bottleneck")) == (
        "bottleneck"
    )
    config_values.count("num_channels", config.get("num_channels", 3))
    sizes = config_values.counts("depths", config["depths"], 4)
    widths = config_values.counts("hidden_sizes", config["hidden_sizes"], 4)
    expected = [entries["width"] * 2**i * (4 if bottleneck else 1) for i in range(4)]
    if list(widths) != expected:
        raise UserError(
            "config.json: this ResNet differs from the published ones: hidden_sizes "
            f"{list(widths)}, expected {expected}."
        )
    entries["first_stride"] = 2 if entries["first_stride"] else 1
    return ResNetImageNet(**{**_form_fields(sizes, bottleneck), **entries, **fields})


def _form_fields(sizes: tuple[int, ...], bottleneck: bool) -> dict[str, Any]:
    """Fields of the model with these blocks: its `depth`, or `sizes` if it has none."""
    for depth, form in DEPTHS.items():
        if form == (sizes, bottleneck):
            return {"depth": depth}
    return {"sizes": sizes, "bottleneck": bottleneck}


def from_tensors(
    shapes: Mapping[str, tuple[int, ...]], meta: Mapping[str, Any]
) -> ResNetImageNet | None:
    """The model that a torchvision file was written from, None for other files."""
    if "fc.weight" not in shapes or "layer4.0.conv1.weight" not in shapes:
        return None
    bottleneck = "layer1.0.conv3.weight" in shapes
    sizes = tuple(
        sum(f"layer{i}.{b}.conv1.weight" in shapes for b in range(100))
        for i in range(1, 5)
    )
    return ResNetImageNet(
        outputs=shapes["fc.weight"][0],
        width=shapes["conv1.weight"][0],
        **_form_fields(sizes, bottleneck),
    )
