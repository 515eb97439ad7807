"""BEiT: a Vision Transformer with relative positions, in Hugging Face's layout.

References:
  Bao et al.: BEiT: BERT Pre-Training of Image Transformers, ICLR 2022.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from jaxtl.models import config_values, vit, vit_layout
from jaxtl.models.config_table import Key
from jaxtl.models.layers import patches, transformer
from jaxtl.models.weight_layout import WeightLayout


class BEiT(vit.ViT):
    """Stages `embeddings, layer_0 … layer_{n−1}, norm, head`; see `ViT`.

    With `pooling="mean"` the stage `norm` pools: it normalizes the patches' mean.
    Keys have no bias.

    Attributes:
      has_position: whether there are position vectors.
      relative: whether each layer has a table of relative positions.
      has_relative: whether all layers share one, of the stage `embeddings`.
      layer_scale: initial factor of each feature of a sublayer's output; None for no
        factors.
      drop_path: rate of stochastic depth of the last layer, growing from 0.
      has_mask: whether the parameters hold a token for masked patches, which no pass
        here reads.
    """

    pooling: str = "mean"
    has_position: bool = False
    relative: bool = False
    has_relative: bool = False
    layer_scale: float | None = 0.1
    drop_path: float = 0.1
    has_mask: bool = False

    names = vit_layout.HF_NAMES | {
        "attention_scale/scale": "lambda_1",
        "mlp_scale/scale": "lambda_2",
        "relative/table": "attention.attention.relative_position_bias."
        "relative_position_bias_table",
    }
    root = "beit"
    poolings = ("first", "mean")

    def embedding_options(self) -> dict[str, Any]:
        return {"has_position": self.has_position, "has_mask": self.has_mask}

    def block(self, layer: int) -> transformer.Block:
        return dataclasses.replace(
            super().block(layer),
            key_bias=False,
            layer_scale=self.layer_scale,
            grid=self.size // self.patch if self.relative else None,
        )

    @nn.nowrap
    def final_norm(self) -> Any:
        if self.pooling == "mean":
            return patches.PooledPatchNorm(self.epsilon)
        return super().final_norm()

    def reduction(self) -> Callable | None:
        return super().reduction() if self.pooling == "first" else None

    def layouts(self) -> dict[str, WeightLayout]:
        names = {"norm": "pooler.layernorm"} if self.pooling == "mean" else {}
        return {"hf": vit_layout.hf_layout(self, names)}


_SEGMENTATION = "semantic segmentation, which has no head here"
CONFIG = dataclasses.replace(
    vit.CONFIG,
    family="beit",
    stem="Beit",
    honored={
        **{k: v for k, v in vit.CONFIG.honored.items() if k != "qkv_bias"},
        "use_mask_token": Key("has_mask", config_values.flag, False),
        "use_absolute_position_embeddings": Key(
            "has_position", config_values.flag, False
        ),
        "use_relative_position_bias": Key("relative", config_values.flag, False),
        "use_shared_relative_position_bias": Key(
            "has_relative", config_values.flag, False
        ),
        "layer_scale_init_value": Key("layer_scale", config_values.scale, 0.1),
        "drop_path_rate": Key("drop_path", config_values.rate, 0.1),
        "use_mean_pooling": Key(
            "pooling",
            lambda key, x: "mean" if config_values.flag(key, x) else "first",
            "mean",
        ),
    },
    harmless={
        "attention_probs_dropout_prob": "attention weights have no dropout here",
        "vocab_size": "the head of masked image modeling is left out",
        **dict.fromkeys(
            (
                "pool_scales",
                "use_auxiliary_head",
                "auxiliary_loss_weight",
                "auxiliary_channels",
                "auxiliary_num_convs",
                "auxiliary_concat_input",
                "semantic_loss_ignore_index",
                "segmentation_indices",
                "add_fpn",
                "reshape_hidden_states",
                "out_features",
                "out_indices",
                "stage_names",
            ),
            _SEGMENTATION,
        ),
    },
)


def from_config(config: Mapping[str, Any], **fields: Any) -> BEiT:
    """Builds the model that a config.json of type "beit" describes.

    Raises:
      UserError: a key or a value that is not supported.
      KeyError: an entry that is missing.
    """
    config_values.count("num_channels", config.get("num_channels", 3))
    return BEiT(**{**CONFIG.fields(config), **fields})
