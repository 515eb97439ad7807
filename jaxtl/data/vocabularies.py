"""Tokenizers of plain vocabularies: WordPiece, byte-level BPE, CLIP's, scored pieces.

References:
  Wu et al.: WordPiece, arXiv:1609.08144; Sennrich et al.: BPE, ACL 2016; Radford et
  al.: GPT-2 (2019), byte-level BPE; Radford et al.: CLIP, ICML 2021; Karpathy:
  llama2.c.
"""

from __future__ import annotations

import pathlib
import types
from typing import TYPE_CHECKING

from jaxtl.core import text_files
from jaxtl.core.errors import UserError
from jaxtl.data.tokenizer_settings import (
    BERT_TOKENS,
    CLIP_TOKENS,
    GPT2_TOKENS,
    ROBERTA_TOKENS,
    TokenizerSettings,
    token_names,
)

if TYPE_CHECKING:
    import tokenizers

_END_OF_WORD = "</w>"  # of the last piece of a word, in the vocabulary of CLIP
# What CLIP takes for a word; what none of these matches, blanks, is left out.
_CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]"
    r"|[^\s\p{L}\p{N}]+"
)


def word_piece(
    library: types.ModuleType, file: pathlib.Path, settings: TokenizerSettings
) -> tokenizers.Tokenizer:
    """BERT's tokenizer of a vocab.txt: a piece's id is the number of its line."""
    _check_class(settings, file, ("bert",))
    pieces = text_files.read_lines(file, owner="Tokenizer.path")
    vocab = {piece: i for i, piece in enumerate(pieces)}
    names = token_names(settings, BERT_TOKENS)
    required = [names[role] for role in ("unk_token", "cls_token", "sep_token")]
    missing = [token for token in required if token not in vocab]
    if missing:
        raise UserError(
            f"Tokenizer.path: {file} is no WordPiece vocabulary: it lacks "
            f"{', '.join(missing)}."
        )
    unk, cls, sep = required
    engine = library.Tokenizer(library.models.WordPiece(vocab, unk_token=unk))
    engine.normalizer = library.normalizers.BertNormalizer(
        lowercase=settings.lower is not False,
        strip_accents=settings.strip_accents,
        handle_chinese_chars=settings.chinese is not False,
    )
    engine.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    engine.post_processor = library.processors.BertProcessing(
        (sep, vocab[sep]), (cls, vocab[cls])
    )
    engine.decoder = library.decoders.WordPiece()
    engine.add_special_tokens([t for t in names.values() if t in vocab])
    return engine


def pairs(
    library: types.ModuleType,
    vocab: dict[str, int],
    merges: pathlib.Path,
    settings: TokenizerSettings,
) -> tokenizers.Tokenizer:
    """BPE of a vocab.json and merges.txt: CLIP's, RoBERTa's or GPT-2's.

    Raises:
      UserError: pieces that end with </w> in a vocabulary that is not CLIP's, or a
        vocabulary of CLIP without them.
    """
    marks_ends = any(piece.endswith(_END_OF_WORD) for piece in vocab)
    names = token_names(settings, CLIP_TOKENS)
    is_clip = settings.kind == "clip" or (
        settings.kind is None and marks_ends and names["bos_token"] in vocab
    )
    if is_clip != marks_ends:
        problem = "has pieces that end" if marks_ends else "has no piece that ends"
        raise UserError(
            f"Tokenizer.path: the vocabulary beside {merges} {problem} with "
            f"{_END_OF_WORD}, as those of CLIP alone do, whose tokenizer has "
            f"tokenizer_class 'CLIPTokenizer' and the token {names['bos_token']}; give "
            "its tokenizer.json."
        )
    if is_clip:
        return _clip_pairs(library, vocab, merges, settings)
    return _byte_pairs(library, vocab, merges, settings)


def _clip_pairs(
    library: types.ModuleType,
    vocab: dict[str, int],
    merges: pathlib.Path,
    settings: TokenizerSettings,
) -> tokenizers.Tokenizer:
    """CLIP's BPE: lower-cased words, each of whose last pieces ends with </w>."""
    names = token_names(settings, CLIP_TOKENS)
    bos, eos = names["bos_token"], names["eos_token"]
    for token in (bos, eos):
        if token not in vocab:
            raise UserError(
                f"Tokenizer.path: the vocabulary beside {merges} lacks {token}, which "
                "CLIP's tokenizer puts around a text."
            )
    if settings.lower is False:
        raise UserError(
            f"{settings.path}: do_lower_case is false, but CLIP's tokenizer "
            "lower-cases every text; give its tokenizer.json."
        )
    model = library.models.BPE(
        vocab,
        _read_merges(merges),
        continuing_subword_prefix="",
        end_of_word_suffix=_END_OF_WORD,
        unk_token=names["unk_token"],
    )
    engine = library.Tokenizer(model)
    normalizers, splits = library.normalizers, library.pre_tokenizers
    engine.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(library.Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    words = splits.Split(library.Regex(_CLIP_WORDS), behavior="removed", invert=True)
    engine.pre_tokenizer = splits.Sequence(
        [words, splits.ByteLevel(add_prefix_space=False)]
    )
    engine.decoder = library.decoders.Sequence(
        [
            library.decoders.ByteLevel(),
            library.decoders.Replace(_END_OF_WORD, " "),
            library.decoders.Strip(" ", 0, 1),
        ]
    )
    engine.add_special_tokens([token for token in names.values() if token in vocab])
    engine.post_processor = library.processors.RobertaProcessing(
        (eos, vocab[eos]), (bos, vocab[bos]), trim_offsets=False, add_prefix_space=False
    )
    return engine


def _read_merges(path: pathlib.Path) -> list[tuple[str, ...]]:
    lines = text_files.read_lines(path, owner="Tokenizer.merges")
    return [tuple(line.split(" ")) for line in lines if line and line[:8] != "#version"]


def _byte_pairs(
    library: types.ModuleType,
    vocab: dict[str, int],
    merges: pathlib.Path,
    settings: TokenizerSettings,
) -> tokenizers.Tokenizer:
    """Byte-level BPE: RoBERTa's with `<s> … </s>`, or GPT-2's without.

    Without a class or a model's type, a vocabulary of <s> and </s> is RoBERTa's.
    """
    _check_class(settings, merges, ("roberta", "gpt2"))
    engine = library.Tokenizer(library.models.BPE(vocab, _read_merges(merges)))
    prefix = bool(settings.prefix_space)
    engine.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    engine.decoder = library.decoders.ByteLevel()
    is_roberta = settings.kind == "roberta" or (
        settings.kind is None and {"<s>", "</s>"} <= set(vocab)
    )
    names = token_names(settings, ROBERTA_TOKENS if is_roberta else GPT2_TOKENS)
    engine.add_special_tokens([token for token in names.values() if token in vocab])
    if not is_roberta:
        add_template(library, engine, settings, names)
        return engine
    cls, sep = names["cls_token"], names["sep_token"]
    for token in (cls, sep):
        if token not in vocab:
            raise UserError(
                f"Tokenizer.path: the vocabulary beside {merges} lacks {token}, which "
                "RoBERTa's tokenizer puts around a text."
            )
    engine.post_processor = library.processors.RobertaProcessing(
        (sep, vocab[sep]), (cls, vocab[cls]), add_prefix_space=prefix
    )
    return engine


def add_template(
    library: types.ModuleType,
    engine: tokenizers.Tokenizer,
    settings: TokenizerSettings,
    names: dict[str, str],
) -> None:
    """Puts <bos> and <eos> around texts, where the settings say whether to do so."""
    is_said = settings.add_bos is not None or settings.add_eos is not None
    if not is_said or settings.kind in ("bert", "roberta", "clip"):
        return
    names = token_names(settings, names)
    start = [names.get("bos_token")] if settings.add_bos else []
    end = [names.get("eos_token")] if settings.add_eos else []
    for token in (*start, *end):
        if token is None or engine.token_to_id(token) is None:
            raise UserError(
                f"{settings.path}: add_bos_token or add_eos_token is true, but the "
                f"token {token!r} is not in the vocabulary."
            )

    def around(text: str, segment: int) -> list[str]:
        return [f"{part}:{segment}" for part in (*start, text, *end)]

    engine.post_processor = library.processors.TemplateProcessing(
        single=around("$A", 0),
        pair=around("$A", 0) + around("$B", 1),
        special_tokens=[(t, engine.token_to_id(t)) for t in dict.fromkeys(start + end)],
    )


def scored_pairs(library: types.ModuleType, content: dict) -> tokenizers.Tokenizer:
    """llama2.c's BPE: a space before the text, then pairs are merged by their scores.

    A pair has the score of the piece that it makes, so any split of a piece into two
    pieces is a merge.
    """
    pieces, scores = content["pieces"], content["scores"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    ranked = sorted(range(len(pieces)), key=lambda i: -scores[i])
    merges = [
        (pieces[i][:cut], pieces[i][cut:])
        for i in ranked
        for cut in range(1, len(pieces[i]))
        if pieces[i][:cut] in vocab and pieces[i][cut:] in vocab
    ]
    model = library.models.BPE(
        vocab, merges, unk_token=pieces[content["unk_id"]], byte_fallback=True
    )
    engine = library.Tokenizer(model)
    engine.normalizer = library.normalizers.Prepend(" ")
    start = pieces[content["bos_id"]]
    engine.post_processor = library.processors.TemplateProcessing(
        single=f"{start} $A",
        pair=f"{start} $A $B",
        special_tokens=[(start, content["bos_id"])],
    )
    engine.decoder = library.decoders.Sequence(
        [
            library.decoders.ByteFallback(),
            library.decoders.Fuse(),
            library.decoders.Strip(" ", 1, 0),
        ]
    )
    special = [pieces[content[k]] for k in ("unk_id", "bos_id", "eos_id")]
    engine.add_special_tokens(special)
    return engine


def _check_class(
    settings: TokenizerSettings, file: pathlib.Path, expected: tuple[str, ...]
) -> None:
    """Raises UserError where a vocabulary belongs to another kind of tokenizer."""
    if settings.kind is not None and settings.kind not in expected:
        raise UserError(
            f"{settings.path}: tokenizer_class names a tokenizer of the kind "
            f"{settings.kind!r}, which {file.name} can't be read for (expected "
            f"{' or '.join(expected)}); give its tokenizer.json."
        )
