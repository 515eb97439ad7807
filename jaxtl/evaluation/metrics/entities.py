"""Precision, recall and F-β of spans of words, as seqeval counts them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.core.errors import UserError, nearest
from jaxtl.core.names import listing
from jaxtl.evaluation.metrics.base import Metric, Predictions, note
from jaxtl.evaluation.metrics.spans import SCHEMES, letters, span_types, spans_of

_AVERAGES = ("micro", "macro", "weighted")


class SpanCounts(NamedTuple):
    """How many spans of each type are right, predicted, and labelled; (types,) each."""

    right: np.ndarray
    predicted: np.ndarray
    labelled: np.ndarray


def count_spans(
    labels: ArrayLike,
    predicted: ArrayLike,
    names: Sequence[str],
    scheme: str | None = None,
    weights: ArrayLike | None = None,
) -> SpanCounts:
    """Counts the spans of words.

    A span is right if a labelled one has its type, first and last word.

    Args:
      labels: (N, words) tags; those below 0 are left out, with what is predicted there.
      predicted: (N, words) tags.
      names: of the tags.
      scheme: a key of `spans.SCHEMES` to count strictly; None for the default way.
      weights: (N,), what a span of each example counts; None counts 1.

    Returns:
      Counts in the order of `spans.span_types(names)`.
    """
    labels, predicted = np.asarray(labels, np.int64), np.asarray(predicted, np.int64)
    examples = len(labels)
    is_word = np.concatenate([labels >= 0, np.ones((examples, 1), bool)], axis=1)
    end = np.full((examples, 1), -1)
    row = np.nonzero(is_word)[0]
    weights = np.ones(examples) if weights is None else np.asarray(weights, np.float64)
    kinds, keys, counts = len(span_types(names)), [], []
    for tags in (labels, predicted):
        spans = spans_of(np.concatenate([tags, end], 1)[is_word], names, scheme)
        of_span = weights[row[spans.start]]
        counts.append(np.bincount(spans.kind, of_span, minlength=kinds))
        # One number of each span: its end and its type beside its first word.
        key = (spans.start * (len(row) + 1) + spans.end) * max(kinds, 1) + spans.kind
        keys.append((key, spans.kind, of_span))
    is_right = np.isin(keys[0][0], keys[1][0])
    right = np.bincount(keys[0][1][is_right], keys[0][2][is_right], minlength=kinds)
    return SpanCounts(right, counts[1], counts[0])


def precision_recall_f(
    counts: SpanCounts, beta: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P, R and F-β = (1 + β²)·P·R / (β²·P + R), each 0 where it is 0 / 0.

    Args:
      counts: of spans by type, (types,) each.
      beta: how many times recall counts as much as precision.

    Returns:
      (P, R, F), each (types,) in [0, 1].
    """
    precision = _ratio(counts.right, counts.predicted)
    recall = _ratio(counts.right, counts.labelled)
    square = beta * beta
    f = _ratio((1 + square) * precision * recall, square * precision + recall)
    return precision, recall, f


def micro(counts: SpanCounts) -> SpanCounts:
    """The counts of all types together, (1,) each.

    Args:
      counts: of spans by type, (types,) each.

    Returns:
      Their sums, by which `precision_recall_f` gives micro averages.
    """
    return SpanCounts(*(part.sum(keepdims=True) for part in counts))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), 0.0)


def entity_report(
    labels: ArrayLike,
    predicted: ArrayLike,
    names: Sequence[str],
    *,
    scheme: str | None = None,
) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and number of labelled spans of every type.

    Args:
      labels, predicted, names, scheme: as for `count_spans`.

    Returns:
      {type: {"precision", "recall", "f1", "support"}}, and the averages "micro",
      "macro" and "weighted" (by support).
    """
    counts = count_spans(labels, predicted, names, scheme)
    kinds = span_types(names)
    values = precision_recall_f(counts)
    report = {
        kind: _row(*(part[i] for part in values), counts.labelled[i])
        for i, kind in enumerate(kinds)
        if counts.labelled[i] or counts.predicted[i]
    }
    total = counts.labelled.sum()
    for average in _AVERAGES:
        report[average] = _row(*_averages(counts, average, 1.0), total)
    return report


def _row(precision: Any, recall: Any, f1: Any, support: Any) -> dict[str, float]:
    values = map(float, (precision, recall, f1, support))
    return dict(zip(("precision", "recall", "f1", "support"), values))


def _averages(counts: SpanCounts, average: str, beta: float) -> list[float]:
    """P, R and F-β over the types that occur as a label or a prediction."""
    if average == "micro":
        return [float(part[0]) for part in precision_recall_f(micro(counts), beta)]
    occurs = (counts.labelled > 0) | (counts.predicted > 0)
    weights = np.where(occurs, 1.0, 0.0) if average == "macro" else counts.labelled
    if not weights.any():
        return [0.0, 0.0, 0.0]
    values = precision_recall_f(counts, beta)
    return [float(np.average(part, weights=weights)) for part in values]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EntityF1(Metric):
    """F-β of spans of words: one counts if its type and all of its words are right.

    Equal to seqeval: by default to its "default" mode, that of `conlleval`; with a
    scheme to its mode "strict". What is never predicted or labelled counts 0.

    Attributes:
      scheme: "IOB1", "IOB2", "IOE1", "IOE2", "IOBES" or "BILOU": a span counts only if
        its tags are in the order of this scheme; None counts every span.
      average: over the types: "micro" (of all spans together), "macro" (each type the
        same), "weighted" (by its labelled spans).
      beta: above 0; recall counts β times as much as precision.
      per_type: also measure each type, as "<name>[<type>]".
    """

    tasks: ClassVar[tuple[str, ...]] = ("entities",)
    _score: ClassVar[int] = 2  # of precision, recall, F-β

    scheme: Literal["IOB1", "IOB2", "IOE1", "IOE2", "IOBES", "BILOU"] | None = None
    average: Literal["micro", "macro", "weighted"] = "micro"
    beta: float = 1.0
    per_type: bool = False

    def check(self, task: str, class_names: tuple[str, ...], where: str) -> None:
        super().check(task, class_names, where)
        for field, value, known in (
            ("average", self.average, _AVERAGES),
            ("scheme", self.scheme, (None, *SCHEMES)),
        ):
            if value not in known:
                names = [name for name in known if name is not None]
                raise UserError(
                    f"{where}: {field}={value!r}{nearest(str(value), names)} "
                    f"(known: {', '.join(names)})."
                )
        if not 0 < self.beta < float("inf"):
            raise UserError(f"{where}: beta={self.beta!r}: expected a number above 0.")
        if self.scheme is not None:
            wrong = letters(class_names) - set(SCHEMES[self.scheme].letters)
            if wrong:
                tags = [name for name in class_names if name[:1] in wrong]
                raise UserError(
                    f"{where}: scheme={self.scheme!r} has no tags such as "
                    f"{listing(tags[:5])}."
                )

    def value_names(self, class_names: tuple[str, ...]) -> tuple[str, ...]:
        return span_types(class_names) if self.per_type else ()

    def measure(self, predictions: Predictions) -> float | Mapping[str, float]:
        p = predictions
        counts = count_spans(
            p.labels, p.predicted, p.class_names, self.scheme, p.weights
        )
        value = _averages(counts, self.average, self.beta)[self._score]
        missing = (
            counts.predicted,
            counts.labelled,
            counts.predicted + counts.labelled,
        )
        names = np.array(span_types(p.class_names))[missing[self._score] == 0]
        if len(names):
            what = ("predicted", "labelled", "labelled or predicted")[self._score]
            note(f"counts 0 for types without a {what} span: {listing(list(names))}")
        if not self.per_type:
            return value
        values = precision_recall_f(counts, self.beta)[self._score]
        return {"": value, **dict(zip(span_types(p.class_names), map(float, values)))}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EntityPrecision(EntityF1):
    """Share of the predicted spans that are right; options as `EntityF1`."""

    _score: ClassVar[int] = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class EntityRecall(EntityF1):
    """Share of the labelled spans that are predicted; options as `EntityF1`."""

    _score: ClassVar[int] = 1
