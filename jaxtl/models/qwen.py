"""Qwen 2 and 3: Llama's layout with biases, or norms, of queries and keys.

References:
  Yang et al.: Qwen2, arXiv:2407.10671; Qwen3, arXiv:2505.09388.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtl.models import config_values, layer_types, llama, rope_config
from jaxtl.models.config_table import ConfigTable, Key
from jaxtl.models.layers.transformer import Block


class Qwen2(llama.Llama):
    """Stages `embeddings, layer_0 … layer_{n−1}, norm, head`.

    Attributes:
      use_window: whether layers attend within a window at all.
      window: they attend to tokens at a distance below it.
      first_window_layer: index of the first such layer.
      layer_types: "sliding_attention" or "full_attention" for each layer; () goes by
        `use_window` and `first_window_layer`.
    """

    context: int = 32_768
    use_window: bool = False
    window: int | None = 4096
    first_window_layer: int = 28
    layer_types: tuple[str, ...] = ()

    def block(self, layer: int) -> Block:
        window = self.window if self.use_window else None
        layer_types.check(self.layer_types, self.layers, window)
        is_local = layer_types.has_window(
            layer, self.layer_types, lambda i: i >= self.first_window_layer
        )
        return dataclasses.replace(
            super().block(layer),
            window=window if is_local else None,
            input_bias=True,
            output_bias=False,
        )


class Qwen3(Qwen2):
    """Stages `embeddings, layer_0 … layer_{n−1}, norm, head`."""

    names = llama.NAMES | {
        "attention/query_norm": "self_attn.q_norm",
        "attention/key_norm": "self_attn.k_norm",
    }

    def block(self, layer: int) -> Block:
        bias = self.attention_bias
        return dataclasses.replace(
            super().block(layer), input_bias=bias, output_bias=bias, qk_norm="rms"
        )


QWEN2_CONFIG = ConfigTable(
    "qwen2",
    stem="Qwen2",
    predicts=("class", "token", "span", "next"),
    honored={
        **llama.HONORED,
        "num_key_value_heads": Key(
            "kv_heads", config_values.optional(config_values.count), 32
        ),
        "head_dim": Key("head_width", config_values.count, None),
        "max_position_embeddings": Key("context", config_values.count, 32_768),
        "use_sliding_window": Key("use_window", config_values.flag, False),
        "sliding_window": Key(
            "window", config_values.optional(config_values.count), 4096
        ),
        "max_window_layers": Key("first_window_layer", config_values.index, 28),
        "layer_types": Key("layer_types", config_values.layer_types, ()),
    },
    read_by_family=rope_config.KEYS,
    harmless={
        **llama.HARMLESS,
        "use_mrope": "transformers reads it nowhere; a text has one row of positions",
    },
)
QWEN3_CONFIG = dataclasses.replace(
    QWEN2_CONFIG,
    family="qwen3",
    stem="Qwen3",
    honored={
        **QWEN2_CONFIG.honored,
        "head_dim": Key("head_width", config_values.count, 128),
        "attention_bias": Key("attention_bias", config_values.flag, False),
    },
)


def from_config(config: Mapping[str, Any], **fields: Any) -> Qwen2:
    """Builds the model that a Hugging Face config.json of one of these types describes.

    Raises:
      UserError: a key or a value that is not supported.
      KeyError: an entry that is missing.
    """
    is_new = config["model_type"] == "qwen3"
    table, model = (QWEN3_CONFIG, Qwen3) if is_new else (QWEN2_CONFIG, Qwen2)
    return model(**{**rope_config.with_rope(table, config), **fields})
