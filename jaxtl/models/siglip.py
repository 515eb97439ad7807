"""Configurations of SigLIP, which hold those of its two towers.

References:
  Zhai et al.: Sigmoid Loss for Language Image Pre-Training, ICCV 2023.
"""

from collections.abc import Mapping
from typing import Any

from jaxtl.models import clip_layout, siglip_vision
from jaxtl.models.config_table import ConfigTable

CONFIG = ConfigTable(
    "siglip",
    predicts=("class",),
    classes={"class": "SiglipForImageClassification"},
    honored={},
    parts={"vision_config": siglip_vision.CONFIG},
    harmless={
        **clip_layout.HARMLESS,
        "text_config": "a classifier of images has no text tower",
    },
)


def from_config(config: Mapping[str, Any], **fields: Any) -> siglip_vision.SiglipVision:
    """Builds the image classifier of a config.json of type "siglip".

    Raises:
      UserError: a key or a value that is not supported.
    """
    CONFIG.check(config)
    vision = CONFIG.part(config, "vision_config")
    return siglip_vision.from_config(vision, **fields)
