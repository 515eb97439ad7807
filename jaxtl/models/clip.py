"""CLIP: a tower of images and a tower of texts, which share a space.

References:
  Radford et al.: Learning Transferable Visual Models From Natural Language Supervision,
  ICML 2021.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtl.core.errors import UserError
from jaxtl.models import clip_layout, clip_text, clip_vision, config_values, pair_config
from jaxtl.models.clip_text import CLIPText
from jaxtl.models.clip_vision import CLIPVision
from jaxtl.models.config_table import ConfigTable, Key
from jaxtl.models.two_towers import TwoTowers
from jaxtl.models.weight_layout import Rule, WeightLayout

EMBEDS: dict[str, Any] = {"predict": "embedding"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIP(TwoTowers):
    """`TwoTowers` of CLIP, in Hugging Face's layout.

    Attributes:
      image, text: the towers, both with `predict="embedding"`.
    """

    image: Any = dataclasses.field(default_factory=lambda: CLIPVision(**EMBEDS))
    text: Any = dataclasses.field(default_factory=lambda: CLIPText(**EMBEDS))

    alone = "FromHub(…).model(predict='class') is the classifier of images alone"

    def __post_init__(self):
        super().__post_init__()
        for name in ("image", "text"):
            predict = getattr(getattr(self, name), "predict", None)
            if predict != "embedding":
                raise UserError(
                    f"{type(self).__name__}.{name} has predict={predict!r}; expected "
                    "predict='embedding', the map to the space of both towers."
                )

    def head_rules(self) -> list[Rule]:
        """Rules of what scales the similarities of images and texts."""
        return [Rule("logit_scale", "head/log_scale")]

    def layouts(self) -> dict[str, WeightLayout]:
        """File layouts that the family reads and writes, by name."""
        return {"hf": clip_layout.pair_layout(self)}

    def adapt(self, path: str, leaf: Any) -> Any:
        """Converts one leaf of a file to this model's image size.

        Args:
          path: of the leaf in this model, "image_embeddings/position".
          leaf: as the file has it.

        Returns:
          The leaf as `Staged.adapt` of the image tower converts it; leaves of the text
          tower and the head as they are.
        """
        if not path.startswith("image_"):
            return leaf
        return self.image.adapt(path.removeprefix("image_"), leaf)


CONFIG = ConfigTable(
    "clip",
    predicts=("pair", "class"),
    classes={"pair": "CLIPModel", "class": "CLIPForImageClassification"},
    honored={"projection_dim": Key("width", config_values.count, 512)},
    parts={"vision_config": clip_vision.CONFIG, "text_config": clip_text.CONFIG},
    harmless={
        **clip_layout.HARMLESS,
        "logit_scale_init_value": "the weights have the scale",
    },
)


def from_config(config: Mapping[str, Any], **fields: Any) -> CLIP | CLIPVision:
    """Builds the model of a config.json of type "clip": the pair, or its classifier.

    Args:
      config: the content.
      **fields: fields of the model; `predict="class"` for the classifier of images.

    Raises:
      UserError: a key or a value that is not supported.
    """
    width = CONFIG.fields(config)["width"]
    vision = CONFIG.part(config, "vision_config")
    if pair_config.takes_predict(config, fields) == "class":
        return clip_vision.from_config(vision, **fields)
    of_both, of_image = pair_config.of_towers(fields)
    shared = {**of_both, **EMBEDS, "embedding": width}
    text = CONFIG.part(config, "text_config")
    return CLIP(
        image=clip_vision.from_config(vision, **shared, **of_image),
        text=clip_text.from_config(text, **shared),
        **{"width": width, **fields},
    )
