"""EfficientNet B0 to B8 and Lite: scaled rows of inverted residual blocks.

References:
  Tan & Le: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks,
  ICML 2019. The momentum of BatchNorm is the paper's decay of 0.99, which transformers
  hands to torch as it is, where it means 0.01.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from jaxtl.core.errors import AmbiguousModel, UserError
from jaxtl.models import efficientnet_layout, staged
from jaxtl.models.efficientnet_config import CONFIG as CONFIG
from jaxtl.models.efficientnet_config import config_fields
from jaxtl.models.layers.conv_cpu import PaddingPairs
from jaxtl.models.layers.heads import PooledHead
from jaxtl.models.layers.inverted_residual import (
    BlockForm,
    ConvNorm,
    InvertedResiduals,
)
from jaxtl.models.layers.pooling import global_average_pool, global_max_pool
from jaxtl.models.weight_layout import WeightLayout

_POOLS = {"mean": global_average_pool, "max": global_max_pool}
PADDINGS = ("keras", "same", "torch")


class EfficientNet(staged.Staged):
    """An EfficientNet, by default B0: stages `stem, stage1 … stage7, top, head`.

    Attributes:
      width: channels of the stem.
      widths: channels of each stage.
      sizes: blocks of each stage.
      kernels: sides of its depthwise convolutions.
      strides: of its first block, 1 or 2.
      expansions: factors of the inner width of its blocks on the input's; 1 leaves the
        first convolution out.
      squeeze: share of a block's input channels that its squeeze-and-excitation keeps;
        0 for none (Lite).
      top_width: channels of the last convolution.
      activation: by name ("silu"; "relu6" in Lite).
      pooling: "mean" or "max", before the head.
      padding: zeros around images where convolutions stride: "keras" as transformers
        and Keras pad for images of even sides, "same" as TensorFlow does for all
        (Lite, and timm's names with "tf_"), "torch" with half a kernel on every side.
      symmetric: numbers of the blocks that pad as in "torch" under "keras".
      dropout: rate before the head's affine map.
      drop_path: rate of stochastic depth, growing linearly from 0.
      momentum, epsilon: of BatchNorm.
    """

    READS: ClassVar[str] = "images"

    width: int = 32
    widths: tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
    sizes: tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    kernels: tuple[int, ...] = (3, 3, 5, 3, 5, 5, 3)
    strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
    expansions: tuple[int, ...] = (1, 6, 6, 6, 6, 6, 6)
    squeeze: float = 0.25
    top_width: int = 1280
    activation: str = "silu"
    pooling: str = "mean"
    padding: str = "keras"
    symmetric: tuple[int, ...] = ()
    dropout: float = 0.2
    drop_path: float = 0.2
    momentum: float = 0.99
    epsilon: float = 1e-3

    @property
    def stages(self) -> tuple[str, ...]:
        middle = (f"stage{i + 1}" for i in range(len(self.sizes)))
        return ("stem", *middle, "top", "head")

    def forms(self) -> list[tuple[BlockForm, ...]]:
        """The blocks of each stage."""
        for name in ("widths", "kernels", "strides", "expansions"):
            if len(getattr(self, name)) != len(self.sizes):
                raise UserError(
                    f"{name}={getattr(self, name)}: expected one number for each of "
                    f"the {len(self.sizes)} stages of sizes."
                )
        stages, inside, number = [], self.width, 0
        for i, size in enumerate(self.sizes):
            forms = []
            for b in range(size):
                stride, factor = (1 if b else self.strides[i]), self.expansions[i]
                form = BlockForm(
                    self.widths[i],
                    None if factor == 1 else inside * factor,
                    self.kernels[i],
                    stride,
                    self._zeros(self.kernels[i], stride, number),
                    squeezed=self.squeeze and max(1, int(inside * self.squeeze)),
                    residual=b > 0,
                    drop=self.drop_path * number / sum(self.sizes),
                )
                forms.append(form)
                inside, number = self.widths[i], number + 1
            stages.append(tuple(forms))
        return stages

    def _zeros(
        self, kernel: int, stride: int, number: int | None
    ) -> str | PaddingPairs:
        """Padding of a depthwise convolution, or of the stem's (number None)."""
        staged.check_option("padding", self.padding, PADDINGS)
        if self.padding == "same" or (self.padding == "keras" and stride == 1):
            return "SAME"
        half = kernel // 2
        is_even = self.padding == "torch" or number in self.symmetric
        return ((half if is_even else half - 1, half),) * 2

    def setup(self) -> None:
        staged.check_option("pooling", self.pooling, tuple(_POOLS))
        shared = (self.activation, self.momentum, self.epsilon)
        self.add("stem", ConvNorm(self.width, 3, 2, self._zeros(3, 2, None), *shared))
        for i, forms in enumerate(self.forms()):
            self.add(f"stage{i + 1}", InvertedResiduals(forms, *shared))
        self.add("top", ConvNorm(self.top_width, 1, 1, "SAME", *shared))
        head = PooledHead(self.outputs, self.dropout, _POOLS[self.pooling])
        self.add("head", head)

    def reduction(self) -> Callable[[Any], Any]:
        return _POOLS[self.pooling]

    def layouts(self) -> dict[str, WeightLayout]:
        return efficientnet_layout.layouts(self.forms(), self.padding)


def from_config(config: Mapping[str, Any], **fields: Any) -> EfficientNet:
    """Builds the model that a config.json of type "efficientnet" describes.

    Raises:
      UserError: a key or a value that is not supported, widths that don't follow from
        each other.
    """
    return EfficientNet(**{**config_fields(config), **fields})


def from_tensors(
    shapes: Mapping[str, tuple[int, ...]], meta: Mapping[str, Any]
) -> EfficientNet | None:
    """The model that a file was written from, None for other files.

    Read are files of timm and of lukemelas' efficientnet_pytorch.

    Args:
      shapes: name -> shape of the file's tensors.
      meta: further content; of timm's files "architecture" or `padding`.

    Raises:
      AmbiguousModel: a file of timm that doesn't say which of two paddings it is for.
    """
    fields = efficientnet_layout.fields_of(shapes)
    if fields is None:
        return None
    if "_fc.weight" in shapes:
        return EfficientNet(**fields, padding="same")
    name = str(meta.get("architecture", ""))
    padding = "same" if name.startswith("tf_") else "torch" if name else None
    padding = meta.get("padding", padding)
    if padding is None:
        raise AmbiguousModel(
            "an EfficientNet of timm: efficientnet_* and tf_efficientnet_* have the "
            "same tensors and compute differently. Say which: FromFile(path).model("
            "padding='torch') for the first, padding='same' for the second (or keep "
            "timm's config.json, which has the architecture, beside the file)."
        )
    epsilon = 1e-5 if padding == "torch" else 1e-3
    return EfficientNet(**fields, padding=padding, epsilon=epsilon)
