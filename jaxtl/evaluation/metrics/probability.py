"""Metrics of predicted probabilities: Brier score, likelihood, calibration."""

import dataclasses
from typing import ClassVar

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.evaluation.metrics import output_metrics
from jaxtl.evaluation.metrics.base import Metric, Predictions


@dataclasses.dataclass(frozen=True, kw_only=True)
class BrierScore(Metric):
    """Squared error of the probabilities; for "multilabel" the mean over labels.

    Attributes:
      halved: whether the sum over classes is halved, so that it lies in [0, 1]; None
        halves it for two classes alone, as scikit-learn does.

    References:
      Brier, Verification of Forecasts Expressed in Terms of Probability, 1950, eq. 2.
    """

    higher_is_better: ClassVar[bool] = False
    reads_scores: ClassVar[bool] = True
    tasks: ClassVar[tuple[str, ...]] = ("classification", "multilabel")

    halved: bool | None = None

    def measure(self, predictions: Predictions) -> float:
        p = predictions
        errors = np.square(p.probabilities - p.indicators)
        if p.task == "multilabel":
            return float(np.average(errors.mean(axis=1), weights=p.weights))
        halved = p.classes == 2 if self.halved is None else self.halved
        sums = errors.sum(axis=1) * (0.5 if halved else 1.0)
        return float(np.average(sums, weights=p.weights))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogLoss(Metric):
    """Negative log-likelihood of the labels in nats; for "multilabel" per label."""

    higher_is_better: ClassVar[bool] = False
    reads_scores: ClassVar[bool] = True
    tasks: ClassVar[tuple[str, ...]] = ("classification", "multilabel")

    def measure(self, predictions: Predictions) -> float:
        p = predictions
        multilabel = p.task == "multilabel"
        loss = output_metrics.label_nll if multilabel else output_metrics.nll
        return loss(p.outputs, p.labels, p.weights)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrationError(Metric):
    """Expected calibration error of the predicted class; see `metrics.ece`.

    Attributes:
      bins: intervals of confidence, of equal width.
    """

    higher_is_better: ClassVar[bool] = False
    reads_scores: ClassVar[bool] = True

    bins: int = output_metrics.CALIBRATION_BINS

    def check(self, task: str, class_names: tuple[str, ...], where: str) -> None:
        super().check(task, class_names, where)
        if not (isinstance(self.bins, int) and self.bins >= 1):
            raise UserError(
                f"{where}: bins={self.bins!r}: expected a whole number above 0."
            )

    def measure(self, predictions: Predictions) -> float:
        p = predictions
        return output_metrics.ece(p.outputs, p.labels, p.weights, bins=self.bins)
