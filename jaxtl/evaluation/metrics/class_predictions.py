"""Metrics of the predicted class: accuracy, Matthews correlation, Cohen's κ."""

import dataclasses
import math
from typing import ClassVar, Literal

import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.evaluation.metrics import output_metrics
from jaxtl.evaluation.metrics.base import Metric, Predictions, note, undefined

KAPPA_WEIGHTS = (None, "linear", "quadratic")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracy(Metric):
    """Share of examples whose predicted class is right; of labels for "multilabel"."""

    tasks: ClassVar[tuple[str, ...]] = ("classification", "multilabel")

    def measure(self, predictions: Predictions) -> float:
        p = predictions
        is_right = p.predicted == p.labels
        shares = is_right.reshape(len(is_right), -1).mean(axis=1)
        return float(np.average(shares, weights=p.weights))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopKAccuracy(Metric):
    """Share of examples whose label is among the k classes of largest output.

    Of equal outputs the later class comes first, as in
    `sklearn.metrics.top_k_accuracy_score`.

    Attributes:
      k: at least 1, below the number of classes.
    """

    reads_scores: ClassVar[bool] = True

    k: int = 5

    def check(self, task: str, class_names: tuple[str, ...], where: str) -> None:
        super().check(task, class_names, where)
        if not (isinstance(self.k, int) and 1 <= self.k < len(class_names)):
            raise UserError(
                f"{where}: k={self.k!r}: expected 1 ≤ k < {len(class_names)}, the "
                "number of classes."
            )

    def measure(self, predictions: Predictions) -> float:
        p = predictions
        order = np.argsort(p.outputs, axis=1, kind="stable")[:, ::-1]
        hits = (order[:, : self.k] == p.labels[:, None]).any(axis=1)
        return float(np.average(hits, weights=p.weights))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanRankError(Metric):
    """Mean distance of the predicted class from the label, classes in their order."""

    higher_is_better: ClassVar[bool] = False

    def measure(self, predictions: Predictions) -> float:
        p = predictions
        return float(np.average(np.abs(p.predicted - p.labels), weights=p.weights))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BalancedAccuracy(Metric):
    """Mean recall over the classes that occur as a label.

    Attributes:
      adjusted: whether chance level is 0 instead of 1 / classes; a perfect score is 1.
    """

    adjusted: bool = False

    def measure(self, predictions: Predictions) -> float:
        counts = _confusion(predictions)
        totals = counts.sum(axis=1)
        occurs = totals > 0
        value = float(np.mean(np.diag(counts)[occurs] / totals[occurs]))
        if not self.adjusted:
            return value
        if occurs.sum() < 2:
            return undefined(_only_label(predictions))
        chance = 1 / occurs.sum()
        return float((value - chance) / (1 - chance))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatthewsCorrelation(Metric):
    """Correlation of predicted and true classes in [−1, 1], for two or more classes.

    It is 0 by convention where all predictions, or all labels, are of one class.

    References:
      Gorodkin, Comparing Two K-Category Assignments by a K-Category Correlation
      Coefficient, Comput. Biol. Chem. 28 (2004).
    """

    def measure(self, predictions: Predictions) -> float:
        counts = _confusion(predictions)
        labels, guesses = counts.sum(axis=1), counts.sum(axis=0)
        for what, totals in (("labels", labels), ("predictions", guesses)):
            if (totals > 0).sum() == 1:
                name = predictions.name(int(totals.argmax()))
                note(f"0 by convention, as all {what} are {name}")
                return 0.0
        total = counts.sum()
        covariance = np.trace(counts) * total - labels @ guesses
        spread = (total**2 - labels @ labels) * (total**2 - guesses @ guesses)
        return float(covariance / math.sqrt(spread))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CohenKappa(Metric):
    """Agreement of predictions and labels beyond chance, 1 − Σ w·O / Σ w·E.

    Attributes:
      weights: of a disagreement between classes i and j: None counts each the same,
        "linear" by |i − j|, "quadratic" by (i − j)², for classes in an order.

    References:
      Cohen, Weighted Kappa, Psychological Bulletin 70 (1968).
    """

    weights: Literal["linear", "quadratic"] | None = None

    def check(self, task: str, class_names: tuple[str, ...], where: str) -> None:
        super().check(task, class_names, where)
        if self.weights not in KAPPA_WEIGHTS:
            raise UserError(
                f"{where}: weights={self.weights!r}"
                f"{nearest(self.weights, KAPPA_WEIGHTS[1:])} (known: None, 'linear', "
                "'quadratic')."
            )

    def measure(self, predictions: Predictions) -> float:
        observed = _confusion(predictions)
        expected = np.outer(observed.sum(axis=1), observed.sum(axis=0))
        expected /= observed.sum()
        index = np.arange(len(observed))
        distance = np.abs(index[:, None] - index).astype(np.float64)
        cost = {None: distance > 0, "linear": distance, "quadratic": distance**2}
        disagreement = (cost[self.weights] * expected).sum()
        if disagreement == 0:
            return undefined(f"{_only_label(predictions)}, and so are predictions")
        return float(1 - (cost[self.weights] * observed).sum() / disagreement)


def _confusion(predictions: Predictions) -> np.ndarray:
    """counts[label, prediction], (K, K)."""
    p = predictions
    return output_metrics.confusion(p.outputs, p.labels, p.weights)


def _only_label(predictions: Predictions) -> str:
    return f"all labels are {predictions.name(int(predictions.labels[0]))}"
