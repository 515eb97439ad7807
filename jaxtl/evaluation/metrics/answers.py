"""Exact match and F1 of answers, as the official scripts of SQuAD compute them.

References:
  Rajpurkar et al.: SQuAD, EMNLP 2016; Know What You Don't Know, ACL 2018
  (evaluate-v1.1.py, evaluate-v2.0.py).
"""

import collections
import dataclasses
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.core.errors import UserError
from jaxtl.data.dataset import QUESTION_ANSWERING
from jaxtl.evaluation.metrics.base import (
    Metric,
    Predictions,
    counted,
    example_weights,
    undefined,
)

# The numbers of each question that are measured, the columns of (questions, COLUMNS):
# exact match and F1 of the best span, and of no answer; the lead of the score of no
# answer; and the sum of the losses of its windows, with their number.
EXACT, F1, NULL_EXACT, NULL_F1, NULL_LEAD, LOSS, WINDOWS = range(7)
COLUMNS = 7
NEVER = -1e30  # the lead of no answer where every question has one
KINDS = ("HasAns", "NoAns")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalized_answer(text: str) -> str:
    """Lower case, without punctuation, articles and further blanks.

    Args:
      text: an answer as it stands in a context.

    Returns:
      The text in lower case, without punctuation and the articles a, an, the, words
      separated by single blanks, as in SQuAD's program.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def answer_scores(answer: str, right: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1 of the words of an answer, the largest over right ones.

    Args:
      answer: "" for none.
      right: all right answers; () where there is none.

    Returns:
      (exact match, 0 or 1; F1 in [0, 1]); both are 1 for "" where no answer is right.
    """
    golds = [gold for text in right if (gold := normalized_answer(text))] or [""]
    words = normalized_answer(answer)
    exact = float(words in golds)
    return exact, max(_word_f1(words.split(), gold.split()) for gold in golds)


def _word_f1(words: list[str], gold: list[str]) -> float:
    if not words or not gold:
        return float(words == gold)
    shared = collections.Counter(words) & collections.Counter(gold)
    hits = sum(shared.values())
    return 2 * hits / (len(words) + len(gold))


def scores_by_lead(outputs: np.ndarray, column: int) -> np.ndarray:
    """The exact match or F1 of each question: of no answer where its lead is above 0.

    Args:
      outputs: (questions, COLUMNS).
      column: `EXACT` or `F1`.

    Returns:
      (questions,) in [0, 1].
    """
    null = {EXACT: NULL_EXACT, F1: NULL_F1}[column]
    is_null = outputs[:, NULL_LEAD] > 0
    return np.where(is_null, outputs[:, null], outputs[:, column])


def mean_score(column: int) -> Callable[..., float]:
    """The task's metric of a column, called as those of `task_metrics`.

    Args:
      column: `EXACT` or `F1`.

    Returns:
      `(outputs, labels, weights) -> float`, the weighted mean over questions; labels
      are not read.
    """

    def metric(outputs: ArrayLike, labels: Any = None, weights: Any = None) -> float:
        values = scores_by_lead(np.asarray(outputs, np.float64), column)
        return float(np.average(values, weights=weights))

    return metric


def span_nll(outputs: ArrayLike, labels: Any = None, weights: Any = None) -> float:
    """Mean of the cross-entropies of first and last tokens in nats, over windows.

    Args:
      outputs: (questions, COLUMNS), of which `LOSS` and `WINDOWS` are read.
      labels: not used.
      weights: (questions,); None for 1 each.

    Returns:
      Σ loss / Σ windows: a question of several windows counts for each of them.
    """
    outputs = np.asarray(outputs, np.float64)
    weights = np.ones(len(outputs)) if weights is None else np.asarray(weights)
    return float(weights @ outputs[:, LOSS] / (weights @ outputs[:, WINDOWS]))


def _text_outputs(texts: Sequence[str], right: Sequence[Sequence[str]]) -> np.ndarray:
    """(N, COLUMNS) of answers, of which "" is no answer.

    Raises:
      UserError: numbers that differ, or what is no text.
    """
    if len(texts) != len(right):
        raise UserError(
            f"there are {len(texts)} answers, but right ones of {len(right)} questions."
        )
    rows = np.zeros((len(texts), COLUMNS))
    rows[:, NULL_LEAD] = NEVER
    for i, (text, golds) in enumerate(zip(texts, right)):
        is_list = not isinstance(golds, str) and isinstance(golds, Sequence)
        if (
            not isinstance(text, str)
            or not is_list
            or not all(isinstance(gold, str) for gold in golds)
        ):
            raise UserError(
                f"question {i} has the answer {text!r:.60} and the right ones "
                f"{golds!r:.60}; expected a text and a list of texts."
            )
        rows[i, [EXACT, F1]] = answer_scores(text, golds)
    return rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerF1(Metric):
    """F1 of the words of answers, mean over questions; equal to SQuAD's scripts.

    Attributes:
      per_kind: also measure the questions that have an answer ("<name>[HasAns]") and
        those that have none ("<name>[NoAns]").
    """

    tasks: ClassVar[tuple[str, ...]] = (QUESTION_ANSWERING,)
    _column: ClassVar[int] = F1

    per_kind: bool = False

    def value_names(self, class_names: tuple[str, ...]) -> tuple[str, ...]:
        return KINDS if self.per_kind else ()

    def measure(self, predictions: Predictions) -> float | Mapping[str, float]:
        p = predictions
        values = scores_by_lead(p.outputs, self._column)
        parts = {"": float(np.average(values, weights=p.weights))}
        for kind, has_answer in zip(KINDS, (True, False)) if self.per_kind else ():
            rows = (p.labels > 0) == has_answer
            if rows.any():
                parts[kind] = float(np.average(values[rows], weights=p.weights[rows]))
            else:
                what = "an answer" if has_answer else "none"
                parts[kind] = undefined(f"no question has {what}")
        return parts if self.per_kind else parts[""]

    def __call__(
        self,
        outputs: Sequence[str],
        labels: Sequence[Sequence[str]],
        weights: ArrayLike | None = None,
        *,
        class_names: tuple[str, ...] = (),
    ) -> Any:
        """Measures answers outside of an experiment.

        Args:
          outputs: (N,) texts of answers, "" where none is given.
          labels: (N,) all right answers of each question, () where it has none.
          weights: (N,) of the questions, at least 0; None counts each once.
          class_names: not used.

        Raises:
          UserError: no question, numbers that differ, or what is no text.
        """
        rows = _text_outputs(outputs, labels)
        has_answer = np.array([bool(len(right)) for right in labels], np.int64)
        weights = example_weights(weights, rows)
        predictions = Predictions(QUESTION_ANSWERING, rows, has_answer, weights)
        return self.measure(counted(predictions))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerExactMatch(AnswerF1):
    """Share of questions whose answer is a right one; options as `AnswerF1`."""

    _column: ClassVar[int] = EXACT
