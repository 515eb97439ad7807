"""Types of transformers that read texts, or images with texts, and their options."""

import dataclasses

from image_types import VIT, VIT_OPTIONS

VOCAB, CONTEXT, END, PAD = 20, 9, 17, 1


@dataclasses.dataclass(frozen=True)
class PairType:
    """One type.

    Attributes:
      model: transformers' class.
      base: entries that every configuration has; "text_config.x" is of the
        configuration that `text_config` holds.
      options: key -> values that are tried; the first is the usual one.
      outputs: name of ours, "" where it is the only one -> of transformers' output.
      dead: keys whose values change nothing of a pass in evaluation mode.
      groups: keys whose values vary together, value by value.
    """

    model: str
    base: dict
    options: dict
    outputs: dict
    dead: tuple = ()
    groups: tuple = ()


_TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": CONTEXT,
}
_TEXT_OPTIONS = {
    "vocab_size": [VOCAB, 25],
    "hidden_size": [8, 16],
    "num_hidden_layers": [2, 3],
    "num_attention_heads": [2, 4],
    "intermediate_size": [12, 5],
    "max_position_embeddings": [CONTEXT, 12],
    "layer_norm_eps": [0.1],
}
_CLIP_TEXT = {**_TEXT, "projection_dim": 6, "eos_token_id": END}
_CLIP_TEXT_OPTIONS = {
    **_TEXT_OPTIONS,
    "hidden_act": ["quick_gelu", "gelu", "relu"],
    "projection_dim": [6, 3],
    # 2 stands for the highest id of a text, which is another one in these texts
    "eos_token_id": [END, 2, 16],
}
_SIGLIP_TEXT_OPTIONS = {
    **_TEXT_OPTIONS,
    "hidden_act": ["gelu_pytorch_tanh", "gelu", "relu"],
    "projection_size": [None, 6],
    "pad_token_id": [PAD, 3],
}

_VISION_OPTIONS = {
    key: values
    for key, values in VIT_OPTIONS.items()
    if key not in ("hidden_act", "hidden_dropout_prob", "qkv_bias")
}


def _of(held: str, entries: dict) -> dict:
    return {f"{held}.{key}": value for key, value in entries.items()}


_EMBEDDINGS = {
    "image_embeddings": "image_embeds",
    "text_embeddings": "text_embeds",
    # the product of scale and similarities, and the bias
    "logits": "logits_per_image",
}
_SIGLIP_WIDTHS = ("vision_config.hidden_size", "text_config.projection_size")


TYPES = {
    "clip": PairType(
        "CLIPModel",
        {
            **_of("vision_config", VIT),
            **_of("text_config", {**_TEXT, "eos_token_id": END}),
        },
        {
            **_of("vision_config", _VISION_OPTIONS),
            "vision_config.hidden_act": ["quick_gelu", "gelu"],
            **_of("text_config", _CLIP_TEXT_OPTIONS),
            "projection_dim": [6, 3],
        },
        _EMBEDDINGS,
        # the configuration of both towers decides
        ("text_config.projection_dim",),
    ),
    "siglip": PairType(
        "SiglipModel",
        {**_of("vision_config", VIT), **_of("text_config", _TEXT)},
        {
            **_of("vision_config", _VISION_OPTIONS),
            "vision_config.hidden_act": ["gelu_pytorch_tanh", "gelu"],
            **_of("text_config", _SIGLIP_TEXT_OPTIONS),
            # the embeddings of both have one width
            "vision_config.hidden_size": [8, 16, 16],
            "text_config.projection_size": [8, 16, None],
            "text_config.hidden_size": [8, 8, 16],
        },
        _EMBEDDINGS,
        groups=((*_SIGLIP_WIDTHS, "text_config.hidden_size"),),
    ),
    "clip_text_model": PairType(
        "CLIPTextModelWithProjection",
        _CLIP_TEXT,
        _CLIP_TEXT_OPTIONS,
        {"": "text_embeds"},
    ),
    "siglip_text_model": PairType(
        "SiglipTextModel", _TEXT, _SIGLIP_TEXT_OPTIONS, {"": "pooler_output"}
    ),
}


def nested(entries: dict) -> dict:
    """The configuration of dotted keys."""
    config: dict = {}
    for key, value in entries.items():
        held, _, name = key.rpartition(".")
        (config.setdefault(held, {}) if held else config)[name] = value
    return config
