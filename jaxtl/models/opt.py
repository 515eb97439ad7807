"""OPT: learned positions of the real tokens, norms before or after each sublayer.

References:
  Zhang et al.: OPT: Open Pre-trained Transformer Language Models, arXiv:2205.01068.
"""

from collections.abc import Mapping
from typing import Any

from jaxtl.models import causal_lm, config_values
from jaxtl.models.config_table import ConfigTable, Key
from jaxtl.models.layers.embeddings import EmbeddingOptions
from jaxtl.models.layers.transformer import Block

_NAMES = {
    "root": "model.decoder.",
    "embeddings/token": "embed_tokens",
    "embeddings/position": "embed_positions",
    "embeddings/project": "project_in",
    "layer": "layers.{}",
    "attention_norm": "self_attn_layer_norm",
    "mlp_norm": "final_layer_norm",
    "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj",
    "attention/value": "self_attn.v_proj",
    "attention/out": "self_attn.out_proj",
    "mlp/in": "fc1",
    "mlp/out": "fc2",
    "norm/norm": "final_layer_norm",
    "norm/project": "project_out",
    "next": "lm_head",
    "class": "score",
    "token": "score",
}


class OPT(causal_lm.CausalLM):
    """Stages `embeddings, layer_0 … layer_{n−1}, norm, head`.

    Attributes:
      hidden: width inside the feed-forward layers.
      activation: by name.
      token_width: of the table of token vectors, which are projected to `width`, as
        the states are back before the head; None takes `width`.
      bias: biases in all projections.
      pre_norm: norms before each sublayer and behind the last layer, else after each.
      has_final_norm: whether there is the one behind the last layer.
      norm_leaves: whether the norms have scales and biases.
      dropout: of each sublayer. (Attention weights have none.)
    """

    vocab: int = 50_272
    context: int = 2048
    hidden: int = 3072
    activation: str = "relu"
    token_width: int | None = None
    bias: bool = True
    pre_norm: bool = True
    has_final_norm: bool = True
    norm_leaves: bool = True
    dropout: float = 0.1

    names = _NAMES

    def embedding_options(self, **options: Any) -> EmbeddingOptions:
        return super().embedding_options(
            positions="tokens", offset=2, inner_width=self.final_width, **options
        )

    @property
    def _norm(self) -> str:
        return "layer" if self.norm_leaves else "layer_plain"

    @property
    def final_kind(self) -> str:
        return self._norm if self.pre_norm and self.has_final_norm else ""

    @property
    def final_width(self) -> int | None:
        return None if self.token_width == self.width else self.token_width

    def block(self, layer: int) -> Block:
        return Block(
            heads=self.heads,
            hidden=self.hidden,
            activation=self.activation,
            order="pre" if self.pre_norm else "post",
            norm=self._norm,
            epsilon=self.epsilon,
            input_bias=self.bias,
            output_bias=self.bias,
            mlp_bias=self.bias,
            dropout=self.dropout,
        )


CONFIG = ConfigTable(
    "opt",
    stem="OPT",
    predicts=("class", "span", "next"),
    honored={
        "vocab_size": Key("vocab", config_values.count),
        "hidden_size": Key("width", config_values.count),
        "num_hidden_layers": Key("layers", config_values.count),
        "num_attention_heads": Key("heads", config_values.count),
        "ffn_dim": Key("hidden", config_values.count),
        "max_position_embeddings": Key("context", config_values.count, 2048),
        "word_embed_proj_dim": Key("token_width", config_values.count, None),
        "activation_function": Key("activation", config_values.activation, "relu"),
        "do_layer_norm_before": Key("pre_norm", config_values.flag, True),
        "_remove_final_layer_norm": Key(
            "has_final_norm", lambda key, x: not config_values.flag(key, x), True
        ),
        "enable_bias": Key("bias", config_values.flag, True),
        "layer_norm_elementwise_affine": Key("norm_leaves", config_values.flag, True),
        "dropout": Key("dropout", config_values.rate, 0.1),
        "tie_word_embeddings": Key("tied", config_values.flag, True),
        "pad_token_id": Key("pad", config_values.optional(config_values.padding), 1),
    },
    harmless={
        "attention_dropout": "attention weights have no dropout here",
        "activation_dropout": "transformers reads it nowhere",
        "layerdrop": "no layer is left out at random here",
        "init_std": "spread of new weights; jaxtl's layers have their own",
        "is_decoder": "the model always attends to earlier tokens alone",
    },
)


def from_config(config: Mapping[str, Any], **fields: Any) -> OPT:
    """Builds the model that a Hugging Face config.json of type "opt" describes.

    Raises:
      UserError: a key or a value that is not supported.
      KeyError: an entry that is missing.
    """
    return OPT(**{**CONFIG.fields(config), **fields})
