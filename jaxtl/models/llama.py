"""Llama-layout decoders: RMSNorm, rotary positions, grouped queries, SwiGLU.

References:
  Touvron et al.: LLaMA, arXiv:2302.13971; Llama 2, arXiv:2307.09288.
"""

import json
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from jaxtl.core.types import Tokens
from jaxtl.models import causal_lm, config_values, rope_config, weight_layout
from jaxtl.models.config_table import ConfigTable, Key, Only
from jaxtl.models.layers import sequences, transformer
from jaxtl.models.staged import Mode
from jaxtl.models.weight_layout import Rule, WeightLayout


class _LlamaEmbeddings(nn.Module):
    """The table of token vectors."""

    vocab: int
    width: int
    context: int
    pad: int | None

    def setup(self) -> None:
        self.token = nn.Embed(self.vocab, self.width, embedding_init=transformer.INIT)

    def __call__(self, x: Mapping[str, Any], mode: Mode) -> Tokens:
        ids, mask = sequences.token_inputs(x, sequences.id_sizes(self.vocab), self.pad)
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
    attention_bias: bool
    mlp_bias: bool

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
            bias=self.attention_bias,
            rope=self.rope,
            name="attention",
        )
        y = transformer.rms_norm(self.epsilon, "attention_norm")(x)
        y, cache = attention(y, mask, step, cache)
        x = x + y
        mlp = transformer.FeedForward(
            self.hidden, self.activation, self.mlp_bias, gated=True, name="mlp"
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
      rope_factor: rotary frequencies are divided by it.
      rope_bands, rope_ramp: frequencies that `rope_factor` applies to, see
        `RotaryPositions`.
      rope_scale: factor of rotated queries and keys.
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
    hidden: int = 11_008
    head_width: int | None = None
    rope_theta: float = 10_000.0
    rope_pairs: bool = False
    rope_factor: float = 1.0
    rope_bands: tuple[float, ...] = ()
    rope_ramp: tuple[float, ...] = ()
    rope_scale: float = 1.0
    activation: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False

    @property
    def kv_shape(self) -> tuple[int, int]:
        size = self.head_width or self.width // self.heads
        return self.kv_heads or self.heads, size

    def setup(self) -> None:
        if self.head_width is None:
            transformer.check_heads(self.width, self.heads)
        transformer.check_heads(self.heads * 2, self.heads, self.kv_heads)
        embeddings = _LlamaEmbeddings(
            self.vocab, self.width, self.context, self.padding
        )
        self.add("embeddings", embeddings)
        rope = transformer.RotaryPositions(
            theta=self.rope_theta,
            pairs=self.rope_pairs,
            factor=self.rope_factor,
            bands=tuple(self.rope_bands),
            ramp=tuple(self.rope_ramp),
            scale=self.rope_scale,
        )
        for i in range(self.layers):
            layer = _LlamaLayer(
                self.heads,
                self.kv_heads or self.heads,
                self.hidden,
                self.epsilon,
                rope,
                self.head_width,
                self.activation,
                self.attention_bias,
                self.mlp_bias,
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
                attention = part.startswith("attention/")
                bias = model.attention_bias if attention else model.mlp_bias
                rules += weight_layout.linear(source, path, bias)
            elif part in ("attention_norm", "mlp_norm"):
                rules.append(Rule(f"{source}.weight", f"{path}/scale"))
    rules.append(Rule(f"{names['norm/norm']}.weight", "norm/norm/scale"))
    if model.predict == "class" or not model.tied:
        rules += weight_layout.linear(names[model.predict], "head/dense", bias=False)
    # Rotary tables are computed; heads of other tasks have no place here.
    heads, copies = [names["class"], names["next"], "qa_outputs"], {}
    heads.remove(names[model.predict])
    if model.predict == "next" and model.tied:
        copies = {f"{names['next']}.weight": "embeddings/token/embedding"}
    unused = [rf"{name}\.(weight|bias)" for name in heads]
    return WeightLayout(
        tuple(rules),
        ignored=(r".*rotary_emb\.inv_freq",),
        unused=tuple(unused),
        prefixes=("module.", "model.", "transformer."),
        copies=copies,
    )


CONFIG = ConfigTable(
    "llama",
    honored={
        "vocab_size": Key("vocab", config_values.count),
        "hidden_size": Key("width", config_values.count),
        "num_hidden_layers": Key("layers", config_values.count),
        "num_attention_heads": Key("heads", config_values.count),
        "num_key_value_heads": Key("kv_heads", config_values.count, None),
        "head_dim": Key("head_width", config_values.count, None),
        "intermediate_size": Key("hidden", config_values.count),
        "max_position_embeddings": Key("context", config_values.count, 2048),
        "rms_norm_eps": Key("epsilon", config_values.positive, 1e-6),
        "hidden_act": Key("activation", config_values.activation, "silu"),
        "tie_word_embeddings": Key("tied", config_values.flag, False),
        "pad_token_id": Key("pad", config_values.padding, None),
        "attention_bias": Key("attention_bias", config_values.flag, False),
        "mlp_bias": Key("mlp_bias", config_values.flag, False),
    },
    read_by_family=(
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "partial_rotary_factor",
        "original_max_position_embeddings",
    ),
    harmless={
        "attention_dropout": "attention weights have no dropout here",
        "pretraining_tp": "the same products in slices",
        "is_decoder": "the model always attends to earlier tokens alone",
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
    entries = CONFIG.fields(config)
    width = entries["head_width"] or entries["width"] // entries["heads"]
    rope = rope_config.fields(config, entries["context"], width)
    return Llama(**{**entries, **rope, **fields})


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
