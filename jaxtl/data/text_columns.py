"""Sources of texts: their tokenizer, and ids or texts that are tokenized later."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.core.serialization import later_field
from jaxtl.data.dataset import WORDS, Data
from jaxtl.data.tokenizer import Tokenizer, as_tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextData(Data):
    """Texts, tokenized at load.

    Attributes:
      tokenizer: a `Tokenizer`, or the path of one. None takes that of the pretrained
        weights, if they come with one, else trains one on the train split; it is
        stored with the run and used by `predict` and exports.
      default_tokenizer: what None of `tokenizer` takes before it trains one; filled in
        from the pretrained weights.
      vocab: most pieces of a tokenizer that is trained; None takes the model's number
        of them, at most 8,192.
    """

    tokenizer: Tokenizer | str | None = None
    default_tokenizer: Tokenizer | None = later_field(None)
    vocab: int | None = later_field(None)

    fitted_options = ("default_tokenizer", "vocab")

    def __post_init__(self):
        super().__post_init__()
        if self.vocab is not None and not (
            isinstance(self.vocab, int) and self.vocab >= 1
        ):
            raise UserError(
                f"{type(self).__name__}.vocab must be a whole number of pieces, at "
                f"least 1; got {self.vocab!r}."
            )

    def reads_texts(self) -> bool:
        """Whether a tokenizer is needed."""
        return True

    def files(self) -> tuple[pathlib.Path, ...]:
        """The files of texts, and those of the tokenizer."""
        if self.tokenizer is None:
            return super().files()
        return (*super().files(), *as_tokenizer(self.tokenizer).files())


def fields(data: TextData, columns: Sequence[Sequence[str]], kind: str) -> dict:
    """The fields of a `Table` that hold its texts.

    Args:
      data: without a tokenizer, texts stay and are tokenized once they are split.
      columns: one of n texts, or two for pairs.
      kind: of the tokenizer that may be trained then.

    Returns:
      "x", and without a tokenizer "train_tokenizer" and "digests", of the texts.
    """
    if data.tokenizer is not None:
        return {"x": as_tokenizer(data.tokenizer)(*columns)}
    digests = [
        hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()
        for texts in zip(*columns)
    ]
    return {
        "x": {
            name: np.asarray(column, object)
            for name, column in zip(("text", "pair"), columns)
        },
        "train_tokenizer": kind,
        "digests": np.asarray(digests, "S64"),
    }


def word_fields(words: Sequence[Sequence[str]]) -> dict:
    """The fields of a `Table` that hold the words of n examples.

    They are tokenized once they are split, and their tags go with the pieces then.
    """
    array = np.empty(len(words), object)
    array[:] = [tuple(example) for example in words]
    texts = ["\0".join(example).encode("utf-8", "surrogatepass") for example in words]
    digests = [hashlib.sha256(text).hexdigest() for text in texts]
    return {
        "x": {WORDS: array},
        "train_tokenizer": "word_piece",
        "digests": np.asarray(digests, "S64"),
    }
