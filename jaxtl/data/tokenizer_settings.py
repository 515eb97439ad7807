"""The settings of a tokenizer's directory: what transformers would do with a text.

tokenizer_config.json, special_tokens_map.json and added_tokens.json of transformers,
sentence_bert_config.json of sentence-transformers, and `model_type` of config.json.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxtl.core import key_table, text_files
from jaxtl.core.errors import UserError
from jaxtl.core.key_table import KeyTable

_SPECIAL_TOKENS = (
    "unk_token",
    "cls_token",
    "sep_token",
    "bos_token",
    "eos_token",
    "pad_token",
    "mask_token",
)
BERT_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
ROBERTA_TOKENS = {
    "cls_token": "<s>",
    "sep_token": "</s>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
CLIP_TOKENS = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
GPT2_TOKENS = dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>")
_TOKEN_LISTS = ("additional_special_tokens", "extra_special_tokens")

CONFIG = KeyTable(
    "tokenizer_config.json",
    honored=(
        *_SPECIAL_TOKENS,
        *_TOKEN_LISTS,
        "tokenizer_class",
        "do_lower_case",
        "strip_accents",
        "tokenize_chinese_chars",
        "add_prefix_space",
        "add_bos_token",
        "add_eos_token",
        "added_tokens_decoder",
        "truncation_side",
        "model_max_length",
        "max_len",
        "model_input_names",
    ),
    harmless={
        "padding is masked: a text's output is that of the text alone": (
            "padding_side",
            "pad_to_multiple_of",
            "pad_token_type_id",
        ),
        "Tokenizer.max_length and its truncation decide": (
            "max_length",
            "stride",
            "truncation_strategy",
        ),
        "for ids that are turned back into text": (
            "clean_up_tokenization_spaces",
            "errors",
            "spaces_between_special_tokens",
        ),
        "for positions within the text, which are not used": ("trim_offsets",),
        "for conversations; texts are taken as they are": (
            "chat_template",
            "use_default_system_prompt",
        ),
        "a note on origin, or on which files and classes to load": (
            "backend",
            "name_or_path",
            "tokenizer_file",
            "vocab_file",
            "merges_file",
            "special_tokens_map_file",
            "processor_class",
            "use_fast",
            "is_local",
            "local_files_only",
            "transformers_version",
            "max_model_input_sizes",
            "init_inputs",
        ),
        "tokenizer.json holds the rule": ("legacy", "sp_model_kwargs", "vocab_type"),
        "names of tokens, which are among the added ones": (
            "boi_token",
            "eoi_token",
            "image_token",
        ),
    },
    only={
        "do_basic_tokenize": (True,),
        "do_split_on_punc": (True,),
        "split_by_punct": (False,),
        "keep_accents": (False,),
        "remove_space": (True,),
        "never_split": ([],),
        "wordpieces_prefix": ("##",),
        "split_special_tokens": (False,),
        "model_specific_special_tokens": ({},),
    },
)
SPECIAL_TOKENS_MAP = KeyTable(
    "special_tokens_map.json", honored=(*_SPECIAL_TOKENS, *_TOKEN_LISTS)
)
# The `tokenizers` library does what these parts say.
TOKENIZER = KeyTable(
    "tokenizer.json",
    honored=(
        "truncation",
        "added_tokens",
        "normalizer",
        "pre_tokenizer",
        "post_processor",
        "decoder",
        "model",
    ),
    harmless={
        "the form of the file": ("version",),
        "padding is masked: a text's output is that of the text alone": ("padding",),
    },
)
SENTENCE_ENCODER = KeyTable(
    "sentence_bert_config.json",
    honored=("max_seq_length", "do_lower_case"),
    harmless={
        "a note on classes to load": ("transformer_task", "unpad_inputs"),
        "the head reads the token states": ("module_output_name",),
    },
    only={
        "modality_config": (
            {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        ),
        "method_output_name": ("last_hidden_state",),
    },
)
# Notes of sentence-transformers on how texts are encoded.
ENCODING = KeyTable(
    "config_sentence_transformers.json",
    harmless={
        "a note on versions and on the kind of model": ("__version__", "model_type"),
        "prompts that a caller may choose": ("prompts",),
        "compares embeddings": ("similarity_fn_name",),
    },
    only={"default_prompt_name": (None,), "truncate_dim": (None,)},
)
_MODEL_KINDS = {
    "bert": "bert",
    "roberta": "roberta",
    "gpt2": "gpt2",
    "clip": "clip",
    "clip_text_model": "clip",
    "siglip": "siglip",
    "siglip_text_model": "siglip",
    "siglip2": "siglip2",
    "siglip2_text_model": "siglip2",
}
_CLASS_KINDS = {
    "Bert": "bert",
    "Roberta": "roberta",
    "GPT2": "gpt2",
    "CLIP": "clip",
    "Siglip": "siglip",
    "Siglip2": "siglip2",
}


@dataclasses.dataclass(frozen=True)
class Token:
    """A token that is matched as a whole, in the raw text.

    Attributes:
      content: its text.
      id: its number, None where the vocabulary has it.
      flags: "lstrip", "rstrip", "single_word", "normalized", "special", as the
        `tokenizers` library has them.
    """

    content: str
    id: int | None
    flags: Mapping[str, bool]


@dataclasses.dataclass(frozen=True)
class TokenizerSettings:
    """What a directory says of its tokenizer; None where it says nothing.

    Attributes:
      path: the directory's tokenizer_config.json, for messages.
      kind: a value of `_CLASS_KINDS`; None for others.
      lower: lower-case.
      strip_accents: None follows `lower`.
      chinese: cut between Chinese characters.
      prefix_space: put a space in front of a text.
      add_bos, add_eos: put the token in front of, or behind, a text.
      truncation_side: the end that is cut, "left" or "right".
      max_length: most tokens of a text.
      segments: whether the model gets token types.
      lower_first: lower-case before anything else (sentence-transformers).
      special: role ("cls_token", …) -> token.
      added: further tokens.
    """

    path: pathlib.Path
    kind: str | None = None
    lower: bool | None = None
    strip_accents: bool | None = None
    chinese: bool | None = None
    prefix_space: bool | None = None
    add_bos: bool | None = None
    add_eos: bool | None = None
    truncation_side: str | None = None
    max_length: int | None = None
    segments: bool = True
    lower_first: bool = False
    special: Mapping[str, Token] = dataclasses.field(default_factory=dict)
    added: tuple[Token, ...] = ()


def read_settings(folder: pathlib.Path) -> TokenizerSettings:
    """Reads the settings beside a vocabulary; none of the files need exist.

    Raises:
      UserError: a file that is no JSON, a key or a value that is not supported.
    """
    path = folder / CONFIG.file
    config, encoder = _content(folder, CONFIG), _content(folder, SENTENCE_ENCODER)
    _content(folder, ENCODING)  # a prompt in front of each text is refused
    tokens = {**_content(folder, SPECIAL_TOKENS_MAP), **config}
    side = tokens.get("truncation_side")
    if side not in (None, "left", "right"):
        raise UserError(
            f"{path}: truncation_side is {key_table.shown(side)}; expected 'left' or "
            "'right'."
        )
    names = config.get("model_input_names") or ["token_type_ids"]

    def flag(name: str) -> bool | None:
        return key_table.flag(config, name, path)

    return TokenizerSettings(
        path=path,
        kind=_kind(folder, config),
        lower=flag("do_lower_case"),
        strip_accents=flag("strip_accents"),
        chinese=flag("tokenize_chinese_chars"),
        prefix_space=flag("add_prefix_space"),
        add_bos=flag("add_bos_token"),
        add_eos=flag("add_eos_token"),
        truncation_side=side,
        max_length=_shortest(path, config, encoder),
        segments="token_type_ids" in names,
        lower_first=bool(encoder.get("do_lower_case")),
        special=_special_tokens(tokens),
        added=_added_tokens(folder, path, tokens),
    )


def _content(folder: pathlib.Path, table: KeyTable) -> dict[str, Any]:
    """The checked content of a file, {} where there is none."""
    content = read_json(folder / table.file)
    table.check(content, folder / table.file)
    return content


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The object in a JSON file, {} where there is no file.

    Raises:
      UserError: the file is no JSON, or holds no object.
    """
    if not path.is_file():
        return {}
    return text_files.read_json(path, owner="Tokenizer.path")


def _kind(folder: pathlib.Path, config: Mapping[str, Any]) -> str | None:
    """The kind of tokenizer, by its class or else by the model's type."""
    name = config.get("tokenizer_class")
    if name:
        name = str(name).removesuffix("Fast").removesuffix("Tokenizer")
        return _CLASS_KINDS.get(name)
    return _MODEL_KINDS.get(read_json(folder / "config.json").get("model_type", ""))


def _shortest(
    path: pathlib.Path, config: Mapping[str, Any], encoder: Mapping[str, Any]
) -> int | None:
    """The smallest of the limits on a text's length, None without any."""
    limits = [config.get("model_max_length"), config.get("max_len")]
    limits = [v for v in (*limits, encoder.get("max_seq_length")) if v is not None]
    for limit in limits:
        is_number = isinstance(limit, int | float) and not isinstance(limit, bool)
        if not is_number or limit < 1:
            raise UserError(
                f"{path}: model_max_length is {key_table.shown(limit)}; expected a "
                "positive number of tokens."
            )
    shortest = min(limits, default=None)
    # transformers writes 10³⁰ where there is no limit.
    return int(shortest) if shortest is not None and shortest < 1e9 else None


def _token(value: Any, id: int | None = None) -> Token:
    """A token from its text, or from the dict of its text and flags."""
    if isinstance(value, str):
        return Token(value, id, {"special": True, "normalized": False})
    names = ("lstrip", "rstrip", "single_word", "normalized", "special")
    flags = {name: bool(value[name]) for name in names if name in value}
    if id is None:
        flags = {**flags, "special": True, "normalized": False}
    return Token(value["content"], id, flags)


def _special_tokens(tokens: Mapping[str, Any]) -> dict[str, Token]:
    return {role: _token(tokens[role]) for role in _SPECIAL_TOKENS if tokens.get(role)}


def _added_tokens(
    folder: pathlib.Path, path: pathlib.Path, tokens: Mapping[str, Any]
) -> tuple[Token, ...]:
    """Tokens beside the vocabulary's, those with a number in its order."""
    decoder = tokens.get("added_tokens_decoder") or {}
    numbered = {int(i): v for i, v in decoder.items()}
    for content, number in read_json(folder / "added_tokens.json").items():
        numbered.setdefault(number, {"content": content, "special": False})
    lists: list[Any] = []
    for name in _TOKEN_LISTS:
        entries = tokens.get(name) or []
        lists += entries.values() if isinstance(entries, dict) else entries
    return (
        *(_token(numbered[i], i) for i in sorted(numbered)),
        *(_token(value) for value in lists),
    )


def token_names(
    settings: TokenizerSettings, defaults: dict[str, str]
) -> dict[str, str]:
    """Role -> text of the special tokens, those of the settings first."""
    return defaults | {role: t.content for role, t in settings.special.items()}
