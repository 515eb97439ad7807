"""Tokenizers trained on the train split, for texts that come without one.

References:
  Wu et al.: WordPiece, arXiv:1609.08144; Sennrich et al.: BPE, ACL 2016; the
  `tokenizers` library does the work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxtl.core.types import PyTree
from jaxtl.data.dataset import Data, Dataset, Table
from jaxtl.data.tokenizer import Tokenizer, TrainedTokenizer, as_tokenizer, library

if TYPE_CHECKING:
    import tokenizers

# Pieces that are trained at most where the model has room for more.
MOST_PIECES = 8192
# Least number of times that two pieces stand together to be made one.
_MIN_FREQUENCY = 2
_BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_END_OF_TEXT = "<|endoftext|>"


def tokenized(dataset: Dataset, table: Table, data: Data) -> Dataset:
    """A data set of texts with ids in their place, and its tokenizer.

    Args:
      dataset: split; its x holds texts where the source names no tokenizer.
      table: gives the kind of tokenizer to train.
      data: gives the tokenizer, the one of pretrained weights, or the vocabulary.
    """
    if table.train_tokenizer is None:
        tokenizer = getattr(data, "tokenizer", None)
        tokenizer = None if tokenizer is None else as_tokenizer(tokenizer)
        return dataclasses.replace(dataset, tokenizer=tokenizer)
    tokenizer, notes = getattr(data, "default_tokenizer", None), []
    if tokenizer is None:
        rows = _train_rows(dataset.rows)
        vocab = getattr(data, "vocab", None) or MOST_PIECES
        texts = [text for part in table.x.values() for text in part[rows].tolist()]
        tokenizer = train(texts, table.train_tokenizer, vocab)
        notes.append(
            f"no tokenizer= is named: {_KINDS[table.train_tokenizer]} of "
            f"{tokenizer.vocab:,} pieces is trained on the {len(rows):,} train rows "
            "and stored with the run"
        )
    else:
        notes.append(f"no tokenizer= is named: texts are read by {tokenizer.path}")
    return dataclasses.replace(
        dataset,
        x=_ids(table.x, tokenizer),
        tokenizer=tokenizer,
        notes=(*dataset.notes, *notes),
    )


def _train_rows(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """The rows to train on, labelled or not."""
    return np.sort(np.concatenate([rows["train"], rows.get("unlabelled", [])])).astype(
        np.int64
    )


def _ids(texts: Mapping[str, np.ndarray], tokenizer: Tokenizer) -> PyTree:
    pairs = texts["pair"].tolist() if "pair" in texts else None
    return tokenizer(texts["text"].tolist(), pairs)


def train(texts: Sequence[str], kind: str, vocab: int) -> TrainedTokenizer:
    """Trains a tokenizer.

    Args:
      texts: to train on.
      kind: "word_piece", BERT's in lower case with [CLS] and [SEP] around a text; or
        "byte_pairs", GPT-2's.
      vocab: most pieces, the special ones included.

    Raises:
      UserError: the library tokenizers is missing.
    """
    engine = _word_piece if kind == "word_piece" else _byte_pairs
    return TrainedTokenizer(content=engine(library(), texts, vocab).to_str())


_KINDS = {"word_piece": "a WordPiece tokenizer", "byte_pairs": "a byte-level BPE"}


def _word_piece(lib: Any, texts: Sequence[str], vocab: int) -> tokenizers.Tokenizer:
    engine = lib.Tokenizer(lib.models.WordPiece(unk_token="[UNK]"))
    engine.normalizer = lib.normalizers.BertNormalizer(lowercase=True)
    engine.pre_tokenizer = lib.pre_tokenizers.BertPreTokenizer()
    engine.decoder = lib.decoders.WordPiece()
    trainer = lib.trainers.WordPieceTrainer(
        vocab_size=vocab,
        min_frequency=_MIN_FREQUENCY,
        # A letter may be a piece that begins a word and one that continues it.
        limit_alphabet=max(1, (vocab - len(_BERT_TOKENS)) // 2),
        special_tokens=list(_BERT_TOKENS),
        show_progress=False,
    )
    engine.train_from_iterator(texts, trainer)
    cls, sep = ((t, engine.token_to_id(t)) for t in ("[CLS]", "[SEP]"))
    engine.post_processor = lib.processors.BertProcessing(sep, cls)
    return engine


def _byte_pairs(lib: Any, texts: Sequence[str], vocab: int) -> tokenizers.Tokenizer:
    engine = lib.Tokenizer(lib.models.BPE())
    engine.pre_tokenizer = lib.pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = lib.decoders.ByteLevel()
    trainer = lib.trainers.BpeTrainer(
        vocab_size=vocab,
        min_frequency=_MIN_FREQUENCY,
        special_tokens=[_END_OF_TEXT],
        initial_alphabet=lib.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator(texts, trainer)
    return engine
