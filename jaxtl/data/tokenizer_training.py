"""Tokenizers trained on the train split, for texts that come without one.

References:
  Wu et al.: WordPiece, arXiv:1609.08144; Sennrich et al.: BPE, ACL 2016; the
  `tokenizers` library does the work.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.data import question_sets, text_columns, word_pieces
from jaxtl.data.dataset import ANSWERS, CONTEXT, WORDS, Data, Dataset, Table
from jaxtl.data.preprocess import IMAGE
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
    named = getattr(data, "tokenizer", None)
    tokenizer = None if named is None else as_tokenizer(named)
    if table.train_tokenizer is None:
        return dataclasses.replace(dataset, tokenizer=tokenizer)
    notes = []
    if tokenizer is None:
        tokenizer, notes = _unnamed(dataset, table, data)
    if CONTEXT in table.x:
        return question_sets.windowed(dataset, table, data, tokenizer, notes)
    if WORDS in table.x:
        all_pieces = bool(getattr(data, "all_pieces", False))
        dataset, cut = _tagged(dataset, table.x[WORDS].tolist(), tokenizer, all_pieces)
        notes += cut
    else:
        columns = [table.x[n].tolist() for n in ("text", "pair") if n in table.x]
        separate = getattr(data, "separate", None)
        ids = text_columns.token_ids(tokenizer, columns, separate)
        others = {name: part for name, part in table.x.items() if name == IMAGE}
        dataset = dataclasses.replace(dataset, x={**others, **ids})
    return dataclasses.replace(
        dataset, tokenizer=tokenizer, notes=(*dataset.notes, *notes)
    )


def _unnamed(dataset: Dataset, table: Table, data: Data) -> tuple[Tokenizer, list[str]]:
    """The tokenizer of texts that name none, and what is said of it."""
    assert table.train_tokenizer is not None
    tokenizer, notes = getattr(data, "default_tokenizer", None), []
    if tokenizer is None:
        rows = _train_rows(dataset.rows)
        if len(rows) == 0:
            raise UserError(
                f"{dataset.name}.tokenizer is None, and there are no train rows to "
                'train one on: name that of the model, tokenizer="DIRECTORY".'
            )
        vocab = getattr(data, "vocab", None) or MOST_PIECES
        others = (ANSWERS, IMAGE)
        columns = [part for name, part in table.x.items() if name not in others]
        texts = [text for part in columns for text in part[rows].tolist()]
        if WORDS in table.x:
            texts = [" ".join(words) for words in texts]
        tokenizer = train(texts, table.train_tokenizer, vocab)
        notes.append(
            f"no tokenizer= is named: {_KINDS[table.train_tokenizer]} of "
            f"{tokenizer.vocab:,} pieces is trained on the {len(rows):,} train rows "
            "and stored with the run"
        )
    else:
        notes.append(f"no tokenizer= is named: texts are read by {tokenizer.path}")
    return tokenizer, notes


def _tagged(
    dataset: Dataset,
    words: Sequence[Sequence[str]],
    tokenizer: Tokenizer,
    all_pieces: bool,
) -> tuple[Dataset, list[str]]:
    """A data set of tagged words with pieces and their labels, and what is said of it.

    Args:
      dataset: its y holds the tag of each word, (n, words).
      words: of the n examples.
      tokenizer: of the words.
      all_pieces: whether the further pieces of a word are trained on.
    """
    pieces = word_pieces.word_pieces(tokenizer, words)
    names = dataset.class_names
    continued = word_pieces.continued_tags(names) if all_pieces else None
    labels = word_pieces.labels_of_pieces(pieces.word, dataset.y_clean, continued)
    total, notes = sum(map(len, words)), []
    if labels.cut:
        notes.append(
            f"{labels.cut:,} of {total:,} words are neither trained on nor counted: "
            f"they lie behind the {pieces.word.shape[1]:,} pieces that an example is "
            "cut to (max_length of the tokenizer), or have no piece"
        )
    changed = dataclasses.replace(dataset, x=pieces.x, y=labels.y, y_clean=labels.y)
    return changed, notes


def _train_rows(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """The rows to train on, labelled or not."""
    return np.sort(np.concatenate([rows["train"], rows.get("unlabelled", [])])).astype(
        np.int64
    )


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
    """BERT's tokenizer; equal texts give equal pieces and ids.

    The library numbers the letters within words in the order of a hash table, another
    one each time, and pairs of equal frequency are merged in the order of the numbers.
    So a first pass finds these letters, and a second one begins with them in order.
    """
    letters = [t for t in _trained_pieces(lib, texts, 1, vocab, ()) if t[:2] == "##"]
    pieces = _trained_pieces(lib, texts, vocab, vocab, sorted(letters))
    engine = _bert_engine(lib, lib.models.WordPiece(pieces, unk_token="[UNK]"))
    engine.decoder = lib.decoders.WordPiece()
    engine.add_special_tokens(list(_BERT_TOKENS))
    cls, sep = ((t, engine.token_to_id(t)) for t in ("[CLS]", "[SEP]"))
    engine.post_processor = lib.processors.BertProcessing(sep, cls)
    return engine


def _bert_engine(lib: Any, model: Any) -> tokenizers.Tokenizer:
    engine = lib.Tokenizer(model)
    engine.normalizer = lib.normalizers.BertNormalizer(lowercase=True)
    engine.pre_tokenizer = lib.pre_tokenizers.BertPreTokenizer()
    return engine


def _trained_pieces(
    lib: Any, texts: Sequence[str], size: int, vocab: int, first: Sequence[str]
) -> dict[str, int]:
    """Piece -> id of a WordPiece vocabulary.

    Args:
      lib: `tokenizers`.
      texts: to train on.
      size: most pieces; letters are pieces in any case.
      vocab: most pieces of the final vocabulary, which bounds the letters.
      first: pieces behind the special tokens, in order.
    """
    engine = _bert_engine(lib, lib.models.WordPiece(unk_token="[UNK]"))
    trainer = lib.trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=_MIN_FREQUENCY,
        # A letter may be a piece that begins a word and one that continues it.
        limit_alphabet=max(1, (vocab - len(_BERT_TOKENS)) // 2),
        special_tokens=[*_BERT_TOKENS, *first],
        show_progress=False,
    )
    engine.train_from_iterator(texts, trainer)
    return json.loads(engine.to_str())["model"]["vocab"]


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
