"""Tokenizers: texts to ids, padded to a few lengths, so that few shapes compile.

References:
  Wu et al.: WordPiece, arXiv:1609.08144; Sennrich et al.: BPE, ACL 2016; the
  `tokenizers` library does the work.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxtl.core import files, progress, text_files
from jaxtl.core.errors import UserError, first_line
from jaxtl.data import paths, tokenizer_files

if TYPE_CHECKING:
    import tokenizers

_SINGLE = ("input_ids", "attention_mask")  # of single texts
_CHUNK = 10_000  # texts that are tokenized at once
_BUCKETS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
# Names of the padding token, of which the first in the vocabulary is used where the
# files name none. A model never reads the value of padded ids: the mask hides them.
_PAD_TOKENS = ("[PAD]", "<pad>", "<|endoftext|>", "</s>", "\n</s>\n")
TOKENIZER = "tokenizer.json"
# Files that hold a vocabulary, each enough for a tokenizer.
VOCABULARIES = (TOKENIZER, "vocab.txt", "vocab.json")
# Files that hold a tokenizer.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
# Files of a directory that may decide what a tokenizer does.
_FILES = (
    *TOKENIZER_FILES,
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "config.json",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A vocabulary and the lengths that its ids are truncated and padded to.

    The settings beside it (tokenizer_config.json, special_tokens_map.json,
    added_tokens.json, sentence_bert_config.json) decide as they do in transformers.

    Attributes:
      path: a directory with tokenizer.json, vocab.txt or vocab.json and merges.txt; or
        one of these files; or llama2.c's pieces and scores (.json). Looked for under
        $JAXTL_DATA_DIR as well.
      merges: the merges of a vocab.json, None for merges.txt beside it.
      lower: lower-case and strip accents; None as the files say (do_lower_case of
        tokenizer_config.json, the rules of tokenizer.json), and True for a vocab.txt
        alone.
      max_length: longer texts are truncated to this many tokens, the special ones
        included, or to model_max_length of tokenizer_config.json and max_seq_length
        of a sentence encoder if that is less; of a pair the longer one first.
      buckets: lengths to pad to: a batch takes the smallest that holds its longest
        text, and `max_length` where none does.
    """

    path: str = dataclasses.field(kw_only=False)
    merges: str | None = None
    lower: bool | None = None
    max_length: int = 128
    buckets: tuple[int, ...] = _BUCKETS

    def __post_init__(self):
        object.__setattr__(self, "buckets", tuple(self.buckets))
        if self.max_length < 3:
            raise UserError(
                f"Tokenizer.max_length={self.max_length}: expected at least 3 (two "
                "special tokens and a word)."
            )

    def __call__(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Tokenizes texts, or pairs of texts.

        Args:
          texts: n texts.
          pairs: the second text of each, or None.

        Returns:
          {"input_ids": int32 (n, length), "attention_mask": bool (n, length)} and, for
          pairs, "token_type_ids" int32: 0 for the first text, 1 for the second.
        """
        inputs = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        x = self._padded(self._encodings(inputs))
        return x if pairs is not None else {n: x[n] for n in _SINGLE}

    def separately(
        self, texts: Sequence[str], pairs: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Tokenizes the two texts of each pair by themselves.

        Args:
          texts: the first text of each of n pairs.
          pairs: the second text of each, as many.

        Returns:
          {"input_ids": int32 (n, 2, length), "attention_mask": bool (n, 2, length)}.
        """
        x = self([text for pair in zip(texts, pairs, strict=True) for text in pair])
        return {name: v.reshape(-1, 2, v.shape[-1]) for name, v in x.items()}

    def with_spans(
        self, texts: Sequence[str]
    ) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
        """Tokenizes texts, and says where each piece ends.

        Args:
          texts: n texts.

        Returns:
          What the call gives, and for each text int64 (pieces,), the number of its
          characters up to the end of each piece; 0 for special pieces and empty ones.
        """
        encodings = self._encodings(list(texts))
        x = self._padded(encodings)
        ends = []
        for encoding in encodings:
            spans = np.asarray(encoding.offsets, np.int64).reshape(-1, 2)
            is_real = np.asarray(encoding.special_tokens_mask, np.int64) == 0
            is_real &= spans[:, 1] > spans[:, 0]
            ends.append(np.where(is_real, spans[:, 1], 0))
        return {n: x[n] for n in _SINGLE}, ends

    def _encodings(self, inputs: list) -> list[tokenizers.Encoding]:
        """The encodings of texts, or of pairs."""
        engine, encodings = self._engine(), []
        with progress.Task("tokenizing texts", len(inputs)) as task:
            for start in range(0, len(inputs), _CHUNK):
                encodings += engine.encode_batch(inputs[start : start + _CHUNK])
                task.advance(min(_CHUNK, len(inputs) - start))
        return encodings

    def _padded(self, encodings: list[tokenizers.Encoding]) -> dict[str, np.ndarray]:
        """The ids, masks and segments of encodings, padded to one length."""
        limit = self._loaded().max_length
        longest = max((len(encoding.ids) for encoding in encodings), default=1)
        shape = (len(encodings), min(self.bucket(longest), limit))
        ids = np.full(shape, self.pad_id, np.int32)
        mask, segments = np.zeros(shape, bool), np.zeros(shape, np.int32)
        for row, encoding in enumerate(encodings):
            length = len(encoding.ids)
            ids[row, :length] = encoding.ids
            mask[row, :length] = True
            segments[row, :length] = encoding.type_ids
        arrays = (ids, mask, segments)
        return dict(zip((*_SINGLE, "token_type_ids"), arrays))

    def bucket(self, longest: int) -> int:
        """Chooses the length that a batch is padded to.

        Args:
          longest: tokens of the batch's longest text, special ones included.

        Returns:
          The smallest of `buckets` that holds them, at most `max_length`.
        """
        fitting = [b for b in self.buckets if b >= longest]
        return min([*fitting, self.max_length])

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """Turns token ids back into text.

        Args:
          ids: integers (length,), padding included.
          special: whether special tokens ([CLS], padding) are written too.

        Returns:
          The text, normalized as the tokenizer does it (lower-cased, say).
        """
        return self._engine().decode(
            list(map(int, ids)), skip_special_tokens=not special
        )

    def to_json(self) -> str:
        """The vocabulary and its rules as the text of a tokenizer.json."""
        return self._engine().to_str()

    def special(self) -> dict[str, int]:
        """The ids of the special tokens by name ([CLS], <s>, …)."""
        added = sorted(self._engine().get_added_tokens_decoder().items())
        return {token.content: i for i, token in added if token.special}

    @property
    def vocab(self) -> int:
        """Number of ids."""
        return self._engine().get_vocab_size()

    def files(self) -> tuple[pathlib.Path, ...]:
        """The files that the vocabulary and its rules are read from."""
        path = paths.find(self.path, "Tokenizer.path")
        folder = path if path.is_dir() else path.parent
        named = [] if path.is_dir() else [path]
        if self.merges:
            named.append(paths.find(self.merges, "Tokenizer.merges"))
        beside = [folder / name for name in _FILES if (folder / name).is_file()]
        return tuple(dict.fromkeys([*named, *beside]))

    def _engine(self) -> tokenizers.Tokenizer:
        return self._loaded().tokenizer

    def _loaded(self) -> _Engine:
        path = paths.find(self.path, "Tokenizer.path")
        merges = self.merges and str(paths.find(self.merges, "Tokenizer.merges"))
        states = files.states(self.files())
        return _load(str(path), merges, self.lower, self.max_length, states)

    @property
    def pad_id(self) -> int:
        """The id of padding."""
        loaded = self._loaded()
        names = [name for name in (loaded.pad_token, *_PAD_TOKENS) if name is not None]
        ids = (loaded.tokenizer.token_to_id(name) for name in names)
        return next((i for i in ids if i is not None), 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedTokenizer(Tokenizer):
    """A tokenizer in memory.

    Attributes:
      content: the text of a tokenizer.json.
    """

    path: str = "the trained tokenizer"
    content: str = dataclasses.field(repr=False)

    def files(self) -> tuple[pathlib.Path, ...]:
        """None: it is read from no file."""
        return ()

    def _loaded(self) -> _Engine:
        return _from_text(self.content, self.max_length)


def stored(path: pathlib.Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json that a run wrote, with its length."""
    truncation = text_files.read_json(path).get("truncation") or {}
    options = {name: v for name, v in truncation.items() if name == "max_length"}
    return Tokenizer(str(path), **options)


def as_tokenizer(tokenizer: Tokenizer | str) -> Tokenizer:
    """A tokenizer as it is, or the one at a path."""
    return Tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer


class _Engine(NamedTuple):
    """A tokenizer of the library.

    Attributes:
      tokenizer: the tokenizer, truncating.
      max_length: most tokens of a text.
      pad_token: that its files name, None where they name none.
    """

    tokenizer: tokenizers.Tokenizer
    max_length: int
    pad_token: str | None = None


def library() -> types.ModuleType:
    """The module `tokenizers`; UserError where it is not installed."""
    try:
        import tokenizers
    except ImportError:
        raise UserError(
            "texts need the library tokenizers: pip install 'jaxtl[text]'."
        ) from None
    return tokenizers


@functools.lru_cache(maxsize=8)
def _from_text(content: str, max_length: int) -> _Engine:
    engine = library().Tokenizer.from_str(content)
    engine.enable_truncation(max_length)
    return _Engine(engine, max_length)


@functools.lru_cache(maxsize=8)
def _load(
    path: str,
    merges: str | None,
    lower: bool | None,
    max_length: int,
    states: tuple[files.FileState, ...],
) -> _Engine:
    """Reads a tokenizer; the states of its files make a changed one be read again."""
    try:
        engine, settings = tokenizer_files.build(
            library(), pathlib.Path(path), merges, lower
        )
    except UserError:
        raise
    except Exception as error:  # the library raises plain Exception
        reason = first_line(error)
        raise UserError(f"Tokenizer.path: {path} can't be read: {reason}.") from None
    side = settings.truncation_side
    side = side or (engine.truncation or {}).get("direction", "right").lower()
    limit = min(max_length, settings.max_length or max_length)
    engine.no_padding()
    engine.enable_truncation(limit, direction=side)
    pad = settings.special.get("pad_token")
    return _Engine(engine, limit, pad.content if pad else None)
