"""Tags of words that an exported model predicts, for texts and files of columns."""

import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxtl.core import text_files
from jaxtl.core.errors import UserError
from jaxtl.data.sources.conll import words_of_columns, words_of_json
from jaxtl.data.sources.table_files import JSON_SUFFIXES
from jaxtl.data.word_pieces import first_pieces, word_pieces
from jaxtl.export.predictor import BATCH, Predictor


def tagged_words(predictor: Predictor, file: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Yields a prediction for each word of a file.

    Args:
      predictor: of a model with outputs per piece, of the task "entities" or "tags".
      file: a `.txt` with a sentence per line, its words between blanks; JSON lines with
        "tokens"; any other file is columns as `data.CoNLL` reads them, whose first one
        holds the words.

    Yields:
      "file", "row" (of the sentence, from 0), "origin", "word", "label" and
      "probability", both None for a word that the model does not reach.

    Raises:
      UserError: an export without a tokenizer, or a file without a word.
    """
    examples = _words(file)
    if not examples:
        raise UserError(f"{file} holds no words.")
    tokenizer = predictor.tokenizer(str(file))
    names, left_out = predictor.class_names, 0
    for start in range(0, len(examples), BATCH):
        part = examples[start : start + BATCH]
        pieces = word_pieces(tokenizer, [words for words, _ in part])
        values = predictor(pieces.x)
        is_first = first_pieces(pieces.word)
        for i, (words, line) in enumerate(part):
            place = {"file": str(file), "row": start + i, "origin": f"{file}:{line}"}
            shares = dict(zip(pieces.word[i][is_first[i]], values[i][is_first[i]]))
            left_out += len(words) - len(shares)
            for number, word in enumerate(words):
                prediction = _prediction(names, shares.get(number), place["origin"])
                yield {**place, "word": word, **prediction}
    if left_out:
        print(
            f"{file}: {left_out:,} words have no tag, since they lie behind the pieces "
            "that the model reads of a sentence, or have no piece; cut the sentences.",
            file=sys.stderr,
        )


def _prediction(
    names: tuple[str, ...], shares: np.ndarray | None, origin: str
) -> dict[str, Any]:
    """The tag of a word, and its probability."""
    if shares is None:
        return {"label": None, "probability": None}
    if not np.isfinite(shares).all():
        raise UserError(f"{origin}: the model's output is not finite.")
    best = int(shares.argmax())
    label = names[best] if best < len(names) else str(best)
    return {"label": label, "probability": float(shares[best])}


def _words(file: pathlib.Path) -> list[tuple[tuple[str, ...], int]]:
    """The words of each sentence, and the line that it begins in."""
    lines = text_files.read_lines(file, owner=str(file))
    if text_files.suffix(file) == ".txt":
        numbered = ((tuple(line.split()), n) for n, line in enumerate(lines, 1))
        return [(words, number) for words, number in numbered if words]
    if text_files.suffix(file) in JSON_SUFFIXES:
        return words_of_json(file, lines)
    return words_of_columns(file, lines, None)
