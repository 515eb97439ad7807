"""Metrics of the order of scores: area under the ROC curve, average precision."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.core.names import listing
from jaxtl.data.class_index import class_index
from jaxtl.evaluation.metrics.base import Metric, Predictions, note, undefined
from jaxtl.evaluation.metrics.f_score import check_average

MULTI_CLASS = ("ovr", "ovo")
# (positive (N,), scores (N,), weights (N,)) -> number
_Binary = Callable[[np.ndarray, np.ndarray, np.ndarray], float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AUROC(Metric):
    """Area under the receiver operating characteristic; 0.5 is chance.

    Of two classes, that of the second one. NaN where a class that it needs has no label
    or no other class has one.

    Attributes:
      average: over classes or labels: "macro" (each the same), "weighted" (by their
        labels), "micro" (of all decisions together, one against the rest).
      multi_class: of three or more classes: "ovr", each against the rest, or "ovo", the
        mean over pairs of classes (Hand & Till, Machine Learning 45, 2001).
      label: the class to measure alone, by name or index.
      per_class: also measure each class against the rest, as "<name>[<class>]".
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification", "multilabel")
    reads_scores: ClassVar[bool] = True

    average: Literal["macro", "weighted", "micro"] = "macro"
    multi_class: Literal["ovr", "ovo"] = "ovr"
    label: str | int | None = None
    per_class: bool = False

    def check(self, task: str, class_names: tuple[str, ...], where: str) -> None:
        super().check(task, class_names, where)
        check_average(where, self.average, task, ("macro", "weighted", "micro"))
        if self.multi_class not in MULTI_CLASS:
            raise UserError(
                f"{where}: multi_class={self.multi_class!r}"
                f"{nearest(self.multi_class, MULTI_CLASS)} (known: ovr, ovo)."
            )
        if self.multi_class == "ovo" and self.average == "micro":
            raise UserError(f"{where}: average='micro' needs multi_class='ovr'.")
        if self.label is not None:
            class_index(self.label, class_names, f"{where}: label")

    def measure(self, predictions: Predictions) -> float | Mapping[str, float]:
        p = predictions
        is_binary = p.task == "classification" and p.classes == 2
        if self.label is not None or is_binary:
            label = 1
            if self.label is not None:
                label = class_index(self.label, p.class_names, "label")
            value = _one_class(p, label, _auroc, needs_rest=True)
        elif self.multi_class == "ovo" and p.task == "classification":
            value = self._one_against_one(p)
        else:
            value = _averaged(p, self.average, _auroc, needs_rest=True)
        if not self.per_class:
            return value
        return {"": value, **_by_class(p, _auroc, needs_rest=True)}

    def _one_against_one(self, p: Predictions) -> float:
        if not p.has_equal_weights:
            raise UserError(
                "AUROC(multi_class='ovo') has no weights of examples; take 'ovr'."
            )
        present = np.unique(p.labels.astype(int))
        if len(present) < 2:
            return undefined(f"all labels are {p.name(present[0])}")
        if len(present) < p.classes:
            absent = sorted(set(range(p.classes)) - set(present.tolist()))
            names = listing([p.class_names[k] for k in absent])
            note(f"the mean over pairs of classes with a label, without {names}")
        values, shares = [], []
        for first, second in itertools.combinations(present, 2):
            rows = (p.labels == first) | (p.labels == second)
            pair = [
                _auroc(p.labels[rows] == k, p.log_odds[rows, k], p.weights[rows])
                for k in (first, second)
            ]
            values.append(np.mean(pair))
            shares.append(rows.mean())
        weights = shares if self.average == "weighted" else None
        return float(np.average(values, weights=weights))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AveragePrecision(Metric):
    """Σ (Rᵢ − Rᵢ₋₁)·Pᵢ over thresholds: the area under precision against recall.

    Of two classes, that of the second one. 0 by convention for a class without a label.

    Attributes:
      average: over classes or labels: "macro" (each the same), "weighted" (by their
        labels), "micro" (of all decisions together).
      label: the class to measure alone, by name or index.
      per_class: also measure each class against the rest, as "<name>[<class>]".
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification", "multilabel")
    reads_scores: ClassVar[bool] = True

    average: Literal["macro", "weighted", "micro"] = "macro"
    label: str | int | None = None
    per_class: bool = False

    def check(self, task: str, class_names: tuple[str, ...], where: str) -> None:
        super().check(task, class_names, where)
        check_average(where, self.average, task, ("macro", "weighted", "micro"))
        if self.label is not None:
            class_index(self.label, class_names, f"{where}: label")

    def measure(self, predictions: Predictions) -> float | Mapping[str, float]:
        p = predictions
        is_binary = p.task == "classification" and p.classes == 2
        if self.label is not None or is_binary:
            label = 1
            if self.label is not None:
                label = class_index(self.label, p.class_names, "label")
            value = _one_class(p, label, _average_precision, needs_rest=False)
        else:
            value = _averaged(p, self.average, _average_precision, needs_rest=False)
        if not self.per_class:
            return value
        return {"": value, **_by_class(p, _average_precision, needs_rest=False)}


def _auroc(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score  # imports slowly

    return float(roc_auc_score(positive, scores, sample_weight=weights))


def _average_precision(
    positive: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> float:
    from sklearn.metrics import average_precision_score  # imports slowly

    return float(average_precision_score(positive, scores, sample_weight=weights))


def _one_class(
    p: Predictions, label: int, metric: _Binary, *, needs_rest: bool
) -> float:
    """The metric of one class against the rest, where it is defined."""
    positive = p.indicators[:, label]
    if not positive.any():
        reason = f"{p.name(label)} has no label"
        if needs_rest:
            return undefined(reason)
        note(f"0 by convention, as {reason}")
        return 0.0
    if needs_rest and positive.all():
        return undefined(f"all labels are {p.name(label)}")
    return metric(positive, p.log_odds[:, label], p.weights)


def _by_class(p: Predictions, metric: _Binary, *, needs_rest: bool) -> dict[str, float]:
    return {
        name: _one_class(p, label, metric, needs_rest=needs_rest)
        for label, name in enumerate(p.class_names)
    }


def _averaged(
    p: Predictions, average: str, metric: _Binary, *, needs_rest: bool
) -> float:
    """The metric of each class against the rest, averaged over classes.

    Args:
      p: the predictions.
      average: "macro", "weighted" or "micro".
      metric: (positive (N,), scores (N,), weights (N,)) -> number.
      needs_rest: whether it is NaN, not 0, for a class without a label.
    """
    if average == "micro":
        positive = p.indicators.ravel()
        if positive.min() == positive.max():
            what = "all labels occur" if positive.any() else "no label occurs"
            if needs_rest:
                return undefined(what)
            note(f"{positive[0]} by convention, as {what}")
        return metric(positive, p.log_odds.ravel(), np.repeat(p.weights, p.classes))
    values = [
        _one_class(p, label, metric, needs_rest=needs_rest)
        for label in range(p.classes)
    ]
    if average == "macro":
        return float(np.mean(values))
    shares = p.weights @ p.indicators
    if not shares.any():
        return undefined("no label occurs")
    return float(np.average(values, weights=shares))
