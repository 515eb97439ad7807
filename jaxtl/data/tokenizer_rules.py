"""The rules of a tokenizer.json, with what the settings beside it change."""

import json
import pathlib
import re
import string
from collections.abc import Iterator
from typing import Any

from jaxtl.core import key_table
from jaxtl.core.errors import UserError
from jaxtl.data import tokenizer_settings
from jaxtl.data.tokenizer_settings import TokenizerSettings

_ENDS = ("cls_token", "sep_token")  # roles of the tokens around a text


def with_settings(
    file: pathlib.Path, content: dict[str, Any], settings: TokenizerSettings
) -> dict[str, Any]:
    """A tokenizer.json with the rules that its directory's settings change.

    transformers lets tokenizer_config.json decide where the two differ. Rules of
    another kind than it can change must agree.

    Raises:
      UserError: a setting that the file contradicts, or that makes ids random.
    """
    tokenizer_settings.TOKENIZER.check(content, file)
    if content["model"].get("dropout"):
        raise UserError(
            f"{file}: model.dropout {content['model']['dropout']} makes the ids of a "
            "text random; expected null."
        )
    if settings.kind in ("siglip", "siglip2"):
        content = _with_siglip_rules(content, settings)
    parts = {
        name: list(_parts(content.get(name)))
        for name in ("normalizer", "pre_tokenizer", "post_processor")
    }
    berts = [p for p in parts["normalizer"] if p.get("type") == "BertNormalizer"]
    lowers = [p for p in parts["normalizer"] if p.get("type") == "Lowercase"]
    strips = [p for p in parts["normalizer"] if p.get("type") == "StripAccents"]
    for key, name, value, is_done in (
        ("do_lower_case", "lowercase", settings.lower, bool(lowers)),
        ("strip_accents", "strip_accents", settings.strip_accents, bool(strips)),
        ("tokenize_chinese_chars", "handle_chinese_chars", settings.chinese, None),
    ):
        for part in berts if value is not None else ():
            part[name] = value
        if not berts and is_done is not None:
            _check_agreement(settings, file, key, value, is_done)
    _check_special_tokens(settings, file, content)
    byte_levels = [p for n in parts for p in parts[n] if "add_prefix_space" in p]
    for part in byte_levels if settings.prefix_space is not None else ():
        part["add_prefix_space"] = settings.prefix_space
    if not byte_levels:
        spaced = [p for p in parts["normalizer"] if p.get("type") == "Prepend"]
        schemes = [p.get("prepend_scheme", "never") for p in parts["pre_tokenizer"]]
        is_spaced = bool(spaced) or any(s != "never" for s in schemes)
        value = settings.prefix_space
        _check_agreement(settings, file, "add_prefix_space", value, is_spaced)
    return content


def _with_siglip_rules(
    content: dict[str, Any], settings: TokenizerSettings
) -> dict[str, Any]:
    """A tokenizer.json that changes texts first as SigLIP's tokenizers do.

    Those of SigLIP lower-case, take the punctuation of ASCII out and join blanks, those
    of SigLIP 2 lower-case alone. What a file does itself is then done twice, which
    changes nothing.
    """
    rules: list[dict[str, Any]] = [{"type": "Lowercase"}]
    if settings.lower is False:
        rules = []
    if settings.kind == "siglip":
        punctuation = f"[{re.escape(string.punctuation)}]"
        for pattern, new in ((punctuation, ""), (r"\s+", " ")):
            rule = {"type": "Replace", "pattern": {"Regex": pattern}, "content": new}
            rules.append(rule)
        rules.append({"type": "Strip", "strip_left": True, "strip_right": True})
    rules += [content["normalizer"]] if content.get("normalizer") else []
    return {**content, "normalizer": {"type": "Sequence", "normalizers": rules}}


def _parts(part: Any) -> Iterator[dict[str, Any]]:
    """A part of tokenizer.json and, of a sequence, all of its members."""
    if isinstance(part, dict):
        yield part
        for members in part.values():
            for member in members if isinstance(members, list) else ():
                yield from _parts(member)


def _check_agreement(
    settings: TokenizerSettings,
    file: pathlib.Path,
    key: str,
    value: bool | None,
    is_done: bool,
) -> None:
    """Raises UserError where a setting contradicts the rules of tokenizer.json."""
    if value is not None and value is not is_done:
        raise UserError(
            f"{settings.path}: {key} is {key_table.shown(value)}, but the rules of "
            f"{file.name} say {key_table.shown(is_done)}; correct one of the two."
        )


def _check_special_tokens(
    settings: TokenizerSettings, file: pathlib.Path, content: dict[str, Any]
) -> None:
    """Raises UserError where tokenizer.json has other special tokens than it should.

    transformers builds the tokenizers of BERT, RoBERTa and CLIP with those of the
    settings.
    """
    defaults = {
        "clip": tokenizer_settings.CLIP_TOKENS,
        "bert": tokenizer_settings.BERT_TOKENS,
        "roberta": tokenizer_settings.ROBERTA_TOKENS,
    }.get(settings.kind, {})
    names = tokenizer_settings.token_names(settings, defaults)
    around = json.dumps(content.get("post_processor"), ensure_ascii=False)
    ends = ("bos_token", "eos_token") if settings.kind == "clip" else _ENDS
    for role in ends if defaults else ():
        if json.dumps(names[role], ensure_ascii=False) not in around:
            raise UserError(
                f"{settings.path}: {role} is {key_table.shown(names[role])}, which the "
                f"post_processor of {file.name} does not put around a text; correct "
                "one of the two."
            )


def without_segments(text: str) -> str:
    """A tokenizer.json whose tokens all have type 0, of both texts of a pair.

    Args:
      text: of a tokenizer.json.
    """
    content = json.loads(text)
    processor = content["post_processor"] or {"type": "ByteLevel"}
    if processor["type"] == "BertProcessing":
        cls, sep = processor["cls"], processor["sep"]
        content["post_processor"] = _template(
            [cls[0], "A", sep[0]], [cls[0], "A", sep[0], "B", sep[0]], [cls, sep]
        )
    elif processor["type"] == "ByteLevel":  # for positions within the text alone
        content["post_processor"] = _template(["A"], ["A", "B"], [])
    for part in _parts(content["post_processor"]):
        for entry in part.values():
            if isinstance(entry, dict) and "type_id" in entry:
                entry["type_id"] = 0
    return json.dumps(content)


def _template(
    single: list[str], pair: list[str], tokens: list[tuple[str, int]]
) -> dict[str, Any]:
    """A post-processor that puts tokens around the texts "A" and "B", all of type 0."""

    def pieces(names: list[str]) -> list[dict[str, Any]]:
        kinds = ["Sequence" if n in ("A", "B") else "SpecialToken" for n in names]
        return [{k: {"id": n, "type_id": 0}} for k, n in zip(kinds, names)]

    return {
        "type": "TemplateProcessing",
        "single": pieces(single),
        "pair": pieces(pair),
        "special_tokens": {
            name: {"id": name, "ids": [number], "tokens": [name]}
            for name, number in tokens
        },
    }
