"""GPT-2: a causal language model with learned positions and pre-normalized layers.

References:
  Radford et al.: Language Models are Unsupervised Multitask Learners, 2019.
"""

from collections.abc import Mapping
from typing import Any

from jaxtl.models import causal_lm, config_values
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
    "attention/qkv": "attn.c_attn",
    "attention/out": "attn.c_proj",
    "mlp/in": "mlp.c_fc",
    "mlp/out": "mlp.c_proj",
    "norm/norm": "ln_f",
    "next": "lm_head",
    "class": "score",
    "token": "classifier",
}


class GPT2(causal_lm.CausalLM):
    """Stages `embeddings, layer_0 … layer_{n−1}, norm, head`.

    Attributes:
      hidden: width inside the feed-forward layers; None takes 4 · width.
      activation: by name; GPT-2's is the tanh form of GELU.
      dropout: after the embeddings and each sublayer. (Attention weights have none.)
      embedding_dropout: after the embeddings; None takes `dropout`.
      scale_by_width: divide the products of queries and keys by √head width.
      scale_by_layer: divide them by the number of the layer, the first being 1.
    """

    hidden: int | None = None
    activation: str = "gelu_tanh"
    dropout: float = 0.1
    embedding_dropout: float | None = None
    scale_by_width: bool = True
    scale_by_layer: bool = False

    transform = "same"  # Conv1D kernels are (in, out)
    buffers = (r".*\.attn\.(masked_)?bias",)  # causal masks of older files
    names = _NAMES

    def embedding_options(self, **options: Any) -> EmbeddingOptions:
        rate = self.embedding_dropout
        rate = self.dropout if rate is None else rate
        return super().embedding_options(positions="places", dropout=rate, **options)

    def block(self, layer: int) -> Block:
        scale = (self.width // self.heads) ** -0.5 if self.scale_by_width else 1.0
        return Block(
            heads=self.heads,
            hidden=self.hidden or 4 * self.width,
            activation=self.activation,
            epsilon=self.epsilon,
            fused="parts",
            scale=scale / (layer + 1) if self.scale_by_layer else scale,
            dropout=self.dropout,
        )


CONFIG = ConfigTable(
    "gpt2",
    stem="GPT2",
    predicts=("class", "token", "span", "next"),
    classes={"next": "GPT2LMHeadModel"},
    honored={
        "vocab_size": Key("vocab", config_values.count),
        "n_embd": Key("width", config_values.count),
        "n_layer": Key("layers", config_values.count),
        "n_head": Key("heads", config_values.count),
        "n_positions": Key("context", config_values.count),
        "n_inner": Key("hidden", config_values.count, None),
        "layer_norm_epsilon": Key("epsilon", config_values.positive, 1e-5),
        "activation_function": Key("activation", config_values.activation, "gelu_tanh"),
        "resid_pdrop": Key("dropout", config_values.rate, 0.1),
        "embd_pdrop": Key("embedding_dropout", config_values.rate, 0.1),
        "tie_word_embeddings": Key("tied", config_values.flag, True),
        "classifier_dropout": Key("head_dropout", config_values.rate, 0.1),
        "pad_token_id": Key("pad", config_values.padding, None),
        "scale_attn_weights": Key("scale_by_width", config_values.flag, True),
        "scale_attn_by_inverse_layer_idx": Key(
            "scale_by_layer", config_values.flag, False
        ),
    },
    harmless={
        "attn_pdrop": "attention weights have no dropout here",
        "reorder_and_upcast_attn": "the same products in another order",
        **dict.fromkeys(
            ("n_special", "predict_special_tokens"), "transformers reads it nowhere"
        ),
        "is_decoder": "the model always attends to earlier tokens alone",
        "add_cross_attention": "another model's states are never given",
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
    # n_ctx is an older name.
    aliases={
        "n_ctx": "n_positions",
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
)


def from_config(config: Mapping[str, Any], **fields: Any) -> GPT2:
    """Builds the model that a Hugging Face config.json of type "gpt2" describes.

    Raises:
      UserError: a key or a value that is not supported.
      KeyError: an entry that is missing.
    """
    return GPT2(**{**CONFIG.fields(config), **fields})
