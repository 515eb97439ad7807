"""Answers of a question from the logits of its windows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxtl.data.question_windows import OUTSIDE

N_BEST = 20  # spans that share the probability of an answer


class Span(NamedTuple):
    """A span of a context.

    Attributes:
      score: logit of its first token as a first one + logit of its last as a last one.
      start, end: its first character in the context, and the one behind its last.
    """

    score: float
    start: int
    end: int


def best_spans(
    start: np.ndarray, end: np.ndarray, logits: np.ndarray, longest: int, count: int
) -> list[Span]:
    """The spans of the largest score over all windows of one question.

    All spans are compared, while `run_qa` of transformers compares those between its 20
    best first and 20 best last tokens. A span that two windows hold counts twice, there
    and here.

    Args:
      start, end: (windows, length) of `ContextWindows`.
      logits: (windows, length, 2), of first and last tokens.
      longest: most tokens of a span.
      count: of spans, at most.

    Returns:
      The spans by falling score, [] where no window has a token of the context.
    """
    longest = min(longest, start.shape[1])
    inside = start != OUTSIDE
    values = np.where(inside[..., None], np.asarray(logits, np.float64), -np.inf)

    def following(x: np.ndarray, fill: float) -> np.ndarray:
        """(windows, length, longest): x of each token and of those behind it."""
        padded = np.pad(x, ((0, 0), (0, longest - 1)), constant_values=fill)
        return np.lib.stride_tricks.sliding_window_view(padded, longest, axis=1)

    scores = values[..., :1] + following(values[..., 1], -np.inf)
    ends = following(end, OUTSIDE)
    scores = np.where(ends > start[..., None], scores, -np.inf)
    flat = scores.reshape(-1)
    best = np.argsort(-flat, kind="stable")[:count] if count > 1 else [np.argmax(flat)]
    spans = []
    for index in best:
        window, token, further = np.unravel_index(index, scores.shape)
        if flat[index] > -np.inf:
            places = int(start[window, token]), int(ends[window, token, further])
            spans.append(Span(float(flat[index]), *places))
    return spans


def null_score(logits: np.ndarray) -> float:
    """The score of no answer: the least over windows of that of the token 0.

    Args:
      logits: (windows, length, 2) of one question.
    """
    return float(np.asarray(logits[:, 0], np.float64).sum(axis=1).min())


class Prediction(NamedTuple):
    """The answer of a question.

    Attributes:
      span: the best span; None where there is none, or none is the answer.
      score: of the answer, or of none.
      probability: of the answer: softmax of the scores of the `N_BEST` best spans, no
        answer included where questions may lack one, as in `run_qa`.
      null_lead: score of no answer − score of the best span; −∞ where questions always
        have an answer.
    """

    span: Span | None
    score: float
    probability: float
    null_lead: float


def predict_answer(
    start: np.ndarray,
    end: np.ndarray,
    logits: np.ndarray,
    longest: int,
    threshold: float | None,
) -> Prediction:
    """The answer of one question.

    Args:
      start, end, logits, longest: as for `best_spans`.
      threshold: no answer is predicted where its score leads that of the best span by
        more than this; None where questions always have an answer.
    """
    spans = best_spans(start, end, logits, longest, N_BEST)
    scores = [span.score for span in spans]
    null = -np.inf if threshold is None else null_score(logits)
    lead = null - scores[0] if spans else np.inf
    if threshold is not None:
        # It is one of the best, or stands behind them.
        is_full = len(scores) == N_BEST and null > scores[-1]
        scores = [*scores[: N_BEST - is_full], null]
    if not scores:
        return Prediction(None, -np.inf, 0.0, -np.inf)
    shares = np.exp(np.array(scores) - max(scores))
    shares /= shares.sum()
    if threshold is not None and lead > threshold:
        return Prediction(None, null, float(shares[-1]), lead)
    return Prediction(spans[0], spans[0].score, float(shares[0]), lead)
