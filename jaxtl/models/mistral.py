"""Mistral: Llama's layout with a window of attention.

References:
  Jiang et al.: Mistral 7B, arXiv:2310.06825.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtl.models import config_values, llama, rope_config
from jaxtl.models.config_table import ConfigTable, Key
from jaxtl.models.layers.transformer import Block


class Mistral(llama.Llama):
    """Stages `embeddings, layer_0 … layer_{n−1}, norm, head`.

    Attributes:
      window: a token attends to those at a distance below it; None to all before it.
    """

    window: int | None = 4096

    span_root = "model."

    def block(self, layer: int) -> Block:
        return dataclasses.replace(super().block(layer), window=self.window)


CONFIG = ConfigTable(
    "mistral",
    stem="Mistral",
    predicts=("class", "token", "span", "next"),
    honored={
        **llama.HONORED,
        "num_key_value_heads": Key(
            "kv_heads", config_values.optional(config_values.count), 8
        ),
        "head_dim": Key("head_width", config_values.count, None),
        "max_position_embeddings": Key("context", config_values.count, 131_072),
        "sliding_window": Key(
            "window", config_values.optional(config_values.count), 4096
        ),
    },
    read_by_family=rope_config.KEYS,
    harmless=llama.HARMLESS,
)


def from_config(config: Mapping[str, Any], **fields: Any) -> Mistral:
    """Builds the model that a Hugging Face config.json of type "mistral" describes.

    Raises:
      UserError: a key or a value that is not supported.
      KeyError: an entry that is missing.
    """
    return Mistral(**{**rope_config.with_rope(CONFIG, config), **fields})
