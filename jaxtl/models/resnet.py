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
from jaxtl.models.layers import batch_norm, residual_block
from jaxtl.models.layers.activations import activation
from jaxtl.models.layers.heads import PooledHead
from jaxtl.models.layers.pooling import global_average_pool, max_pool_3x3
from jaxtl.models.layers.residual_block import ResidualBlock
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


class _ResNetStem(nn.Module):
    """7×7 convolution and 3×3 max pooling, each of stride 2, between them BatchNorm."""

    width: int
    activation: str

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        x = residual_block.plain_conv(self.width, 7, 2, "conv")(x)
        x = batch_norm.BatchNorm(name="bn")(x, mode)
        return max_pool_3x3(activation(self.activation)(x))


class _ResNetStage(nn.Module):
    """The blocks of one resolution, of which the first strides.

    Attributes:
      width: channels that it puts out.
      inner: channels of the convolutions before a block's last one.
      stride: of the first block.
      depth: number of blocks.
      bottleneck: whether blocks are 1×1, 3×3, 1×1 in place of 3×3, 3×3.
      activation: of the sums with the shortcuts, by name.
      stride_first: whether bottlenecks stride in their first convolution.
      groups: of a bottleneck's 3×3 convolution.
    """

    width: int
    inner: int
    stride: int
    depth: int
    bottleneck: bool
    activation: str
    stride_first: bool
    groups: int

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        kernels = (1, 3, 1) if self.bottleneck else (3, 3)
        for i in range(self.depth):
            block = ResidualBlock(
                (*(self.inner,) * (len(kernels) - 1), self.width),
                kernels,
                self.stride if i == 0 else 1,
                strided=int(self.bottleneck and not self.stride_first),
                groups=self.groups if self.bottleneck else 1,
                activation=self.activation,
                name=f"block{i}",
            )
            x = block(x, mode)
        return x


class ResNetImageNet(staged.Staged):
    """A ResNet for large images: stages `stem, stage1, stage2, …, head`.

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
      widths: channels that each stage puts out; None doubles `width`, four times that
        for bottlenecks.
      groups: of the 3×3 convolutions of bottlenecks (32 in ResNeXt).
      group_width: channels of a group, for each 64 of `width` (4 in ResNeXt-50; 128
        with one group in the wide ResNets).
    """

    READS: ClassVar[str] = "images"

    depth: int = 50
    width: int = 64
    sizes: tuple[int, ...] | None = None
    bottleneck: bool = True
    activation: str = "relu"
    first_stride: int = 1
    stride_first: bool = False
    widths: tuple[int, ...] | None = None
    groups: int = 1
    group_width: int = 64

    @property
    def stages(self) -> tuple[str, ...]:
        return ("stem", *(f"stage{i + 1}" for i in range(len(self.form[0]))), "head")

    @property
    def form(self) -> tuple[tuple[int, ...], bool]:
        """Blocks per stage, and whether they are bottlenecks."""
        if self.sizes is not None:
            return tuple(self.sizes), self.bottleneck
        if self.depth not in DEPTHS:
            closest = min(DEPTHS, key=lambda d: abs(d - self.depth))
            raise UserError(
                f"depth={self.depth}: a ResNet has {', '.join(map(str, DEPTHS))} "
                f"layers; the nearest is {closest}."
            )
        return DEPTHS[self.depth]

    def stage_widths(self) -> tuple[int, ...]:
        """Channels that each stage puts out."""
        sizes, bottleneck = self.form
        if self.widths is None:
            first = self.width * (4 if bottleneck else 1)
            return tuple(first * 2**i for i in range(len(sizes)))
        if len(self.widths) != len(sizes):
            raise UserError(
                f"widths={self.widths}: expected one number for each of the "
                f"{len(sizes)} stages."
            )
        return tuple(self.widths)

    def stage_strides(self) -> tuple[int, ...]:
        """Strides of the stages."""
        return (self.first_stride, *(2,) * (len(self.form[0]) - 1))

    def projects(self) -> tuple[bool, ...]:
        """Whether the first shortcut of each stage is a convolution."""
        widths = self.stage_widths()
        pairs = zip((self.width, *widths), widths, self.stage_strides())
        return tuple(a != b or stride > 1 for a, b, stride in pairs)

    def setup(self) -> None:
        sizes, bottleneck = self.form
        self.add("stem", _ResNetStem(self.width, self.activation))
        forms = zip(self.stage_widths(), self.stage_strides(), sizes)
        for i, (width, stride, size) in enumerate(forms):
            inner = width // 4 * self.group_width // 64 * self.groups
            stage = _ResNetStage(
                width,
                inner if bottleneck else width,
                stride,
                size,
                bottleneck,
                self.activation,
                self.stride_first,
                self.groups,
            )
            self.add(f"stage{i + 1}", stage)
        self.add("head", PooledHead(self.outputs))

    def reduction(self) -> Callable[[Any], Any]:
        return global_average_pool

    def layouts(self) -> dict[str, WeightLayout]:
        return {"torchvision": _torchvision_layout(self), "hf": _hf_layout(self)}


def _torchvision_layout(model: ResNetImageNet) -> WeightLayout:
    """The naming of torchvision.models.resnet, and of timm."""
    sizes, bottleneck = model.form
    projects = model.projects()
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
            if b == 0 and projects[i]:
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
    projects = model.projects()
    stem = "resnet.embedder.embedder"
    rules = [
        *weight_layout.conv(f"{stem}.convolution", "stem/conv"),
        *weight_layout.batch_norm(f"{stem}.normalization", "stem/bn"),
    ]
    for i, size in enumerate(sizes):
        for b in range(size):
            source = f"resnet.encoder.stages.{i}.layers.{b}"
            parts = [f"layer.{k}" for k in range(3 if bottleneck else 2)]
            parts += ["shortcut"] * (b == 0 and projects[i])
            rules += residual_block.hf_rules(source, f"stage{i + 1}/block{b}", parts)
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
      UserError: a key or a value that is not supported.
      KeyError: an entry that is missing.
    """
    entries = CONFIG.fields(config)
    kinds = config_values.one_of("bottleneck", "basic")
    bottleneck = kinds("layer_type", config.get("layer_type", "bottleneck")) == (
        "bottleneck"
    )
    config_values.count("num_channels", config.get("num_channels", 3))
    sizes = config_values.counts("depths", config["depths"])
    lengths = (config["hidden_sizes"], len(sizes))
    widths = config_values.counts("hidden_sizes", *lengths)
    first = entries["width"] * (4 if bottleneck else 1)
    if widths != tuple(first * 2**i for i in range(len(sizes))):
        entries["widths"] = widths
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
    # timm's with anti-aliasing have the same tensors.
    if str(meta.get("architecture", "")).startswith(("resnetblur", "resnetaa")):
        return None
    names = ("fc.weight", "conv1.weight", "layer4.0.conv1.weight")
    if not all(name in shapes for name in names):
        return None
    bottleneck = "layer1.0.conv3.weight" in shapes
    sizes = tuple(
        sum(f"layer{i}.{b}.conv1.weight" in shapes for b in range(100))
        for i in range(1, 5)
    )
    entries: dict[str, Any] = _form_fields(sizes, bottleneck)
    if bottleneck:  # ResNeXt, wide ResNets
        inner, per_group, *_ = shapes["layer1.0.conv2.weight"]
        entries["groups"] = inner // per_group
        entries["group_width"] = per_group * 256 // shapes["layer1.0.conv3.weight"][0]
    return ResNetImageNet(
        outputs=shapes["fc.weight"][0], width=shapes["conv1.weight"][0], **entries
    )
