"""ModernBERT: an encoder with rotary positions, windows and gated layers.

References:
  Warner et al.: Smarter, Better, Faster, Longer, arXiv:2412.13663.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtl.core.errors import UserError
from jaxtl.models import bert, config_values, layer_types
from jaxtl.models.bert_config import ENCODER_PREDICTS
from jaxtl.models.config_table import ConfigTable, Key, Only
from jaxtl.models.layers.rotary import RotaryPositions
from jaxtl.models.layers.text_heads import HeadOptions
from jaxtl.models.layers.transformer import Block


class ModernBert(bert.Bert):
    """Stages `embeddings, layer_0 … layer_{n−1}, norm, head`; see `Bert`.

    Attributes:
      norm_bias, attention_bias, mlp_bias: biases of the norms, and of the maps in
        attention and in the feed-forward part.
      window: local layers attend to half as many tokens on each side.
      layer_types: "sliding_attention" or "full_attention" for each layer; () has every
        `period`-th layer attend to all tokens, beginning with the first.
      rope_theta, rope_local_theta: bases of the rotary wavelengths, of layers that
        attend to all tokens and of local ones.
      head_activation, head_bias: of the layer before each head.
      mask_bias: whether the head of the vocabulary has a bias.
    """

    vocab: int = 50_368
    layers: int = 22
    hidden: int = 1152
    context: int = 8192
    segments: int = 0
    pooling: str = "first"
    epsilon: float = 1e-5
    dropout: float = 0.0
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    window: int = 128
    layer_types: tuple[str, ...] = ()
    period: int = 3
    rope_theta: float = 160_000.0
    rope_local_theta: float = 10_000.0
    head_activation: str = "gelu_exact"
    head_bias: bool = False
    mask_bias: bool = True

    root = "model"
    has_positions = False
    names: ClassVar[Mapping[str, str]] = {
        "embeddings/token": "embeddings.tok_embeddings",
        "embeddings/norm": "embeddings.norm",
        "layer": "layers.{}",
        "attention/qkv": "attn.Wqkv",
        "attention/out": "attn.Wo",
        "attention_norm": "attn_norm",
        "mlp/gate_in": "mlp.Wi",
        "mlp/out": "mlp.Wo",
        "mlp_norm": "mlp_norm",
        "norm/norm": "final_norm",
        "inner": "head.dense",
        "norm": "head.norm",
        "classifier": "classifier",
        "vocabulary": "decoder",
    }

    @property
    def final_kind(self) -> str:
        return "layer" if self.norm_bias else "layer_scale"

    @property
    def embeddings_kind(self) -> str:
        return self.final_kind

    @property
    def head_names(self) -> Mapping[str, str]:
        is_mask = self.predict == "mask"
        dense = self.names["vocabulary" if is_mask else "classifier"]
        return {"inner": self.names["inner"], "norm": self.names["norm"]} | {
            "dense": dense
        }

    def block(self, layer: int = 0) -> Block:
        layer_types.check(self.layer_types, self.layers, self.window)
        is_local = layer_types.has_window(
            layer, self.layer_types, lambda i: i % self.period > 0
        )
        theta = self.rope_local_theta if is_local else self.rope_theta
        return Block(
            heads=self.heads,
            hidden=self.hidden,
            activation=self.activation,
            norm=self.final_kind,
            first_norm=layer > 0,
            epsilon=self.epsilon,
            causal=False,
            window=self.window // 2 + 1 if is_local else None,
            fused="parts",
            input_bias=self.attention_bias,
            output_bias=self.attention_bias,
            mlp_bias=self.mlp_bias,
            rope=RotaryPositions(theta=theta),
            gated="joint",
        )

    def head_options(self) -> HeadOptions:
        is_mask = self.predict == "mask"
        options = dataclasses.replace(
            super().head_options(),
            inner=self.head_activation,
            inner_bias=self.head_bias,
            norm=self.final_kind,
            epsilon=self.epsilon,
        )
        return dataclasses.replace(options, bias=self.mask_bias) if is_mask else options


_INSIDE = Only((0, 0.0, None), "dropout inside of a layer")
_KINDS = {"cls": "first", "mean": "mean"}
CONFIG = ConfigTable(
    "modernbert",
    stem="ModernBert",
    predicts=ENCODER_PREDICTS,
    honored={
        "vocab_size": Key("vocab", config_values.count),
        "hidden_size": Key("width", config_values.count),
        "num_hidden_layers": Key("layers", config_values.count),
        "num_attention_heads": Key("heads", config_values.count),
        "intermediate_size": Key("hidden", config_values.count),
        "max_position_embeddings": Key("context", config_values.count, 8192),
        "hidden_activation": Key("activation", config_values.activation, "gelu_exact"),
        "norm_eps": Key("epsilon", config_values.positive, 1e-5),
        "norm_bias": Key("norm_bias", config_values.flag, False),
        "attention_bias": Key("attention_bias", config_values.flag, False),
        "mlp_bias": Key("mlp_bias", config_values.flag, False),
        "local_attention": Key("window", config_values.count, 128),
        "layer_types": Key("layer_types", config_values.layer_types, ()),
        "global_attn_every_n_layers": Key("period", config_values.count, 3),
        "embedding_dropout": Key("dropout", config_values.rate, 0.0),
        "classifier_dropout": Key("head_dropout", config_values.rate, 0.0),
        "classifier_pooling": Key("pooling", config_values.renamed(_KINDS), "first"),
        "classifier_activation": Key(
            "head_activation", config_values.activation, "gelu_exact"
        ),
        "classifier_bias": Key("head_bias", config_values.flag, False),
        "decoder_bias": Key("mask_bias", config_values.flag, True),
        "tie_word_embeddings": Key("tied", config_values.flag, True),
    },
    read_by_family=("rope_parameters", "global_rope_theta", "local_rope_theta"),
    harmless={
        "initializer_cutoff_factor": "spread of new weights",
        "layer_norm_eps": "transformers reads norm_eps",
        "position_embedding_type": "transformers reads it nowhere",
        "cls_token_id": "the tokenizer decides on special tokens",
        **dict.fromkeys(
            (
                "deterministic_flash_attn",
                "reference_compile",
                "repad_logits_with_grad",
                "sparse_prediction",
                "sparse_pred_ignore_index",
            ),
            "memory and speed of training in transformers",
        ),
    },
    only={"attention_dropout": _INSIDE, "mlp_dropout": _INSIDE},
)


def _thetas(config: Mapping[str, Any]) -> dict[str, float]:
    """Bases of the rotary wavelengths, in the newer and the older form.

    Raises:
      UserError: rotary positions of another type than the default one.
    """
    thetas, rope = {}, config.get("rope_parameters") or {}
    for kind, key, field, default in (
        (layer_types.FULL, "global_rope_theta", "rope_theta", 160_000.0),
        (layer_types.SLIDING, "local_rope_theta", "rope_local_theta", 10_000.0),
    ):
        entry = rope.get(kind) or {}
        if entry.get("rope_type", "default") != "default":
            raise UserError(
                f"config.json: rope_parameters of {kind!r} has rope type "
                f"{entry['rope_type']!r}; expected 'default'."
            )
        theta = entry.get("rope_theta", config.get(key, default))
        thetas[field] = config_values.positive(key, theta)
    return thetas


def from_config(config: Mapping[str, Any], **fields: Any) -> ModernBert:
    """Builds the model that a Hugging Face config.json of type "modernbert" describes.

    Raises:
      UserError: a key or a value that is not supported.
      KeyError: an entry that is missing.
    """
    return ModernBert(**{**CONFIG.fields(config), **_thetas(config), **fields})
