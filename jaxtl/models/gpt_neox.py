"""GPT-NeoX and Pythia: rotary positions on a part of each head, parallel sublayers.

References:
  Black et al.: GPT-NeoX-20B, BigScience 2022. Biderman et al.: Pythia, ICML 2023.
"""

from collections.abc import Mapping
from typing import Any

from jaxtl.models import config_values, llama, rope_config
from jaxtl.models.config_table import ConfigTable, Key
from jaxtl.models.layers.embeddings import EmbeddingOptions
from jaxtl.models.layers.transformer import Block
from jaxtl.models.rotary_lm import RotaryLM

_NAMES = {
    "root": "gpt_neox.",
    "embeddings/token": "embed_in",
    "layer": "layers.{}",
    "attention/qkv": "attention.query_key_value",
    "attention/out": "attention.dense",
    "attention_norm": "input_layernorm",
    "mlp/in": "mlp.dense_h_to_4h",
    "mlp/out": "mlp.dense_4h_to_h",
    "mlp_norm": "post_attention_layernorm",
    "norm/norm": "final_layer_norm",
    "next": "lm_head",
    "class": "score",
    "token": "classifier",
}


class GPTNeoX(RotaryLM):
    """Stages `embeddings, layer_0 … layer_{n−1}, norm, head`.

    Attributes:
      activation: by name.
      parallel: whether both sublayers read the same states, and are added together.
      attention_bias: biases in the projections of attention.
      dropout: after the embeddings and each sublayer. (Attention weights have none.)
    """

    vocab: int = 50_432
    context: int = 2048
    tied: bool = False
    hidden: int = 3072
    activation: str = "gelu_exact"
    rope_share: float = 0.25
    parallel: bool = True
    attention_bias: bool = True
    dropout: float = 0.0

    names = _NAMES
    renames = ((r"^embed_out\.", "lm_head."),)
    buffers = (r".*rotary_emb\.inv_freq", r".*\.attention\.(masked_)?bias")

    def embedding_options(self, **options: Any) -> EmbeddingOptions:
        return super().embedding_options(dropout=self.dropout, **options)

    def block(self, layer: int) -> Block:
        return Block(
            heads=self.heads,
            hidden=self.hidden,
            activation=self.activation,
            order="parallel" if self.parallel else "pre",
            epsilon=self.epsilon,
            fused="heads",
            rope=self.rope(),
            input_bias=self.attention_bias,
            output_bias=self.attention_bias,
            dropout=self.dropout,
        )


_SHARED = ("num_key_value_heads", "rms_norm_eps")
CONFIG = ConfigTable(
    "gpt_neox",
    stem="GPTNeoX",
    predicts=("class", "token", "span", "next"),
    honored={
        **{k: v for k, v in llama.HONORED.items() if k not in _SHARED},
        "layer_norm_eps": Key("epsilon", config_values.positive, 1e-5),
        "hidden_act": Key("activation", config_values.activation, "gelu_exact"),
        "use_parallel_residual": Key("parallel", config_values.flag, True),
        "attention_bias": Key("attention_bias", config_values.flag, True),
        "hidden_dropout": Key("dropout", config_values.rate, 0.0),
    },
    read_by_family=(*rope_config.KEYS, "rotary_pct", "rotary_emb_base"),
    harmless=llama.HARMLESS,
)


def from_config(config: Mapping[str, Any], **fields: Any) -> GPTNeoX:
    """Builds the model that a Hugging Face config.json of type "gpt_neox" describes.

    Raises:
      UserError: a key or a value that is not supported.
      KeyError: an entry that is missing.
    """
    theta = config.get("rope_theta", config.get("rotary_emb_base", 10_000.0))
    share = config.get("rotary_pct", 0.25)
    config = {**config, "rope_theta": theta}
    return GPTNeoX(**{**rope_config.with_rope(CONFIG, config, share), **fields})
