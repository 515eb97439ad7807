"""Tokenizers from the files of other libraries, as transformers builds them.

tokenizer.json, vocab.txt, vocab.json with merges.txt, or llama2.c's pieces and scores;
and the settings of the directory beside them (`tokenizer_settings`).
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import types
from typing import TYPE_CHECKING

from jaxtl.core import text_files
from jaxtl.core.errors import UserError
from jaxtl.data import tokenizer_rules, tokenizer_settings, vocabularies
from jaxtl.data.tokenizer_settings import Token, TokenizerSettings

if TYPE_CHECKING:
    import tokenizers

_NAMES = ("tokenizer.json", "vocab.txt", "vocab.json")
_SENTENCE_PIECES = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model")


def build(
    library: types.ModuleType,
    path: pathlib.Path,
    merges: str | None,
    lower: bool | None,
) -> tuple[tokenizers.Tokenizer, TokenizerSettings]:
    """Builds a tokenizer, and reads what its directory says of it.

    Args:
      library: `tokenizers`.
      path: a directory or a file.
      merges: the merges of a vocab.json, None for merges.txt beside it.
      lower: lower-case; None as the files say.

    Raises:
      UserError: files that are missing, damaged, contradictory or not supported.
    """
    file = _vocabulary_file(path)
    settings = TokenizerSettings(file)
    if file.name in _NAMES:  # a file of another name stands alone
        settings = tokenizer_settings.read_settings(file.parent)
    if lower is not None:
        settings = dataclasses.replace(settings, lower=lower, strip_accents=None)
    engine = _build(library, file, merges, settings)
    _add_tokens(library, engine, settings)
    if settings.lower_first:
        parts = [library.normalizers.Lowercase(), engine.normalizer]
        engine.normalizer = library.normalizers.Sequence([p for p in parts if p])
    if not settings.segments:
        engine = library.Tokenizer.from_str(
            tokenizer_rules.without_segments(engine.to_str())
        )
    return engine, settings


def _vocabulary_file(path: pathlib.Path) -> pathlib.Path:
    """The file itself, or of a directory the most complete one."""
    if not path.is_dir():
        return path
    for name in _NAMES:
        if (path / name).is_file():
            return path / name
    pieces = [n for n in _SENTENCE_PIECES if (path / n).is_file()]
    if pieces:
        raise UserError(
            f"Tokenizer.path: {path / pieces[0]} is a SentencePiece model, which is "
            "read from a tokenizer.json alone; transformers' AutoTokenizer, opened "
            "from the directory, writes one into it by save_pretrained(directory)."
        )
    raise UserError(
        f"Tokenizer.path: the directory {path} has no vocabulary (tokenizer.json, "
        "vocab.txt, or vocab.json with merges.txt)."
    )


def _build(
    library: types.ModuleType,
    file: pathlib.Path,
    merges: str | None,
    settings: TokenizerSettings,
) -> tokenizers.Tokenizer:
    """Builds the tokenizer that a file's name and content call for."""
    if file.suffix == ".txt":
        return vocabularies.word_piece(library, file, settings)
    if file.suffix != ".json":
        raise UserError(
            f"Tokenizer.path: {file} must be a tokenizer.json, vocab.txt or vocab.json."
        )
    content = json.loads(text_files.read_text(file, owner="Tokenizer.path"))
    if isinstance(content.get("model"), dict):
        content = tokenizer_rules.with_settings(file, content, settings)
        engine = library.Tokenizer.from_str(json.dumps(content))
        vocabularies.add_template(library, engine, settings, {})
        return engine
    if isinstance(content.get("pieces"), list):
        return vocabularies.scored_pairs(library, content)
    merges_file = pathlib.Path(merges) if merges else file.with_name("merges.txt")
    if not merges_file.is_file():
        raise UserError(
            f"Tokenizer.path: {file} is a BPE vocabulary and needs its merges: put "
            "merges.txt beside it or name it with merges=."
        )
    return vocabularies.pairs(library, content, merges_file, settings)


def _add_tokens(
    library: types.ModuleType, engine: tokenizers.Tokenizer, settings: TokenizerSettings
) -> None:
    """Adds the tokens that the settings name beside the vocabulary's.

    One without a number that the vocabulary lacks is left out: the model has no vector
    for it.

    Raises:
      UserError: a token that has another number in the vocabulary.
    """
    present = {t.content for t in engine.get_added_tokens_decoder().values()}
    for token in (*settings.added, *settings.special.values()):
        is_numbered = token.id is not None
        if not is_numbered and (
            token.content in present or engine.token_to_id(token.content) is None
        ):
            continue
        _add_token(library, engine, token)
        number = engine.token_to_id(token.content)
        if is_numbered and number != token.id:
            raise UserError(
                f"{settings.path}: the added token {token.content!r} should have the "
                f"id {token.id}, but the vocabulary gives it {number}."
            )


def _add_token(
    library: types.ModuleType, engine: tokenizers.Tokenizer, token: Token
) -> None:
    added = library.AddedToken(token.content, **token.flags)
    engine.add_tokens([added])
