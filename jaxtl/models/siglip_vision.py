"""SigLIP's image tower: a classifier, or the map to the space shared with texts.

References:
  Zhai et al.: Sigmoid Loss for Language Image Pre-Training, ICCV 2023.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax

from jaxtl.core.errors import UserError
from jaxtl.core.types import Tokens
from jaxtl.models import clip_layout, config_values, vit
from jaxtl.models.config_table import ConfigTable, Key
from jaxtl.models.layers import attention_pool
from jaxtl.models.weight_layout import WeightLayout


class SiglipVision(vit.ViT):
    """Stages `embeddings, layer_0 … layer_{n−1}, norm, [pool,] head`; see `ViT`.

    There is no class token.

    Attributes:
      predict: "class" for a classifier; "embedding" for the pooling by attention, whose
        `width` features are the image's place in the space shared with texts.
      pooling: what a classifier reads: the patches' "mean", as in transformers, or what
        is pooled by "attention", in the stage `pool`.
    """

    activation: str = "gelu_tanh"
    epsilon: float = 1e-6
    pooling: str = "mean"
    predict: str = "class"

    names = clip_layout.VISION_NAMES
    root = "vision_model"
    poolings = ("mean", "attention")
    # Entry of a configuration of both towers that describes this one.
    config_entry: ClassVar[str] = "vision_config"

    def setup(self) -> None:
        clip_layout.check_predict(self)
        super().setup()

    @property
    def embedding(self) -> int:
        """Width of the space that images share with texts."""
        return self.width

    @property
    def pool_stage(self) -> str:
        """The stage that pools by attention, "" for none."""
        if self.predict == "embedding":
            return "head"
        return "pool" if self.pooling == "attention" else ""

    @property
    def reference_entries(self) -> dict[str, Any]:
        """Entries of the configuration that decide which tensors a file has."""
        return {"vision_use_head": bool(self.pool_stage)}

    @property
    def stages(self) -> tuple[str, ...]:
        *others, head = super().stages
        return (*others, *("pool",) * (self.pool_stage == "pool"), head)

    @nn.nowrap
    def stage_modules(self) -> Iterator[tuple[str, Any]]:
        for name, module in super().stage_modules():
            if name == "head" and self.pool_stage:
                module = None if self.pool_stage == "head" else module
                yield self.pool_stage, self._pool()
            if module is not None:
                yield name, module

    @nn.nowrap
    def _pool(self) -> attention_pool.AttentionPool:
        return attention_pool.AttentionPool(
            self.heads, self.hidden, self.activation, self.epsilon
        )

    def embedding_options(self) -> dict[str, Any]:
        return {"tokens": ()}

    def shape_of(self, part: str) -> str:
        return "leading"

    @property
    def head_maps(self) -> tuple[str, ...]:
        return ("dense",) if self.predict == "class" else ()

    def reduction(self) -> Callable[[Tokens], jax.Array] | None:
        return None if self.pool_stage else super().reduction()

    def layouts(self) -> dict[str, WeightLayout]:
        return {"hf": clip_layout.vision_layout(self)}


CONFIG = ConfigTable(
    "siglip_vision_model",
    predicts=("class", "embedding"),
    classes={
        "class": "SiglipForImageClassification",
        "embedding": "SiglipVisionModel",
    },
    inside={"class": "siglip"},
    honored={
        "image_size": Key("size", config_values.side, 224),
        "patch_size": Key("patch", config_values.side, 16),
        "hidden_size": Key("width", config_values.count, 768),
        "num_hidden_layers": Key("layers", config_values.count, 12),
        "num_attention_heads": Key("heads", config_values.count, 12),
        "intermediate_size": Key("hidden", config_values.count, 3072),
        "hidden_act": Key("activation", config_values.activation, "gelu_tanh"),
        "layer_norm_eps": Key("epsilon", config_values.positive, 1e-6),
    },
    read_by_family=("num_channels", "vision_use_head"),
    harmless=clip_layout.HARMLESS,
)


def from_config(config: Mapping[str, Any], **fields: Any) -> SiglipVision:
    """Builds the model that a config.json of type "siglip_vision_model" describes.

    Raises:
      UserError: a key or a value that is not supported.
    """
    config_values.count("num_channels", config.get("num_channels", 3))
    has_pool = config_values.flag(
        "vision_use_head", config.get("vision_use_head", True)
    )
    model = SiglipVision(**{**CONFIG.fields(config), **fields})
    if model.predict == "embedding" and not has_pool:
        raise UserError(
            "config.json: vision_use_head is false, so the weights lack the pooling by "
            "attention that predict='embedding' reads; use predict='class'."
        )
    return model
