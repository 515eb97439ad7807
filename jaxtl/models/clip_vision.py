"""CLIP's image tower: a classifier, or the map to the space shared with texts.

References:
  Radford et al.: Learning Transferable Visual Models From Natural Language Supervision,
  ICML 2021.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax

from jaxtl.core.types import Tokens
from jaxtl.models import clip_layout, config_values, vit, weight_layout
from jaxtl.models.config_table import ConfigTable, Key
from jaxtl.models.layers import patches, sequences
from jaxtl.models.weight_layout import WeightLayout


class CLIPVision(vit.ViT):
    """Stages `embeddings, layer_0 … layer_{n−1}, norm, head`; see `ViT`.

    `norm` normalizes the class token alone, as in CLIP.

    Attributes:
      predict: "class" for a classifier; "embedding" for a map of the normalized class
        token to `embedding` features, without a bias.
      pooling: what a classifier reads: the patches' "mean", which passes no norm, as in
        transformers, or the normalized class token ("first").
      embedding: width of the space that images share with texts.
    """

    patch: int = 32
    activation: str = "quick_gelu"
    epsilon: float = 1e-5
    pooling: str = "mean"
    predict: str = "class"
    embedding: int = 512

    names = clip_layout.VISION_NAMES
    root = "vision_model"
    poolings = ("first", "mean")
    # Entry of a configuration of both towers that describes this one.
    config_entry: ClassVar[str] = "vision_config"

    def setup(self) -> None:
        clip_layout.check_predict(self)
        super().setup()

    def embedding_options(self) -> dict[str, Any]:
        return {"bias": False, "epsilon": self.epsilon}

    def shape_of(self, part: str) -> str:
        return {"token": "vector", "position": "leading"}[part]

    @nn.nowrap
    def final_norm(self) -> Any:
        return patches.FirstTokenNorm(self.epsilon)

    @property
    def head_bias(self) -> bool:
        return self.predict == "class"

    @property
    def head_width(self) -> int | None:
        return self.outputs if self.predict == "class" else self.embedding

    def reduction(self) -> Callable[[Tokens], jax.Array]:
        return super().reduction() if self.predict == "class" else sequences.first_state

    def layouts(self) -> dict[str, WeightLayout]:
        return {"hf": clip_layout.vision_layout(self, **weight_layout.CLIP)}


CONFIG = ConfigTable(
    "clip_vision_model",
    predicts=("class", "embedding"),
    classes={
        "class": "CLIPForImageClassification",
        "embedding": "CLIPVisionModelWithProjection",
    },
    inside={"class": "clip"},
    honored={
        "image_size": Key("size", config_values.side, 224),
        "patch_size": Key("patch", config_values.side, 32),
        "hidden_size": Key("width", config_values.count, 768),
        "num_hidden_layers": Key("layers", config_values.count, 12),
        "num_attention_heads": Key("heads", config_values.count, 12),
        "intermediate_size": Key("hidden", config_values.count, 3072),
        "hidden_act": Key("activation", config_values.activation, "quick_gelu"),
        "layer_norm_eps": Key("epsilon", config_values.positive, 1e-5),
        "projection_dim": Key("embedding", config_values.count, 512),
    },
    read_by_family=("num_channels",),
    harmless=clip_layout.HARMLESS,
)


def from_config(config: Mapping[str, Any], **fields: Any) -> CLIPVision:
    """Builds the model that a config.json of type "clip_vision_model" describes.

    Raises:
      UserError: a key or a value that is not supported.
    """
    config_values.count("num_channels", config.get("num_channels", 3))
    return CLIPVision(**{**CONFIG.fields(config), **fields})
