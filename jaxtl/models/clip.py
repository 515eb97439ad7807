"""Configurations of CLIP, which hold those of its two towers.

References:
  Radford et al.: Learning Transferable Visual Models From Natural Language Supervision,
  ICML 2021.
"""

from collections.abc import Mapping
from typing import Any

from jaxtl.models import clip_layout, clip_vision
from jaxtl.models.config_table import ConfigTable

CONFIG = ConfigTable(
    "clip",
    predicts=("class",),
    classes={"class": "CLIPForImageClassification"},
    honored={},
    parts={"vision_config": clip_vision.CONFIG},
    harmless={
        **clip_layout.HARMLESS,
        "text_config": "a classifier of images has no text tower",
        "text_config_dict": "a classifier of images has no text tower",
        "projection_dim": "a classifier has no map to the space of texts",
        "logit_scale_init_value": "the weights have the scale",
    },
)


def from_config(config: Mapping[str, Any], **fields: Any) -> clip_vision.CLIPVision:
    """Builds the image classifier of a config.json of type "clip".

    Raises:
      UserError: a key or a value that is not supported.
    """
    CONFIG.check(config)
    vision = CONFIG.part(config, "vision_config")
    return clip_vision.from_config(vision, **fields)
