"""SigLIP: a tower of images and a tower of texts, which share a space.

References:
  Zhai et al.: Sigmoid Loss for Language Image Pre-Training, ICCV 2023.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtl.models import clip, clip_layout, pair_config, siglip_text, siglip_vision
from jaxtl.models.clip import EMBEDS
from jaxtl.models.config_table import ConfigTable
from jaxtl.models.siglip_text import SiglipText
from jaxtl.models.siglip_vision import SiglipVision
from jaxtl.models.weight_layout import Rule


@dataclasses.dataclass(frozen=True, kw_only=True)
class SigLIP(clip.CLIP):
    """`TwoTowers` of SigLIP, in Hugging Face's layout; the logits have a bias.

    Attributes:
      image, text: the towers, both with `predict="embedding"`.
      width: of the image tower's states, which are the embeddings.
    """

    image: Any = dataclasses.field(default_factory=lambda: SiglipVision(**EMBEDS))
    text: Any = dataclasses.field(default_factory=lambda: SiglipText(**EMBEDS))
    width: int = 768
    temperature: float = 0.1
    bias: float | None = -10.0

    def head_rules(self) -> list[Rule]:
        names = {"logit_scale": "log_scale", "logit_bias": "bias"}
        return [Rule(name, f"head/{leaf}", "first") for name, leaf in names.items()]


CONFIG = ConfigTable(
    "siglip",
    predicts=("pair", "class"),
    classes={"pair": "SiglipModel", "class": "SiglipForImageClassification"},
    honored={},
    parts={"vision_config": siglip_vision.CONFIG, "text_config": siglip_text.CONFIG},
    harmless=clip_layout.HARMLESS,
)


def from_config(config: Mapping[str, Any], **fields: Any) -> SigLIP | SiglipVision:
    """Builds the model of a config.json of type "siglip": the pair, or its classifier.

    Args:
      config: the content.
      **fields: fields of the model; `predict="class"` for the classifier of images.

    Raises:
      UserError: a key or a value that is not supported.
    """
    CONFIG.check(config)
    vision = CONFIG.part(config, "vision_config")
    if pair_config.takes_predict(config, fields) == "class":
        return siglip_vision.from_config(vision, **fields)
    of_both, of_image = pair_config.of_towers(fields)
    shared = {**of_both, **EMBEDS}
    image = siglip_vision.from_config(vision, **shared, **of_image)
    text = CONFIG.part(config, "text_config")
    return SigLIP(
        image=image,
        text=siglip_text.from_config(text, **shared),
        **{"width": image.width, **fields},
    )
