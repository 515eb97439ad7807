"""SigLIP's text tower: the map to the space shared with images, or a classifier.

References:
  Zhai et al.: Sigmoid Loss for Language Image Pre-Training, ICCV 2023.
"""

from collections.abc import Mapping
from typing import Any

from jaxtl.models import clip_layout, clip_text, config_values
from jaxtl.models.config_table import ConfigTable, Key
from jaxtl.models.layers import pair_embeddings
from jaxtl.models.layers.embeddings import DecoderEmbeddings, EmbeddingOptions


class SiglipText(clip_text.CLIPText):
    """Stages `embeddings, layer_0 … layer_{n−1}, norm, head`; see `CLIPText`.

    Every token attends to all, and padding, which fills each text up to `context`, is
    a token as others are: texts of any length and mask are padded so. The state of the
    last place stands for a text. The map to `embedding` features has a bias.

    Attributes:
      embedding: width of the space that texts share with images; None takes `width`.
      fill: id of padding.
      end: not used.
    """

    vocab: int = 32_000
    width: int = 768
    heads: int = 12
    hidden: int = 3072
    context: int = 64
    embedding: int | None = None
    activation: str = "gelu_tanh"
    epsilon: float = 1e-6
    end: int | None = None
    fill: int = 1

    projection = "text_model.head"
    projection_bias = True
    causal = False

    def embeddings_module(self, options: EmbeddingOptions) -> DecoderEmbeddings:
        return pair_embeddings.FilledEmbeddings(options, self.fill)


CONFIG = ConfigTable(
    "siglip_text_model",
    predicts=("embedding",),
    classes={"embedding": "SiglipTextModel"},
    honored={
        "vocab_size": Key("vocab", config_values.count, 32_000),
        "hidden_size": Key("width", config_values.count, 768),
        "num_hidden_layers": Key("layers", config_values.count, 12),
        "num_attention_heads": Key("heads", config_values.count, 12),
        "intermediate_size": Key("hidden", config_values.count, 3072),
        "max_position_embeddings": Key("context", config_values.count, 64),
        "hidden_act": Key("activation", config_values.activation, "gelu_tanh"),
        "layer_norm_eps": Key("epsilon", config_values.positive, 1e-6),
        "projection_size": Key(
            "embedding", config_values.optional(config_values.count), None
        ),
        "pad_token_id": Key("fill", config_values.index, 1),
    },
    harmless=clip_layout.HARMLESS,
)


def from_config(config: Mapping[str, Any], **fields: Any) -> SiglipText:
    """Builds the model that a config.json of type "siglip_text_model" describes.

    Raises:
      UserError: a key or a value that is not supported.
    """
    return SiglipText(**{**CONFIG.fields(config), **fields})
