"""Phi-3: Llama's layout with joint projections, partial rotary positions, LongRoPE.

References:
  Abdin et al.: Phi-3 Technical Report, arXiv:2404.14219.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtl.models import config_values, llama, rope_config
from jaxtl.models.config_table import ConfigTable, Key
from jaxtl.models.layers.transformer import Block


class Phi3(llama.Llama):
    """Stages `embeddings, layer_0 … layer_{n−1}, norm, head`.

    Attributes:
      window: a token attends to those at a distance below it; None to all before it.
      dropout: of the output of each sublayer.
    """

    context: int = 4096
    window: int | None = None
    dropout: float = 0.0

    names = llama.NAMES | {
        "attention/qkv": "self_attn.qkv_proj",
        "mlp/gate_in": "mlp.gate_up_proj",
    }

    def block(self, layer: int) -> Block:
        return dataclasses.replace(
            super().block(layer),
            window=self.window,
            fused="parts",
            gated="joint",
            dropout=self.dropout,
        )


CONFIG = ConfigTable(
    "phi3",
    stem="Phi3",
    predicts=("class", "token", "next"),
    honored={
        **llama.HONORED,
        "rms_norm_eps": Key("epsilon", config_values.positive, 1e-5),
        "max_position_embeddings": Key("context", config_values.count, 4096),
        "pad_token_id": Key(
            "pad", config_values.optional(config_values.padding), 32_000
        ),
        "sliding_window": Key(
            "window", config_values.optional(config_values.count), None
        ),
        "resid_pdrop": Key("dropout", config_values.rate, 0.0),
    },
    read_by_family=rope_config.KEYS,
    harmless={
        **llama.HARMLESS,
        "embd_pdrop": "transformers reads it nowhere",
        "attention_bias": "transformers reads it nowhere; there are no biases",
    },
)


def from_config(config: Mapping[str, Any], **fields: Any) -> Phi3:
    """Builds the model that a Hugging Face config.json of type "phi3" describes.

    Raises:
      UserError: a key or a value that is not supported.
      KeyError: an entry that is missing.
    """
    config = {"original_max_position_embeddings": 4096, **config}
    for key in ("rope_parameters", "rope_scaling"):  # older names of LongRoPE
        rope = config.get(key)
        if isinstance(rope, Mapping):
            kind = rope.get("rope_type", rope.get("type"))
            if kind in ("su", "yarn"):
                config[key] = {**rope, "rope_type": "longrope", "type": None}
    return Phi3(**{**rope_config.with_rope(CONFIG, config, share=1.0), **fields})
