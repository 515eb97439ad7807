"""Sources of texts: their tokenizer, and ids or texts that are tokenized later."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.core.serialization import later_field
from jaxtl.data.dataset import WORDS, Data, Table
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
      separate: of pairs: whether the two texts are tokenized each by itself; None lets
        the model decide (`models.BiEncoder` reads them so).
      score_range: (lowest, highest) score of pairs, such as (0, 5), which are scaled to
        `score_scale`; the task is then regression. None leaves labels as they are.
      score_scale: what the lowest and the highest score become: (0, 1), or (−1, 1) for
        pairs whose texts may be opposites.
    """

    tokenizer: Tokenizer | str | None = None
    default_tokenizer: Tokenizer | None = later_field(None)
    vocab: int | None = later_field(None)
    separate: bool | None = later_field(None)
    score_range: tuple[float, float] | None = later_field(None)
    score_scale: tuple[float, float] = later_field((0.0, 1.0))

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

        self._check_pairs()

    def _check_pairs(self) -> None:
        """Raises UserError for options of pairs that are not valid; sets their task."""
        name, pair = type(self).__name__, getattr(self, "pair", None)
        for field in ("separate", "score_range"):
            if getattr(self, field) is not None and pair is None:
                raise UserError(
                    f"{name}.{field}={getattr(self, field)!r} concerns pairs of texts; "
                    "name the column of the second text, pair=, or leave it out."
                )
        for field in ("score_range", "score_scale"):
            value = getattr(self, field)
            if value is None:
                continue
            is_range = isinstance(value, tuple | list) and len(value) == 2
            if not (is_range and all(map(_is_finite, value)) and value[0] < value[1]):
                raise UserError(
                    f"{name}.{field}={value!r}: expected two numbers, the lowest and "
                    "the highest, such as (0, 5)."
                )
            object.__setattr__(self, field, tuple(map(float, value)))
        if self.score_range is None:
            return
        if (task := getattr(self, "task", None)) not in (None, "regression"):
            raise UserError(
                f"{name}.score_range={self.score_range!r} scales numbers, the task "
                f"'regression'; got task={task!r}."
            )
        object.__setattr__(self, "task", "regression")

    def reads_texts(self) -> bool:
        """Whether a tokenizer is needed."""
        return True

    def files(self) -> tuple[pathlib.Path, ...]:
        """The files of texts, and those of the tokenizer."""
        if self.tokenizer is None:
            return super().files()
        return (*super().files(), *as_tokenizer(self.tokenizer).files())


def _is_finite(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and bool(np.isfinite(value))


def with_scaled_scores(data: TextData, table: Table) -> Table:
    """A table whose scores of pairs are in `score_scale`, if a `score_range` is given.

    Raises:
      UserError: a score outside of the range.
    """
    if data.score_range is None:
        return table
    (low, high), (first, last) = data.score_range, data.score_scale
    y = np.asarray(table.y, np.float64)
    is_outside = ~((y >= low) & (y <= high))
    if is_outside.any():
        row = int(np.flatnonzero(is_outside)[0])
        raise UserError(
            f"{type(data).__name__}.score_range=({low:g}, {high:g}): the score of "
            f"{table.origins[row]} is {y[row]:g}."
        )
    note = f"scores from {low:g} to {high:g} are scaled to {first:g} to {last:g}"
    scaled = first + (y - low) * (last - first) / (high - low)
    return dataclasses.replace(table, y=scaled, notes=(*table.notes, note))


def token_ids(
    tokenizer: Tokenizer, columns: Sequence[Sequence[str]], separate: bool | None
) -> dict[str, np.ndarray]:
    """The ids and masks of texts, or of pairs, which are read at once or separately."""
    is_separate = separate and len(columns) == 2
    return tokenizer.separately(*columns) if is_separate else tokenizer(*columns)


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
        tokenizer = as_tokenizer(data.tokenizer)
        return {"x": token_ids(tokenizer, columns, data.separate)}
    return {
        "x": {
            name: np.asarray(column, object)
            for name, column in zip(("text", "pair"), columns)
        },
        "train_tokenizer": kind,
        "digests": text_digests(zip(*columns)),
    }


def text_digests(examples: Iterable[Sequence[str]]) -> np.ndarray:
    """A hash of the texts of each example, (n,) bytes."""
    joined = ("\0".join(texts).encode("utf-8", "surrogatepass") for texts in examples)
    return np.asarray([hashlib.sha256(text).hexdigest() for text in joined], "S64")


def word_fields(words: Sequence[Sequence[str]]) -> dict:
    """The fields of a `Table` that hold the words of n examples.

    They are tokenized once they are split, and their tags go with the pieces then.
    """
    array = np.empty(len(words), object)
    array[:] = [tuple(example) for example in words]
    return {
        "x": {WORDS: array},
        "train_tokenizer": "word_piece",
        "digests": text_digests(words),
    }
