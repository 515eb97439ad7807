"""Words and their pieces: tags of words as labels of the pieces that a model reads.

The words of an example are joined by blanks, so that a tokenizer reads them as it reads
any text, and each piece belongs to the word that its characters lie in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl.data.tokenizer import Tokenizer

IGNORED = -1  # label of a piece that is neither trained on nor counted
NO_WORD = -1  # word of a special piece, and of padding


class WordPieces(NamedTuple):
    """Examples as pieces.

    Attributes:
      x: what the tokenizer gives, (n, length) each.
      word: int32 (n, length), the word of each piece, `NO_WORD` for none.
    """

    x: dict[str, np.ndarray]
    word: np.ndarray


def word_pieces(tokenizer: Tokenizer, words: Sequence[Sequence[str]]) -> WordPieces:
    """Tokenizes examples of words.

    Args:
      tokenizer: cuts what is longer than its `max_length`.
      words: of n examples.
    """
    texts = [" ".join(example) for example in words]
    x, spans = tokenizer.with_spans(texts)
    word = np.full(x["input_ids"].shape, NO_WORD, np.int32)
    for row, (example, ends) in enumerate(zip(words, spans)):
        if not example:
            continue
        # A blank belongs to the word behind it: some pieces begin with one.
        lengths = [len(token) + (i > 0) for i, token in enumerate(example)]
        word_of_character = np.repeat(np.arange(len(example)), lengths)
        is_real = ends > 0
        word[row, : len(ends)][is_real] = word_of_character[ends[is_real] - 1]
    return WordPieces(x, word)


def first_pieces(word: np.ndarray) -> np.ndarray:
    """Whether each piece is the first one of a word; (n, length) bools."""
    before = np.concatenate([np.full_like(word[:, :1], NO_WORD), word[:, :-1]], axis=1)
    return (word != NO_WORD) & (word != before)


class PieceLabels(NamedTuple):
    """Labels of pieces.

    Attributes:
      y: int32 (n, length): the tag on the first piece of a word; on its other pieces
        `IGNORED`, or −2 − tag where they are trained on, but not counted.
      cut: words without a piece.
    """

    y: np.ndarray
    cut: int


def labels_of_pieces(
    word: np.ndarray, tags: np.ndarray, continued: np.ndarray | None = None
) -> PieceLabels:
    """Labels of pieces from the tags of words.

    Args:
      word: of each piece, see `WordPieces`.
      tags: (n, words) tags, `IGNORED` behind the last word of an example.
      continued: (tags,) the tag of a word's further pieces, where they are trained on.
    """
    is_word, is_first = word != NO_WORD, first_pieces(word)
    labels = np.take_along_axis(tags, np.maximum(word, 0), axis=1)
    others = np.full_like(labels, IGNORED)
    if continued is not None:
        others = np.where(is_word, -2 - continued[labels], IGNORED)
    y = np.where(is_first, labels, others).astype(np.int32)
    return PieceLabels(y, int((tags != IGNORED).sum() - is_first.sum()))


def trained_labels(y: Any) -> Any:
    """The label of each piece that is trained on, `IGNORED` elsewhere.

    Args:
      y: `PieceLabels.y`, an array of numpy or jax.
    """
    return y + (y < IGNORED) * (-2 - 2 * y)


def continued_tags(names: Sequence[str]) -> np.ndarray:
    """The tag of a word's further pieces: I-X behind B-X if there is one, else its own.

    Args:
      names: of the tags.
    """
    index = {name: i for i, name in enumerate(names)}
    inside = [f"I{name[1:]}" if name[:1] == "B" else name for name in names]
    return np.asarray([index.get(n, i) for i, n in enumerate(inside)], np.int32)
