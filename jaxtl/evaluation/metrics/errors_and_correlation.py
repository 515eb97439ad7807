"""Metrics of regression: errors, R², Pearson's and Spearman's correlation."""

import dataclasses
from typing import ClassVar

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.evaluation.metrics import output_metrics
from jaxtl.evaluation.metrics.base import Metric, Predictions, undefined


@dataclasses.dataclass(frozen=True, kw_only=True)
class _RegressionMetric(Metric):
    tasks: ClassVar[tuple[str, ...]] = ("regression",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanSquaredError(_RegressionMetric):
    """Squared error, mean over examples and targets.

    Attributes:
      root: whether the root of each target's error is taken before the mean over
        targets.
    """

    higher_is_better: ClassVar[bool] = False

    root: bool = False

    def measure(self, predictions: Predictions) -> float:
        outputs, targets = _columns(predictions)
        squares = np.square(outputs - targets)
        errors = np.average(squares, axis=0, weights=predictions.weights)
        return float(np.mean(np.sqrt(errors) if self.root else errors))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanAbsoluteError(_RegressionMetric):
    """Absolute error, mean over examples and targets."""

    higher_is_better: ClassVar[bool] = False

    def measure(self, predictions: Predictions) -> float:
        p = predictions
        return output_metrics.mae(p.outputs, p.labels, p.weights)


@dataclasses.dataclass(frozen=True, kw_only=True)
class R2(_RegressionMetric):
    """1 − SS_res / SS_tot, mean over targets.

    Of a constant target it is 1 where all outputs are exact, else 0.
    """

    def measure(self, predictions: Predictions) -> float:
        p = predictions
        if len(p.outputs) < 2:
            return undefined("it needs two examples")
        return output_metrics.r2(p.outputs, p.labels, p.weights)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PearsonCorrelation(_RegressionMetric):
    """Linear correlation of outputs and targets in [−1, 1], mean over targets."""

    def measure(self, predictions: Predictions) -> float:
        return _mean_correlation(*_columns(predictions), predictions.weights)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpearmanCorrelation(_RegressionMetric):
    """Correlation of the ranks of outputs and targets, ties by their mean rank."""

    def measure(self, predictions: Predictions) -> float:
        from scipy.stats import rankdata  # imports slowly

        if not predictions.has_equal_weights:
            raise UserError("SpearmanCorrelation has no weights of examples.")
        ranks = [rankdata(values, axis=0) for values in _columns(predictions)]
        return _mean_correlation(*ranks, predictions.weights)


def _columns(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and targets (N, targets) in float64."""
    targets = np.asarray(predictions.labels, np.float64)
    return predictions.outputs, targets.reshape(predictions.outputs.shape)


def _mean_correlation(
    outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray
) -> float:
    """Mean over columns of the weighted correlation; NaN where a column is constant."""
    if len(outputs) < 2:
        return undefined("it needs two examples")
    for what, values in (("outputs", outputs), ("targets", targets)):
        if (np.ptp(values, axis=0) == 0).any():
            return undefined(f"all {what} are equal")
    x, y = (v - np.average(v, axis=0, weights=weights) for v in (outputs, targets))
    # Divided by their norms first, since squares of tiny or huge values overflow.
    root = np.sqrt(weights)[:, None]
    x, y = (root * v / np.abs(v).max(axis=0) for v in (x, y))
    product = (x * y).sum(axis=0)
    r = product / (np.linalg.norm(x, axis=0) * np.linalg.norm(y, axis=0))
    return float(np.mean(np.clip(r, -1.0, 1.0)))
