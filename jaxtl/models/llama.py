"""Llama-layout decoders: RMSNorm, rotary positions, grouped queries, SwiGLU.

References:
  Touvron et al.: LLaMA, arXiv:2302.13971; Llama 2, arXiv:2307.09288.
"""

import json
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from jaxtl.core.errors import UserError
from jaxtl.core.types import Tokens
from jaxtl.models import causal_lm, weight_layout
from jaxtl.models.layers import sequences, transformer
from jaxtl.models.staged import Mode
from jaxtl.models.weight_layout import Rule, WeightLayout


class _LlamaEmbeddings(nn.Module):
    """The table of token vectors."""

    vocab: int
    width: int
    context: int

    def setup(self) -> None:
        self.token = nn.Embed(self.vocab, self.width, embedding_init=transformer.INIT)

    def __call__(self, x: Mapping[str, Any], mode: Mode) -> Tokens:
        ids, mask = sequences.token_inputs(x)
        sequences.check_length(ids.shape[1], self.context)
        return Tokens(self.token(ids), mask)

    def embed(self, ids: jax.Array, positions: jax.Array) -> jax.Array:
        """Vectors of tokens, (batch, length, width); positions are not used."""
        return self.token(ids)


class _LlamaLayer(nn.Module):
    """x + attention(norm(x)), then x + swiglu(norm(x))."""

    heads: int
    kv_heads: int
    hidden: int
    epsilon: float
    rope: transformer.RotaryPositions
    head_width: int | None
    activation: str

    @nn.compact
    def run(
        self,
        x: jax.Array,
        mask: jax.Array,
        mode: Mode,
        step: transformer.DecodingStep | None = None,
        cache: transformer.KeyValueCache | None = None,
    ) -> tuple[jax.Array, transformer.KeyValueCache | None]:
        """The layer's output and its new cache; see `transformer.Attention`."""
        attention = transformer.Attention(
            self.heads,
            self.kv_heads,
            self.head_width,
            causal=True,
            bias=False,
            rope=self.rope,
            name="attention",
        )
        y = transformer.rms_norm(self.epsilon, "attention_norm")(x)
        y, cache = attention(y, mask, step, cache)
        x = x + y
        mlp = transformer.FeedForward(
            self.hidden, self.activation, bias=False, gated=True, name="mlp"
        )
        return x + mlp(transformer.rms_norm(self.epsilon, "mlp_norm")(x)), cache

    def __call__(self, tokens: Tokens, mode: Mode) -> Tokens:
        return Tokens(self.run(*tokens, mode)[0], tokens.mask)


class Llama(causal_lm.CausalLM):
    """Stages `embeddings, layer_0 … layer_{n−1}, norm, head`.

    Attributes:
      kv_heads: key and value heads; None takes `heads`.
      hidden: width inside the feed-forward layers.
      head_width: features per head; None takes width / heads.
      rope_theta: base of the rotary wavelengths.
      rope_pairs: rotate neighboring features (llama2.c) in place of halves.
      activation: of the gate.
    """

    vocab: int = 32_000
    width: int = 4096
    layers: int = 32
    heads: int = 32
    context: int = 2048
    tied: bool = False
    kv_heads: int | None = None
    hidden: int = 11_008
    head_width: int | None = None
    rope_theta: float = 10_000.0
    rope_pairs: bool = False
    activation: str = "silu"

    @property
    def kv_shape(self) -> tuple[int, int]:
        size = self.head_width or self.width // self.heads
        return self.kv_heads or self.heads, size

    def setup(self) -> None:
        if self.head_width is None:
            transformer.check_heads(self.width, self.heads)
        transformer.check_heads(self.heads * 2, self.heads, self.kv_heads)
        self.add("embeddings", _LlamaEmbeddings(self.vocab, self.width, self.context))
        rope = transformer.RotaryPositions(theta=self.rope_theta, pairs=self.rope_pairs)
        for i in range(self.layers):
            layer = _LlamaLayer(
                self.heads,
                self.kv_heads or self.heads,
                self.hidden,
                self.epsilon,
                rope,
                self.head_width,
                self.activation,
            )
            self.add(f"layer_{i}", layer)
        self.add("norm", transformer.FinalNorm(self.epsilon, rms=True))
        self.add_head()

    def layouts(self) -> dict[str, WeightLayout]:
        return {
            "hf": _layout(self, _HF_NAMES),
            "llama2.c": _layout(self, _LLAMA2C_NAMES),
        }


# Paths of modules -> their names in the two layouts.
_HF_NAMES = {
    "embeddings/token": "model.embed_tokens",
    "layer": "model.layers.{}",
    "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj",
    "attention/value": "self_attn.v_proj",
    "attention/out": "self_attn.o_proj",
    "attention_norm": "input_layernorm",
    "mlp/gate": "mlp.gate_proj",
    "mlp/in": "mlp.up_proj",
    "mlp/out": "mlp.down_proj",
    "mlp_norm": "post_attention_layernorm",
    "norm/norm": "model.norm",
    "next": "lm_head",
    "class": "score",
}
_LLAMA2C_NAMES = {
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
}


def _layout(model: Llama, names: Mapping[str, str]) -> WeightLayout:
    """The layout with these names of the modules."""
    table = f"{names['embeddings/token']}.weight"
    rules = [Rule(table, "embeddings/token/embedding")]
    for i in range(model.layers):
        for part, name in names.items():
            source, path = f"{names['layer'].format(i)}.{name}", f"layer_{i}/{part}"
            if part.startswith(("attention/", "mlp/")):
                rules += weight_layout.linear(source, path, bias=False)
            elif part in ("attention_norm", "mlp_norm"):
                rules.append(Rule(f"{source}.weight", f"{path}/scale"))
    rules.append(Rule(f"{names['norm/norm']}.weight", "norm/norm/scale"))
    if model.predict == "class" or not model.tied:
        rules += weight_layout.linear(names[model.predict], "head/dense", bias=False)
    # Rotary tables are computed; a head of the other kind has no place here.
    other_head = names["class" if model.predict == "next" else "next"]
    unused = [rf"{other_head}\.weight"]
    if model.predict == "next" and model.tied:
        unused.append(rf"{names['next']}\.weight")
    return WeightLayout(
        tuple(rules),
        ignored=(r".*rotary_emb\.inv_freq", *unused),
        prefixes=("model.",),
    )


def from_config(config: Mapping[str, Any], **fields: Any) -> Llama:
    """Builds the model that a Hugging Face config.json of type "llama" describes.

    Raises:
      UserError: scaled rotary positions, or layers with biases.
      KeyError: an entry that is missing.
    """
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UserError(
            f"config.json: rope type {kind!r} is not supported (only 'default')."
        )
    if config.get("attention_bias") or config.get("mlp_bias"):
        raise UserError("config.json: Llama layers with biases are not supported.")
    theta = rope.get("rope_theta", config.get("rope_theta", 10_000.0))
    return Llama(
        **{
            "vocab": config["vocab_size"],
            "width": config["hidden_size"],
            "layers": config["num_hidden_layers"],
            "heads": config["num_attention_heads"],
            "kv_heads": config.get("num_key_value_heads"),
            "head_width": config.get("head_dim"),
            "hidden": config["intermediate_size"],
            "context": config.get("max_position_embeddings", 2048),
            "epsilon": config.get("rms_norm_eps", 1e-6),
            "tied": config.get("tie_word_embeddings", False),
            "rope_theta": theta,
            **fields,
        }
    )


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
