"""RegNet X and Y: residual blocks of grouped convolutions of regularly growing widths.

References:
  Radosavovic et al.: Designing Network Design Spaces, CVPR 2020; names as in
  transformers.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax

from jaxtl.core.errors import UserError
from jaxtl.models import config_values, staged, weight_layout
from jaxtl.models.config_table import ConfigTable, Key
from jaxtl.models.layers import residual_block
from jaxtl.models.layers.heads import PooledHead
from jaxtl.models.layers.inverted_residual import ConvNorm, conv_norm_rules
from jaxtl.models.layers.pooling import global_average_pool
from jaxtl.models.layers.residual_block import ResidualBlock
from jaxtl.models.weight_layout import WeightLayout


class _RegNetStage(nn.Module):
    """The blocks of one resolution, of which the first strides; fields of `RegNet`."""

    width: int
    stride: int
    depth: int
    groups: int
    excite: bool
    activation: str

    @nn.compact
    def __call__(self, x: jax.Array, mode: staged.Mode) -> jax.Array:
        for i in range(self.depth):
            block = ResidualBlock(
                (self.width,) * 3,
                (1, 3, 1),
                self.stride if i == 0 else 1,
                strided=1,
                groups=self.groups,
                squeezed=round(x.shape[-1] / 4) if self.excite else 0,
                inner_activation=self.activation,
                activation=self.activation,
                name=f"block{i}",
            )
            x = block(x, mode)
        return x


class RegNet(staged.Staged):
    """A RegNet: stages `stem, stage1, stage2, …, head`.

    Attributes:
      width: channels of the stem.
      widths: channels of each stage.
      sizes: blocks of each stage.
      group_width: channels of a group of the 3×3 convolutions.
      excite: whether blocks have a squeeze-and-excitation (RegNetY).
      activation: by name.
      shrink_first: whether the first stage strides.
    """

    READS: ClassVar[str] = "images"

    width: int = 32
    widths: tuple[int, ...] = (128, 192, 512, 1088)
    sizes: tuple[int, ...] = (2, 6, 12, 2)
    group_width: int = 64
    excite: bool = True
    activation: str = "relu"
    shrink_first: bool = True

    @property
    def stages(self) -> tuple[str, ...]:
        return ("stem", *(f"stage{i + 1}" for i in range(len(self.sizes))), "head")

    def setup(self) -> None:
        if len(self.widths) != len(self.sizes):
            raise UserError(
                f"widths={self.widths}: expected one number for each of the "
                f"{len(self.sizes)} stages of sizes."
            )
        pad = ((1, 1), (1, 1))
        self.add("stem", ConvNorm(self.width, 3, 2, pad, self.activation))
        for i, (width, size) in enumerate(zip(self.widths, self.sizes)):
            groups = max(1, width // self.group_width)
            if width % groups:
                raise UserError(
                    f"widths={self.widths}: {width} channels can't be divided into "
                    f"{groups} groups of group_width={self.group_width}."
                )
            stage = _RegNetStage(
                width, self.stride(i), size, groups, self.excite, self.activation
            )
            self.add(f"stage{i + 1}", stage)
        self.add("head", PooledHead(self.outputs))

    def stride(self, stage: int) -> int:
        """Stride of a stage's first block.

        Args:
          stage: its index, from 0.

        Returns:
          2; for the first stage 1 unless `shrink_first`.
        """
        return 2 if stage or self.shrink_first else 1

    def reduction(self) -> Callable[[Any], Any]:
        return global_average_pool

    def layouts(self) -> dict[str, WeightLayout]:
        return {"hf": _hf_layout(self)}


def _hf_layout(model: RegNet) -> WeightLayout:
    """The naming of transformers' RegNet."""
    stem, encoder = "regnet.embedder.embedder", "regnet.encoder.stages"
    rules = conv_norm_rules(f"{stem}.convolution", f"{stem}.normalization", "stem")
    last = "layer.3" if model.excite else "layer.2"
    inside = model.width
    for i, (width, size) in enumerate(zip(model.widths, model.sizes)):
        for b in range(size):
            is_plain = b > 0 or (inside == width and model.stride(i) == 1)
            parts = ["layer.0", "layer.1", last, *["shortcut"] * (not is_plain)]
            source, path = f"{encoder}.{i}.layers.{b}", f"stage{i + 1}/block{b}"
            squeeze = "layer.2" * model.excite
            rules += residual_block.hf_rules(source, path, parts, squeeze)
        inside = width
    rules += weight_layout.linear("classifier.1", "head/dense")
    return WeightLayout(
        tuple(rules),
        ignored=(weight_layout.COUNTERS,),
        prefixes=("module.", "regnet."),
        stem="stem/conv/kernel",
        **weight_layout.IMAGENET,
    )


CONFIG = ConfigTable(
    "regnet",
    stem="RegNet",
    predicts=(None,),
    honored={
        "embedding_size": Key("width", config_values.count, 32),
        "hidden_sizes": Key("widths", config_values.counts, (128, 192, 512, 1088)),
        "depths": Key("sizes", config_values.counts, (2, 6, 12, 2)),
        "groups_width": Key("group_width", config_values.count, 64),
        "layer_type": Key("excite", config_values.one_of("x", "y"), "y"),
        "hidden_act": Key("activation", config_values.activation, "relu"),
        "downsample_in_first_stage": Key("shrink_first", config_values.flag, True),
    },
    read_by_family=("num_channels",),  # the weights' kernel has as many
)


def from_config(config: Mapping[str, Any], **fields: Any) -> RegNet:
    """Builds the model that a config.json of type "regnet" describes.

    Raises:
      UserError: a key or a value that is not supported.
    """
    entries = CONFIG.fields(config)
    entries["excite"] = entries["excite"] == "y"
    config_values.count("num_channels", config.get("num_channels", 3))
    config_values.counts("hidden_sizes", entries["widths"], len(entries["sizes"]))
    return RegNet(**{**entries, **fields})
