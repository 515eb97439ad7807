"""GPT-2: a causal language model with learned positions and pre-normalized layers.

References:
  Radford et al.: Language Models are Unsupervised Multitask Learners, 2019.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.core.types import Tokens
from jaxtl.models import causal_lm, config_values, staged, weight_layout
from jaxtl.models.config_table import ConfigTable, Key
from jaxtl.models.layers import sequences, transformer
from jaxtl.models.weight_layout import Rule, WeightLayout


class _GPT2Embeddings(nn.Module):
    """Token vectors plus position vectors, then dropout."""

    vocab: int
    width: int
    context: int
    dropout: float
    pad: int | None

    def setup(self) -> None:
        self.token = nn.Embed(self.vocab, self.width, embedding_init=transformer.INIT)
        self.position = nn.Embed(
            self.context, self.width, embedding_init=transformer.INIT
        )
        self.drop = staged.Dropout(self.dropout)

    def __call__(self, x: Mapping[str, Any], mode: staged.Mode) -> Tokens:
        ids, mask = sequences.token_inputs(x, sequences.id_sizes(self.vocab), self.pad)
        sequences.check_length(ids.shape[1], self.context)
        # As in transformers, where all places count; generation counts real tokens.
        states = self.embed(ids, jnp.arange(ids.shape[1])[None])
        return Tokens(self.drop(states, mode), mask)

    def embed(self, ids: jax.Array, positions: jax.Array) -> jax.Array:
        """Vectors of tokens at these positions, (batch, length, width)."""
        return self.token(ids) + self.position(positions)


class _GPT2Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    heads: int
    hidden: int
    epsilon: float
    activation: str
    dropout: float
    scale: float

    @nn.compact
    def run(
        self,
        x: jax.Array,
        mask: jax.Array,
        mode: staged.Mode,
        step: transformer.DecodingStep | None = None,
        cache: transformer.KeyValueCache | None = None,
    ) -> tuple[jax.Array, transformer.KeyValueCache | None]:
        """The layer's output and its new cache; see `transformer.Attention`."""
        attention = transformer.Attention(
            self.heads, causal=True, fused=True, scale=self.scale, name="attention"
        )
        y = transformer.layer_norm(self.epsilon, "attention_norm")(x)
        y, cache = attention(y, mask, step, cache)
        x = x + staged.Dropout(self.dropout, name="dropout1")(y, mode)
        y = transformer.layer_norm(self.epsilon, "mlp_norm")(x)
        y = transformer.FeedForward(self.hidden, self.activation, name="mlp")(y)
        return x + staged.Dropout(self.dropout, name="dropout2")(y, mode), cache

    def __call__(self, tokens: Tokens, mode: staged.Mode) -> Tokens:
        return Tokens(self.run(*tokens, mode)[0], tokens.mask)


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

    def setup(self) -> None:
        transformer.check_heads(self.width, self.heads)
        dropout = self.embedding_dropout
        dropout = self.dropout if dropout is None else dropout
        embeddings = _GPT2Embeddings(
            self.vocab, self.width, self.context, dropout, self.padding
        )
        self.add("embeddings", embeddings)
        hidden = self.hidden or 4 * self.width
        for i in range(self.layers):
            layer = _GPT2Layer(
                self.heads,
                hidden,
                self.epsilon,
                self.activation,
                self.dropout,
                self._attention_scale(i),
            )
            self.add(f"layer_{i}", layer)
        self.add("norm", transformer.FinalNorm(self.epsilon, rms=False))
        self.add_head()

    def _attention_scale(self, layer: int) -> float:
        """Factor of the products of queries and keys in the layer of this index."""
        scale = (self.width // self.heads) ** -0.5 if self.scale_by_width else 1.0
        return scale / (layer + 1) if self.scale_by_layer else scale

    def layouts(self) -> dict[str, WeightLayout]:
        return {"hf": _hf_layout(self)}


# Paths of dense layers within a layer -> their names in transformers, whose Conv1D
# kernels are (in, out) like ours.
_DENSE_NAMES = {
    "attention/qkv": "attn.c_attn",
    "attention/out": "attn.c_proj",
    "mlp/in": "mlp.c_fc",
    "mlp/out": "mlp.c_proj",
}


def _hf_layout(model: GPT2) -> WeightLayout:
    """The naming of transformers."""
    rules = [
        Rule("transformer.wte.weight", "embeddings/token/embedding"),
        Rule("transformer.wpe.weight", "embeddings/position/embedding"),
    ]
    for i in range(model.layers):
        source, path = f"transformer.h.{i}", f"layer_{i}"
        rules += weight_layout.norm(f"{source}.ln_1", f"{path}/attention_norm")
        rules += weight_layout.norm(f"{source}.ln_2", f"{path}/mlp_norm")
        for part, name in _DENSE_NAMES.items():
            rules += [
                Rule(f"{source}.{name}.weight", f"{path}/{part}/kernel"),
                Rule(f"{source}.{name}.bias", f"{path}/{part}/bias"),
            ]
    rules += weight_layout.norm("transformer.ln_f", "norm/norm")
    heads = {"next": "lm_head", "class": "score"}
    if model.predict == "class" or not model.tied:
        head = heads.pop(model.predict)
        rules += weight_layout.linear(head, "head/dense", bias=False)
    copies = {}
    if model.predict == "next" and model.tied:
        copies = {f"{heads.pop('next')}.weight": "embeddings/token/embedding"}
    # Heads of other tasks, and attention to another model's states.
    unused = [rf"{name}\.(weight|bias)" for name in heads.values()]
    unused += [
        r"(classifier|qa_outputs)\.(weight|bias)",
        r"multiple_choice_head\..*",
        r".*\.(crossattention|ln_cross_attn)\..*",
    ]
    # Older files store the causal masks as buffers.
    buffers = r".*\.attn\.(masked_)?bias"
    return WeightLayout(
        tuple(rules),
        ignored=(buffers,),
        unused=tuple(unused),
        prefixes=("module.", "transformer."),
        copies=copies,
    )


CONFIG = ConfigTable(
    "gpt2",
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
        "pad_token_id": Key("pad", config_values.padding, None),
        "scale_attn_weights": Key("scale_by_width", config_values.flag, True),
        "scale_attn_by_inverse_layer_idx": Key(
            "scale_by_layer", config_values.flag, False
        ),
    },
    harmless={
        "attn_pdrop": "attention weights have no dropout here",
        "reorder_and_upcast_attn": "the same products in another order",
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
