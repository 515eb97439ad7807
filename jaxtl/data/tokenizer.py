"""Tokenizers: texts to ids, padded to a few lengths, so that few shapes compile.

References:
  Wu et al.: WordPiece, arXiv:1609.08144; Sennrich et al.: BPE, ACL 2016; the
  `tokenizers` library does the work.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxtl.core import files, text_files
from jaxtl.core.errors import UserError
from jaxtl.data import paths

if TYPE_CHECKING:
    import tokenizers

_BUCKETS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
# Names of the padding token, of which the first in the vocabulary is used. A model
# never reads the value of padded ids, since the mask hides them.
_PAD_TOKENS = ("[PAD]", "<pad>", "<|endoftext|>", "</s>", "\n</s>\n")
# Files of a directory that may decide what a tokenizer does.
_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
_BERT_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A vocabulary and the lengths that its ids are truncated and padded to.

    Attributes:
      path: a directory with tokenizer.json, vocab.txt or vocab.json and merges.txt; or
        one of these files; or llama2.c's pieces and scores (.json). Looked for under
        $JAXTL_DATA_DIR as well.
      merges: the merges of a vocab.json, None for merges.txt beside it.
      lower: lower-case and strip accents; read for WordPiece's vocab.txt only, since a
        tokenizer.json has this option itself.
      max_length: longer texts are truncated to this many tokens, the special ones
        included; of a pair the longer one first.
      buckets: lengths to pad to: a batch takes the smallest that holds its longest
        text, and `max_length` where none does.
    """

    path: str = dataclasses.field(kw_only=False)
    merges: str | None = None
    lower: bool = True
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
        engine = self._engine()
        inputs = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        encodings = engine.encode_batch(inputs)
        longest = max((len(encoding.ids) for encoding in encodings), default=1)
        shape = (len(encodings), self.bucket(longest))
        ids = np.full(shape, self._pad_id(), np.int32)
        mask, segments = np.zeros(shape, bool), np.zeros(shape, np.int32)
        for row, encoding in enumerate(encodings):
            length = len(encoding.ids)
            ids[row, :length] = encoding.ids
            mask[row, :length] = True
            segments[row, :length] = encoding.type_ids
        x = {"input_ids": ids, "attention_mask": mask}
        return x if pairs is None else {**x, "token_type_ids": segments}

    def bucket(self, longest: int) -> int:
        """The length that a batch is padded to whose longest text has `longest` ids."""
        fitting = [b for b in self.buckets if b >= longest]
        return min([*fitting, self.max_length])

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """The text of some ids, with special tokens where `special` is True."""
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
        path = paths.find(self.path, "Tokenizer.path")
        merges = self.merges and str(paths.find(self.merges, "Tokenizer.merges"))
        states = files.states(self.files())
        return _load(str(path), merges, self.lower, self.max_length, states)

    def _pad_id(self) -> int:
        engine = self._engine()
        ids = (engine.token_to_id(name) for name in _PAD_TOKENS)
        return next((i for i in ids if i is not None), 0)


def as_tokenizer(tokenizer: Tokenizer | str) -> Tokenizer:
    """A tokenizer as it is, or the one at a path."""
    return Tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer


@functools.lru_cache(maxsize=8)
def _load(
    path: str,
    merges: str | None,
    lower: bool,
    max_length: int,
    states: tuple[files.FileState, ...],
) -> tokenizers.Tokenizer:
    """Reads a tokenizer; the states of its files make a changed one be read again."""
    try:
        import tokenizers
    except ImportError:
        raise UserError(
            "texts need the library tokenizers: pip install 'jaxtl[text]'."
        ) from None
    file = _vocabulary_file(pathlib.Path(path))
    try:
        engine = _build(tokenizers, file, merges, lower)
    except UserError:
        raise
    except Exception as error:  # the library raises plain Exception
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"Tokenizer.path: {file} can't be read: {reason}.") from None
    engine.no_padding()
    engine.enable_truncation(max_length)
    return engine


def _vocabulary_file(path: pathlib.Path) -> pathlib.Path:
    """The file itself, or of a directory the most complete one."""
    if not path.is_dir():
        return path
    for name in ("tokenizer.json", "vocab.txt", "vocab.json"):
        if (path / name).is_file():
            return path / name
    raise UserError(
        f"Tokenizer.path: the directory {path} has no vocabulary (tokenizer.json, "
        "vocab.txt, or vocab.json with merges.txt)."
    )


def _build(
    library: types.ModuleType, file: pathlib.Path, merges: str | None, lower: bool
) -> tokenizers.Tokenizer:
    """Builds the tokenizer that a file's name and content call for."""
    if file.suffix == ".txt":
        return _word_piece(library, file, lower)
    if file.suffix != ".json":
        raise UserError(
            f"Tokenizer.path: {file} must be a tokenizer.json, vocab.txt or vocab.json."
        )
    content = json.loads(text_files.read_text(file, owner="Tokenizer.path"))
    if isinstance(content.get("model"), dict):
        return library.Tokenizer.from_str(json.dumps(content))
    if isinstance(content.get("pieces"), list):
        return _scored_pairs(library, content)
    merges_file = pathlib.Path(merges) if merges else file.with_name("merges.txt")
    if not merges_file.is_file():
        raise UserError(
            f"Tokenizer.path: {file} is a BPE vocabulary and needs its merges: put "
            "merges.txt beside it or name it with merges=."
        )
    return _byte_pairs(library, content, merges_file)


def _word_piece(
    library: types.ModuleType, file: pathlib.Path, lower: bool
) -> tokenizers.Tokenizer:
    """BERT's tokenizer of a vocab.txt: a piece's id is the number of its line."""
    pieces = text_files.read_lines(file, owner="Tokenizer.path")
    vocab = {piece: i for i, piece in enumerate(pieces)}
    missing = [t for t in ("[UNK]", "[CLS]", "[SEP]") if t not in vocab]
    if missing:
        raise UserError(
            f"Tokenizer.path: {file} is no WordPiece vocabulary: it lacks "
            f"{', '.join(missing)}."
        )
    engine = library.Tokenizer(library.models.WordPiece(vocab, unk_token="[UNK]"))
    engine.normalizer = library.normalizers.BertNormalizer(lowercase=lower)
    engine.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    special = [(t, vocab[t]) for t in ("[SEP]", "[CLS]")]
    engine.post_processor = library.processors.BertProcessing(*special)
    engine.decoder = library.decoders.WordPiece()
    engine.add_special_tokens([t for t in _BERT_SPECIAL_TOKENS if t in vocab])
    return engine


def _byte_pairs(
    library: types.ModuleType, vocab: dict[str, int], merges: pathlib.Path
) -> tokenizers.Tokenizer:
    """GPT-2's byte-level BPE."""
    lines = text_files.read_lines(merges, owner="Tokenizer.merges")
    pairs = [
        tuple(line.split(" ")) for line in lines if line and line[:8] != "#version"
    ]
    engine = library.Tokenizer(library.models.BPE(vocab, pairs))
    engine.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = library.decoders.ByteLevel()
    if "<|endoftext|>" in vocab:
        engine.add_special_tokens(["<|endoftext|>"])
    return engine


def _scored_pairs(library: types.ModuleType, content: dict) -> tokenizers.Tokenizer:
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
