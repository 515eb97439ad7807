"""Llama-layout decoders: RMSNorm, rotary positions, grouped queries, SwiGLU.

References:
  Touvron et al.: LLaMA, arXiv:2302.13971; Llama 2, arXiv:2307.09288.
"""

import json
from collections.abc import Mapping
from typing import Any

from jaxtl.models import causal_lm, config_values, rope_config
from jaxtl.models.config_table import ConfigTable, Key, Only
from jaxtl.models.layers.transformer import Block
from jaxtl.models.rotary_lm import RotaryLM
from jaxtl.models.weight_layout import WeightLayout

NAMES = {
    "root": "model.",
    "embeddings/token": "embed_tokens",
    "layer": "layers.{}",
    "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj",
    "attention/value": "self_attn.v_proj",
    "attention/out": "self_attn.o_proj",
    "attention_norm": "input_layernorm",
    "mlp/gate": "mlp.gate_proj",
    "mlp/in": "mlp.up_proj",
    "mlp/out": "mlp.down_proj",
    "mlp_norm": "post_attention_layernorm",
    "norm/norm": "norm",
    "next": "lm_head",
    "class": "score",
    "token": "score",
}
_LLAMA2C_NAMES = {
    "root": "",
    "embeddings/token": "tok_embeddings",
    "layer": "layers.{}",
    "attention/query": "attention.wq",
    "attention/key": "attention.wk",
    "attention/value": "attention.wv",
    "attention/out": "attention.wo",
    "attention_norm": "attention_norm",
    "mlp/gate": "feed_forward.w1",
    "mlp/in": "feed_forward.w3",
    "mlp/out": "feed_forward.w2",
    "mlp_norm": "ffn_norm",
    "norm/norm": "norm",
    "next": "output",
    "class": "score",
    "token": "score",
}


class Llama(RotaryLM):
    """Stages `embeddings, layer_0 … layer_{n−1}, norm, head`.

    Attributes:
      kv_heads: key and value heads; None takes `heads`.
      head_width: features per head; None takes width / heads.
      activation: of the gate.
      attention_bias, mlp_bias: biases in the projections of these sublayers.
    """

    vocab: int = 32_000
    width: int = 4096
    layers: int = 32
    heads: int = 32
    context: int = 2048
    tied: bool = False
    kv_heads: int | None = None
    head_width: int | None = None
    activation: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False

    norm_kind = "rms"
    span_root = "transformer."
    names = NAMES

    def block(self, layer: int) -> Block:
        return Block(
            heads=self.heads,
            kv_heads=self.kv_heads or self.heads,
            head_width=self.head_width,
            hidden=self.hidden,
            activation=self.activation,
            gated=True,
            norm=self.norm_kind,
            epsilon=self.epsilon,
            rope=self.rope(),
            input_bias=self.attention_bias,
            output_bias=self.attention_bias,
            mlp_bias=self.mlp_bias,
        )

    def layouts(self) -> dict[str, WeightLayout]:
        layouts = super().layouts()
        if type(self) is Llama:
            layouts["llama2.c"] = causal_lm.layout(self, _LLAMA2C_NAMES)
        return layouts


# Keys that the types of this layout share.
HONORED = {
    "vocab_size": Key("vocab", config_values.count),
    "hidden_size": Key("width", config_values.count),
    "num_hidden_layers": Key("layers", config_values.count),
    "num_attention_heads": Key("heads", config_values.count),
    "num_key_value_heads": Key("kv_heads", config_values.count, None),
    "intermediate_size": Key("hidden", config_values.count),
    "max_position_embeddings": Key("context", config_values.count, 2048),
    "rms_norm_eps": Key("epsilon", config_values.positive, 1e-6),
    "hidden_act": Key("activation", config_values.activation, "silu"),
    "tie_word_embeddings": Key("tied", config_values.flag, False),
    "pad_token_id": Key("pad", config_values.padding, None),
    "classifier_dropout": Key("head_dropout", config_values.rate, 0.1),
}
HARMLESS = {
    "attention_dropout": "attention weights have no dropout here",
    "is_decoder": "the model always attends to earlier tokens alone",
}
CONFIG = ConfigTable(
    "llama",
    stem="Llama",
    predicts=("class", "token", "span", "next"),
    honored={
        **HONORED,
        "head_dim": Key("head_width", config_values.count, None),
        "attention_bias": Key("attention_bias", config_values.flag, False),
        "mlp_bias": Key("mlp_bias", config_values.flag, False),
    },
    read_by_family=rope_config.KEYS,
    harmless={
        **HARMLESS,
        "pretraining_tp": "the same products in slices",
        "max_sequence_length": "an older note; max_position_embeddings decides",
        "is_llama_config": "a note on where the file comes from",
    },
    only={"rope_interleaved": Only((False, None), "neighboring features rotate")},
)


def from_config(config: Mapping[str, Any], **fields: Any) -> Llama:
    """Builds the model that a Hugging Face config.json of type "llama" describes.

    Raises:
      UserError: a key or a value that is not supported.
      KeyError: an entry that is missing.
    """
    return Llama(**{**rope_config.with_rope(CONFIG, config), **fields})


def from_tensors(
    shapes: Mapping[str, tuple[int, ...]], meta: Mapping[str, Any]
) -> Llama | None:
    """The model of a llama2.c file (its configuration is meta["config"]), or None."""
    if "tok_embeddings.weight" not in shapes or "config" not in meta:
        return None
    config = json.loads(meta["config"])
    return Llama(
        vocab=config["vocab_size"],
        width=config["dim"],
        layers=config["n_layers"],
        heads=config["n_heads"],
        kv_heads=config["n_kv_heads"],
        hidden=config["hidden_dim"],
        context=config["max_seq_len"],
        epsilon=config["norm_eps"],
        rope_theta=config["rope_theta"],
        rope_pairs=True,
        tied=config["tied_embeddings"],
    )
