"""Gemma 1 to 3: Llama's layout with other norms, soft caps and alternating windows.

References:
  Gemma Team: Gemma, arXiv:2403.08295; Gemma 2, arXiv:2408.00118; Gemma 3,
  arXiv:2503.19786.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtl.core.errors import UserError
from jaxtl.models import config_values, layer_types, llama, rope_config
from jaxtl.models.config_table import ConfigTable, Key, Only
from jaxtl.models.layers.embeddings import EmbeddingOptions
from jaxtl.models.layers.rotary import RotaryPositions
from jaxtl.models.layers.transformer import Block

_NAMES = llama.NAMES | {
    "attention_out_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_out_norm": "post_feedforward_layernorm",
    "attention/query_norm": "self_attn.q_norm",
    "attention/key_norm": "self_attn.k_norm",
}


class Gemma(llama.Llama):
    """Stages `embeddings, layer_0 … layer_{n−1}, norm, head`."""

    tied: bool = True
    head_width: int | None = 256
    activation: str = "gelu_tanh"

    norm_kind = "rms_offset"

    def embedding_options(self, **options: Any) -> EmbeddingOptions:
        return super().embedding_options(scale=self.width**0.5, **options)


class Gemma2(Gemma):
    """Stages `embeddings, layer_0 … layer_{n−1}, norm, head`.

    Attributes:
      scale_width: products of queries and keys are divided by its square root.
      window: local layers attend to tokens at a distance below it.
      layer_types: "sliding_attention" or "full_attention" for each layer; () begins
        with a local layer and alternates.
      softcap: c of c · tanh(product / c) in attention; None for plain products.
      logit_softcap: likewise of the language model's logits.
    """

    scale_width: int = 256
    window: int | None = 4096
    layer_types: tuple[str, ...] = ()
    softcap: float | None = 50.0
    logit_softcap: float | None = 30.0

    names = _NAMES

    @property
    def final_softcap(self) -> float | None:
        return self.logit_softcap

    @property
    def period(self) -> int:
        """Every so many-th layer attends to all tokens."""
        return 2

    def is_local(self, layer: int) -> bool:
        """Whether a layer attends within the window.

        Args:
          layer: its index, from 0.

        Returns:
          As `layer_types` says; where it is empty, False for every `period`-th layer,
          the others True.

        Raises:
          UserError: `layer_types` of another length than `layers`, or without a window.
        """
        layer_types.check(self.layer_types, self.layers, self.window)
        return layer_types.has_window(
            layer, self.layer_types, lambda i: (i + 1) % self.period > 0
        )

    def block(self, layer: int) -> Block:
        return dataclasses.replace(
            super().block(layer),
            order="sandwich",
            scale=self.scale_width**-0.5,
            softcap=self.softcap,
            window=self.window if self.is_local(layer) else None,
        )


class Gemma3(Gemma2):
    """Stages `embeddings, layer_0 … layer_{n−1}, norm, head`.

    Attributes:
      rope_local_theta: base of the rotary wavelengths in local layers, which have no
        other setting.
      window_period: every so many-th layer attends to all tokens.
    """

    rope_theta: float = 1e6
    rope_local_theta: float = 10_000.0
    window_period: int = 6
    softcap: float | None = None
    logit_softcap: float | None = None

    @property
    def period(self) -> int:
        return self.window_period

    def block(self, layer: int) -> Block:
        block = dataclasses.replace(
            super().block(layer), qk_norm="rms_offset", softcap=None
        )
        if not self.is_local(layer):
            return block
        return dataclasses.replace(
            block, rope=RotaryPositions(theta=self.rope_local_theta)
        )


_positive = config_values.optional(config_values.positive)
_HARMLESS = {
    **llama.HARMLESS,
    "cache_implementation": "generation; the arguments of generate decide",
}
_ONLY = {
    "use_bidirectional_attention": Only(
        (False, None), "attention to later tokens; there is no such mask here"
    )
}
GEMMA_CONFIG = ConfigTable(
    "gemma",
    stem="Gemma",
    predicts=("class", "token", "next"),
    honored={
        **llama.HONORED,
        "num_key_value_heads": Key("kv_heads", config_values.count, 16),
        "head_dim": Key("head_width", config_values.count, 256),
        "hidden_act": Key("activation", config_values.activation, "gelu_tanh"),
        "max_position_embeddings": Key("context", config_values.count, 8192),
        "tie_word_embeddings": Key("tied", config_values.flag, True),
        "pad_token_id": Key("pad", config_values.optional(config_values.padding), 0),
        "attention_bias": Key("attention_bias", config_values.flag, False),
    },
    read_by_family=rope_config.KEYS,
    harmless={**_HARMLESS, "hidden_activation": "transformers reads hidden_act"},
    only=_ONLY,
)
_activation = {"hidden_activation": GEMMA_CONFIG.honored["hidden_act"]}
GEMMA2_CONFIG = dataclasses.replace(
    GEMMA_CONFIG,
    family="gemma2",
    stem="Gemma2",
    honored={
        **{k: v for k, v in GEMMA_CONFIG.honored.items() if k != "hidden_act"},
        **_activation,
        "num_key_value_heads": Key("kv_heads", config_values.count, 4),
        "query_pre_attn_scalar": Key("scale_width", config_values.count, 256),
        "sliding_window": Key(
            "window", config_values.optional(config_values.count), 4096
        ),
        "layer_types": Key("layer_types", config_values.layer_types, ()),
        "attn_logit_softcapping": Key("softcap", _positive, 50.0),
        "final_logit_softcapping": Key("logit_softcap", _positive, 30.0),
    },
    harmless={
        **_HARMLESS,
        "hidden_act": "transformers reads hidden_activation",
        "sliding_window_size": "transformers reads sliding_window",
    },
)
GEMMA3_CONFIG = dataclasses.replace(
    GEMMA2_CONFIG,
    family="gemma3_text",
    predicts=("class", "next"),
    classes={
        "class": "Gemma3TextForSequenceClassification",
        "next": "Gemma3ForCausalLM",
    },
    honored={
        **GEMMA2_CONFIG.honored,
        "max_position_embeddings": Key("context", config_values.count, 131_072),
        "attn_logit_softcapping": Key("softcap", _positive, None),
        "final_logit_softcapping": Key("logit_softcap", _positive, None),
        "sliding_window_pattern": Key("window_period", config_values.count, 6),
    },
    read_by_family=(*rope_config.KEYS, "rope_local_base_freq"),
    harmless={
        **GEMMA2_CONFIG.harmless,
        "_sliding_window_pattern": "layer_types, which is written too, decides",
    },
)


def _gemma3_rope(config: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
    """A config.json with the rotary positions of global layers alone, and θ of local.

    Newer files have both in rope_parameters, older ones the global ones at the top.

    Raises:
      UserError: local positions of another type than the default one.
    """
    config, rope = dict(config), config.get("rope_parameters") or {}
    theta = config.pop("rope_local_base_freq", 10_000.0)
    if set(rope) & {layer_types.SLIDING, layer_types.FULL}:
        local = rope.get(layer_types.SLIDING) or {}
        kind = local.get("rope_type", "default")
        if kind != "default":
            raise UserError(
                f"config.json: rope_parameters of {layer_types.SLIDING!r} has rope "
                f"type {kind!r}; expected 'default'."
            )
        theta = local.get("rope_theta", theta)
        config["rope_parameters"] = rope.get(layer_types.FULL)
    config["rope_theta"] = config.get("rope_theta") or 1e6
    return config, config_values.positive("rope_local_base_freq", theta)


def from_config(config: Mapping[str, Any], **fields: Any) -> Gemma:
    """Builds the model that a Hugging Face config.json of one of these types describes.

    Raises:
      UserError: a key or a value that is not supported.
      KeyError: an entry that is missing.
    """
    if config["model_type"] == "gemma3_text":
        config, theta = _gemma3_rope(config)
        entries = rope_config.with_rope(GEMMA3_CONFIG, config)
        return Gemma3(**{**entries, "rope_local_theta": theta, **fields})
    if config["model_type"] == "gemma2":
        return Gemma2(**{**rope_config.with_rope(GEMMA2_CONFIG, config), **fields})
    if config.get("hidden_act") == "gelu":  # as in transformers: a note of old files
        config = {**config, "hidden_act": "gelu_pytorch_tanh"}
    return Gemma(**{**rope_config.with_rope(GEMMA_CONFIG, config), **fields})
