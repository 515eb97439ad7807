"""GPT-2: a causal language model with learned positions and pre-normalized layers.

References:
  Radford et al.: Language Models are Unsupervised Multitask Learners, 2019.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from jaxtl.core.types import Tokens
from jaxtl.models import causal_lm, staged, weight_layout
from jaxtl.models.layers import sequences, transformer
from jaxtl.models.weight_layout import Rule, WeightLayout


class _GPT2Embeddings(nn.Module):
    """Token vectors plus position vectors, then dropout."""

    vocab: int
    width: int
    context: int
    dropout: float

    def setup(self) -> None:
        self.token = nn.Embed(self.vocab, self.width, embedding_init=transformer.INIT)
        self.position = nn.Embed(
            self.context, self.width, embedding_init=transformer.INIT
        )
        self.drop = staged.Dropout(self.dropout)

    def __call__(self, x: Mapping[str, Any], mode: staged.Mode) -> Tokens:
        ids, mask = sequences.token_inputs(x)
        sequences.check_length(ids.shape[1], self.context)
        states = self.embed(ids, sequences.token_positions(mask))
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
            self.heads, causal=True, fused=True, name="attention"
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
    """

    hidden: int | None = None
    activation: str = "gelu_tanh"
    dropout: float = 0.1

    def setup(self) -> None:
        transformer.check_heads(self.width, self.heads)
        embeddings = _GPT2Embeddings(self.vocab, self.width, self.context, self.dropout)
        self.add("embeddings", embeddings)
        hidden = self.hidden or 4 * self.width
        for i in range(self.layers):
            layer = _GPT2Layer(
                self.heads, hidden, self.epsilon, self.activation, self.dropout
            )
            self.add(f"layer_{i}", layer)
        self.add("norm", transformer.FinalNorm(self.epsilon, rms=False))
        self.add_head()

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
    unused = [rf"{name}\.weight" for name in heads.values()]
    # Older files store the causal masks as buffers.
    buffers = r".*\.attn\.(masked_)?bias"
    return WeightLayout(
        tuple(rules), ignored=(buffers, *unused), prefixes=("transformer.",)
    )


def from_config(config: Mapping[str, Any], **fields: Any) -> GPT2:
    """Builds the model that a Hugging Face config.json of type "gpt2" describes.

    Raises:
      KeyError: an entry that is missing.
    """
    return GPT2(
        **{
            "vocab": config["vocab_size"],
            "width": config["n_embd"],
            "layers": config["n_layer"],
            "heads": config["n_head"],
            "context": config["n_positions"],
            "hidden": config.get("n_inner"),
            "epsilon": config.get("layer_norm_epsilon", 1e-5),
            "activation": weight_layout.activation_name(
                config.get("activation_function", "gelu_new")
            ),
            "dropout": config.get("resid_pdrop", 0.1),
            "tied": config.get("tie_word_embeddings", True),
            **fields,
        }
    )
