"""Tokenizer and image processor of a directory for transformers, as a run used them."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxtl.data import images, tokenizer_settings
from jaxtl.data.preprocess import Preprocess
from jaxtl.data.tokenizer import Tokenizer

# Names of a special token, of which the first in the vocabulary is used.
_SPECIAL_TOKENS = {
    "pad_token": ("[PAD]", "<pad>"),
    "unk_token": ("[UNK]", "<unk>"),
    "cls_token": ("[CLS]",),
    "sep_token": ("[SEP]",),
    "mask_token": ("[MASK]", "<mask>"),
    "bos_token": ("<s>", "<|endoftext|>"),
    "eos_token": ("</s>", "<|endoftext|>"),
}
_RULES = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


def tokenizer_files(
    tokenizer: Tokenizer, like: pathlib.Path, has_segments: bool
) -> dict[str, dict[str, Any]]:
    """Content of tokenizer.json and tokenizer_config.json.

    The class is the general one, which takes all rules from tokenizer.json.

    Args:
      tokenizer: of the run.
      like: the directory of the pre-trained model, for the roles of special tokens.
      has_segments: whether the model has token types.
    """
    rules = json.loads(tokenizer.to_json())
    truncation = rules.pop("truncation") or {}
    rules |= {"truncation": None, "padding": None}
    vocabulary = {t["content"] for t in rules["added_tokens"]}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": truncation.get("max_length", tokenizer.max_length),
        "truncation_side": str(truncation.get("direction", "right")).lower(),
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        "model_input_names": [
            "input_ids",
            *(["token_type_ids"] if has_segments else []),
            "attention_mask",
        ],
    }
    normalizer = rules.get("normalizer") or {}
    if normalizer.get("type") == "BertNormalizer":
        config |= {key: normalizer.get(name) for key, name in _RULES.items()}
    roles = tokenizer_settings.read_settings(like).special
    for role, names in _SPECIAL_TOKENS.items():
        named = [roles[role].content] if role in roles else []
        token = next((n for n in (*named, *names) if n in vocabulary), None)
        if token is not None:
            config[role] = token
    return {"tokenizer.json": rules, "tokenizer_config.json": config}


def image_processor(pre: Preprocess) -> dict[str, Any]:
    """The content of preprocessor_config.json.

    Args:
      pre: of a run on images; white is 1 after its division by `scale`.
    """
    config: dict[str, Any] = {
        "image_processor_type": _image_class(pre),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_resize": pre.size is not None,
        "do_center_crop": pre.shortest is not None,
        "resample": images.RESAMPLING[pre.resample or "bilinear"],
        "do_normalize": pre.mean is not None or pre.std is not None,
        "image_mean": list(pre.mean or (0.0,) * len(pre.std or (1.0,))),
        "image_std": list(pre.std or (1.0,) * len(pre.mean or (0.0,))),
    }
    for name in ("image_mean", "image_std"):  # one number stands for every channel
        if len(config[name]) == 1:
            config[name] *= pre.channels or 3
    if pre.size is None:
        return config
    config["size"] = _height_and_width(pre.size)
    if pre.shortest is not None:
        config["crop_size"] = config["size"]
        is_stretched = isinstance(pre.shortest, tuple)
        config["size"] = (
            _height_and_width(pre.shortest)
            if is_stretched
            else {"shortest_edge": pre.shortest}
        )
    return config


def _image_class(pre: Preprocess) -> str:
    """A class of transformers with the steps of a preprocessing, in every version."""
    if pre.shortest is None:
        return "ViTImageProcessor"
    is_stretched = isinstance(pre.shortest, tuple)
    return "DeiTImageProcessor" if is_stretched else "CLIPImageProcessor"


def _height_and_width(size: tuple[int, int]) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}


def generation(config: Mapping[str, Any]) -> dict[str, Any]:
    """The content of generation_config.json of a language model's configuration."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {name: config[name] for name in names if config.get(name) is not None}
