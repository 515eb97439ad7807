"""Questions with windows of their contexts: tokens, their characters, and labels.

A context that does not fit beside its question is cut into windows that overlap, as
`run_qa` of transformers does.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxtl.core import progress
from jaxtl.core.errors import UserError
from jaxtl.data.tokenizer import Tokenizer, library

if TYPE_CHECKING:
    import tokenizers

NO_ANSWER = -1  # character of an answer that a context does not hold
OUTSIDE = -1  # characters of tokens outside of the context
_CHUNK = 1000  # questions that are tokenized at once


class ContextWindows(NamedTuple):
    """Windows of n questions, those of one question one after the other.

    Attributes:
      x: what a tokenizer gives of pairs, (windows, length) each.
      question: int32 (windows,), the question of each.
      start, end: (windows, length), the first character of each token in the context,
        and the one behind its last; `OUTSIDE` where a token is not of the context.
      halved: questions so long that no more than the stride is left for the context:
        their windows share half of that.
    """

    x: dict[str, np.ndarray]
    question: np.ndarray
    start: np.ndarray
    end: np.ndarray
    halved: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Questions:
    """The questions that the rows of a data set are windows of.

    Attributes:
      question, start, end: of each row, as in `ContextWindows`.
      contexts: (n,) of the questions.
      answers: (n,) all right answers of each, () where the context has none.
      stride: tokens of the context that neighboring windows share.
      max_answer_length: most tokens of an answer that is predicted.
    """

    question: np.ndarray
    start: np.ndarray
    end: np.ndarray
    contexts: tuple[str, ...]
    answers: tuple[tuple[str, ...], ...]
    stride: int
    max_answer_length: int

    @functools.cached_property
    def may_lack_answers(self) -> bool:
        """Whether any question has no answer (v2.0): then none may be predicted."""
        return not all(self.answers)

    def prediction_settings(self) -> dict[str, int | bool]:
        """What predictions for other files need, as JSON."""
        return {
            "stride": self.stride,
            "max_answer_length": self.max_answer_length,
            "may_lack_answers": self.may_lack_answers,
        }

    def of_rows(self, rows: np.ndarray) -> np.ndarray:
        """The questions that some rows are about, each once, in order."""
        return np.unique(self.question[rows])


def windows_by_question(question: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields each question that some windows are of, with the indices of these windows.

    Args:
      question: (windows,), the question of each.
    """
    order = np.argsort(question, kind="stable")
    numbers, first = np.unique(question[order], return_index=True)
    yield from zip(numbers.tolist(), np.split(order, first[1:]))


def halved_note(halved: int, stride: int) -> list[str]:
    """What is said of `ContextWindows.halved`; [] where it is 0."""
    if not halved:
        return []
    return [
        f"{halved:,} questions leave no more than stride={stride} tokens of a window "
        "for the context: their windows share half of them"
    ]


def context_windows(
    tokenizer: Tokenizer, questions: Sequence[str], contexts: Sequence[str], stride: int
) -> ContextWindows:
    """Tokenizes questions with their contexts.

    Args:
      tokenizer: its `max_length` is that of a window.
      questions, contexts: n texts each; blanks in front of a question are left out.
      stride: tokens of a context that neighboring windows share.

    Raises:
      UserError: a question that leaves no room for its context.
    """
    engine = library().Tokenizer.from_str(tokenizer.to_json())
    questions = [question.lstrip() for question in questions]
    strides = _strides(engine, questions, stride)
    parts: list[list[_Tokens]] = [[] for _ in questions]
    rule = engine.truncation
    with progress.Task("tokenizing questions", len(questions)) as task:
        for value in np.unique(strides).tolist():
            engine.enable_truncation(
                rule["max_length"],
                stride=value,
                strategy="only_second",
                direction=rule["direction"].lower(),
            )
            numbers = np.flatnonzero(strides == value)
            for start in range(0, len(numbers), _CHUNK):
                chunk = numbers[start : start + _CHUNK].tolist()
                pairs = [(questions[i], contexts[i]) for i in chunk]
                for i, encoding in zip(chunk, engine.encode_batch(pairs)):
                    parts[i] = [*map(_tokens, [encoding, *encoding.overflowing])]
                task.advance(len(chunk))
    halved = int((strides < stride).sum())
    return _padded(tokenizer, parts, halved, max(map(len, contexts), default=0))


def _strides(
    engine: tokenizers.Tokenizer, questions: Sequence[str], stride: int
) -> np.ndarray:
    """The tokens that windows of each question share, less than they have room for."""
    limit = engine.truncation["max_length"]
    engine.no_truncation()
    engine.no_padding()
    lengths: list[int] = []
    for start in range(0, len(questions), _CHUNK):
        chunk = list(questions[start : start + _CHUNK])
        encodings = engine.encode_batch(chunk, add_special_tokens=False)
        lengths += [len(encoding.ids) for encoding in encodings]
    engine.enable_truncation(limit)
    special = engine.num_special_tokens_to_add(is_pair=True)
    rooms = limit - special - np.array(lengths, np.int64)
    if (rooms < 2).any():
        i = int(np.argmin(rooms))
        raise UserError(
            f"max_length={limit}: the question {questions[i]!r:.80} has "
            f"{lengths[i]} tokens, which leaves no room for its context; raise "
            "max_length, or shorten the question."
        )
    return np.where(rooms > stride, stride, rooms // 2)


class _Tokens(NamedTuple):
    """The tokens of one window, (length,) each; as in `ContextWindows`."""

    ids: np.ndarray
    types: np.ndarray
    start: np.ndarray
    end: np.ndarray


def _tokens(encoding: tokenizers.Encoding) -> _Tokens:
    is_context = np.array([part == 1 for part in encoding.sequence_ids], bool)
    spans = np.asarray(encoding.offsets, np.int32).reshape(-1, 2)
    start, end = np.where(is_context[:, None], spans, OUTSIDE).T
    ids, types = (np.asarray(v, np.int32) for v in (encoding.ids, encoding.type_ids))
    return _Tokens(ids, types, start, end)


def _padded(
    tokenizer: Tokenizer, parts: list[list[_Tokens]], halved: int, longest: int
) -> ContextWindows:
    """The windows of all questions, padded to one length."""
    windows = [window for part in parts for window in part]
    question = np.repeat(np.arange(len(parts), dtype=np.int32), [*map(len, parts)])
    length = tokenizer.bucket(max((len(w.ids) for w in windows), default=1))
    shape = (len(windows), length)
    ids = np.full(shape, tokenizer.pad_id, np.int32)
    types, mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
    # Most contexts have fewer characters than 16 bits count.
    dtype = np.int16 if longest < 2**15 else np.int32
    start, end = np.full(shape, OUTSIDE, dtype), np.full(shape, OUTSIDE, dtype)
    for row, window in enumerate(windows):
        here = slice(len(window.ids))
        ids[row, here], types[row, here], mask[row, here] = *window[:2], True
        start[row, here], end[row, here] = window[2:]
    x = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    return ContextWindows(x, question, start, end, halved)


def span_labels(
    start: np.ndarray, end: np.ndarray, answers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The first and last token of answers, 0 and 0 in windows that do not hold them.

    Args:
      start, end: of windows, as in `ContextWindows`.
      answers: (windows, 2) the answer's first character in the context, and the one
        behind its last; `NO_ANSWER` twice for none.

    Returns:
      int32 (windows, 2) tokens, and bool (windows,), whether a window has the answer.
    """
    first, last = answers[:, :1], answers[:, 1:]
    inside = start != OUTSIDE
    before, behind = inside & (start <= first), inside & (end >= last)
    holds = before.any(1) & behind.any(1) & (first[:, 0] != NO_ANSWER)
    first_token = start.shape[1] - 1 - np.argmax(before[:, ::-1], axis=1)
    last_token = np.argmax(behind, axis=1)
    # Tokens of one character's bytes have the same place: the answer is all of them.
    tokens = np.sort(np.stack([first_token, last_token], axis=1), axis=1)
    return np.where(holds[:, None], tokens, 0).astype(np.int32), holds
