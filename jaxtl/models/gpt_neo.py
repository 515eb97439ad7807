"""GPT-Neo: GPT-2's layout with windows in every other layer and unscaled products.

References:
  Black et al.: GPT-Neo, doi:10.5281/zenodo.5297715, 2021.
"""

from collections.abc import Mapping
from typing import Any

from jaxtl.core.errors import UserError
from jaxtl.models import causal_lm, config_values, layer_types
from jaxtl.models.config_table import ConfigTable, Key
from jaxtl.models.layers.embeddings import EmbeddingOptions
from jaxtl.models.layers.transformer import Block

_NAMES = {
    "root": "transformer.",
    "embeddings/token": "wte",
    "embeddings/position": "wpe",
    "layer": "h.{}",
    "attention_norm": "ln_1",
    "mlp_norm": "ln_2",
    "attention/query": "attn.attention.q_proj",
    "attention/key": "attn.attention.k_proj",
    "attention/value": "attn.attention.v_proj",
    "attention/out": "attn.attention.out_proj",
    "mlp/in": "mlp.c_fc",
    "mlp/out": "mlp.c_proj",
    "norm/norm": "ln_f",
    "next": "lm_head",
    "class": "score",
    "token": "classifier",
}


class GPTNeo(causal_lm.CausalLM):
    """Stages `embeddings, layer_0 … layer_{n−1}, norm, head`.

    Attributes:
      hidden: width inside the feed-forward layers; None takes 4 · width.
      activation: by name.
      window: local layers attend to tokens at a distance below it.
      layer_types: "sliding_attention" or "full_attention" for each layer; () begins
        with a full one and alternates.
      dropout: of each sublayer. (Attention weights have none.)
      embedding_dropout: after the embeddings.
    """

    context: int = 2048
    hidden: int | None = None
    activation: str = "gelu_tanh"
    window: int = 256
    layer_types: tuple[str, ...] = ()
    dropout: float = 0.0
    embedding_dropout: float = 0.0

    names = _NAMES
    buffers = (r".*\.attn\.attention\.(masked_)?bias",)

    def embedding_options(self, **options: Any) -> EmbeddingOptions:
        rate = self.embedding_dropout
        return super().embedding_options(positions="places", dropout=rate, **options)

    def block(self, layer: int) -> Block:
        layer_types.check(self.layer_types, self.layers, self.window)
        is_local = layer_types.has_window(layer, self.layer_types, lambda i: i % 2 > 0)
        return Block(
            heads=self.heads,
            hidden=self.hidden or 4 * self.width,
            activation=self.activation,
            epsilon=self.epsilon,
            window=self.window if is_local else None,
            scale=1.0,
            input_bias=False,
            dropout=self.dropout,
        )


def _expanded(key: str, value: Any) -> tuple[str, ...]:
    """`layer_types` of attention_types, e.g. [[["global", "local"], 12]]."""
    kinds = {"global": layer_types.FULL, "local": layer_types.SLIDING}
    try:
        names = [n for kind, number in value for _ in range(number) for n in kind]
        return tuple(kinds[name] for name in names)
    except (TypeError, ValueError, KeyError):
        raise UserError(
            f"config.json: {key} is {config_values.shown(value)}; expected pairs such "
            'as [["global", "local"], 12].'
        ) from None


CONFIG = ConfigTable(
    "gpt_neo",
    stem="GPTNeo",
    predicts=("class", "token", "span", "next"),
    honored={
        "vocab_size": Key("vocab", config_values.count),
        "hidden_size": Key("width", config_values.count),
        "num_layers": Key("layers", config_values.count),
        "num_heads": Key("heads", config_values.count),
        "max_position_embeddings": Key("context", config_values.count, 2048),
        "intermediate_size": Key("hidden", config_values.count, None),
        "window_size": Key("window", config_values.count, 256),
        "attention_types": Key("layer_types", _expanded, ()),
        "activation_function": Key("activation", config_values.activation, "gelu_tanh"),
        "layer_norm_epsilon": Key("epsilon", config_values.positive, 1e-5),
        "resid_dropout": Key("dropout", config_values.rate, 0.0),
        "embed_dropout": Key("embedding_dropout", config_values.rate, 0.0),
        "classifier_dropout": Key("head_dropout", config_values.rate, 0.1),
        "tie_word_embeddings": Key("tied", config_values.flag, True),
        "pad_token_id": Key("pad", config_values.padding, None),
    },
    harmless={
        "attention_dropout": "attention weights have no dropout here",
        "attention_layers": "attention_types, which is written too, decides",
        "is_decoder": "the model always attends to earlier tokens alone",
        **dict.fromkeys(
            (
                "summary_type",
                "summary_use_proj",
                "summary_activation",
                "summary_proj_to_labels",
                "summary_first_dropout",
            ),
            "a head of multiple choice, which is left out",
        ),
    },
    aliases={"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"},
)


def from_config(config: Mapping[str, Any], **fields: Any) -> GPTNeo:
    """Builds the model that a Hugging Face config.json of type "gpt_neo" describes.

    Raises:
      UserError: a key or a value that is not supported.
      KeyError: an entry that is missing.
    """
    return GPTNeo(**{**CONFIG.fields(config), **fields})
