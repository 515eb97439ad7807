"""Metrics of one output for each example: classes, labels and numbers, in float64.

Every metric takes `(logits, labels, weights)`: logits (N, outputs) before the output
activation, labels (N,) or (N, outputs), and weights (N,) of the examples or None.

Every metric is NaN where a logit of an example that counts is not finite: the largest
of NaNs is the first, so a diverged model would score the share of class 0. That holds
for −∞ as well: a class that must not be predicted gets a large negative number.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from jaxtl.core.errors import UserError

CALIBRATION_BINS = 15
Array, Weights = ArrayLike, ArrayLike | None


def weights_or_ones(weights: Weights, rows: int) -> np.ndarray:
    """The weights of rows, 1 each without."""
    if weights is None:
        return np.ones(rows)
    return np.asarray(weights, np.float64)


def _mean(values: np.ndarray, weights: Weights) -> float:
    return float(np.average(values, weights=weights_or_ones(weights, len(values))))


def nan_unless_finite(metric: Callable[..., Any]) -> Callable[..., Any]:
    """The metric, NaN where an output of an example that counts is not finite."""

    @functools.wraps(metric)
    def checked(
        logits: Array, labels: Any = None, weights: Weights = None, **settings: Any
    ) -> Any:
        outputs = np.asarray(logits, np.float64)
        if weights is not None:  # a padded row may hold NaN, or a label of -1
            rows = np.asarray(weights) > 0
            outputs, weights = outputs[rows], np.asarray(weights)[rows]
            labels = labels if labels is None else np.asarray(labels)[rows]
        if np.isfinite(outputs).all():
            return metric(outputs, labels, weights, **settings)
        value = metric(np.ones_like(outputs), labels, weights, **settings)
        return np.full_like(value, np.nan, dtype=np.float64)[()]

    return checked


@nan_unless_finite
def accuracy(logits: Array, labels: Array, weights: Weights = None) -> float:
    """Share of examples whose largest logit is the label's.

    Args:
      logits: (N, K) before the softmax.
      labels: (N,) classes in [0, K).
      weights: (N,) of the examples, 0 for padding; None for 1 each.

    Returns:
      A number in [0, 1]; of equal logits the first class is the prediction.
    """
    return _mean(np.argmax(logits, -1) == np.asarray(labels), weights)


@nan_unless_finite
def confusion(logits: Array, labels: Array, weights: Weights = None) -> np.ndarray:
    """The confusion matrix.

    Args:
      logits: (N, K) before the softmax.
      labels: (N,) classes in [0, K).
      weights: (N,) of the examples, 0 for padding; None for 1 each.

    Returns:
      float64 (K, K): sums of `weights`, [label, prediction].
    """
    classes = np.shape(logits)[-1]
    cells = np.asarray(labels).astype(int) * classes + np.argmax(logits, -1)
    weights = weights_or_ones(weights, len(cells))
    counts = np.bincount(cells, weights, minlength=classes * classes)
    return counts.reshape(classes, classes)


@nan_unless_finite
def balanced_accuracy(logits: Array, labels: Array, weights: Weights = None) -> float:
    """Mean recall over the classes that occur as a label (chance level 1 / K).

    Args:
      logits: (N, K) before the softmax.
      labels: (N,) classes in [0, K).
      weights: (N,) of the examples, 0 for padding; None for 1 each.

    Returns:
      A number in [0, 1]; every such class counts the same.
    """
    counts = confusion(logits, labels, weights)
    total = counts.sum(1)
    return float(np.mean(np.diag(counts)[total > 0] / total[total > 0]))


@nan_unless_finite
def macro_f1(logits: Array, labels: Array, weights: Weights = None) -> float:
    """Mean F1 over the classes that occur as a label or as a prediction.

    Args:
      logits: (N, K) before the softmax.
      labels: (N,) classes in [0, K).
      weights: (N,) of the examples, 0 for padding; None for 1 each.

    Returns:
      A number in [0, 1]; every such class counts the same.
    """
    counts = confusion(logits, labels, weights)
    both = counts.sum(0) + counts.sum(1)
    return float(np.mean(2 * np.diag(counts)[both > 0] / both[both > 0]))


@nan_unless_finite
def nll(logits: Array, labels: Array, weights: Weights = None) -> float:
    """Negative log-likelihood of the labels in nats, mean over examples.

    Args:
      logits: (N, K) before the softmax.
      labels: (N,) classes in [0, K).
      weights: (N,) of the examples, 0 for padding; None for 1 each.

    Returns:
      A number ≥ 0, finite also where a label's probability is rounded to 0.
    """
    log_p = special.log_softmax(np.asarray(logits, np.float64), axis=-1)
    labels = np.asarray(labels).astype(int)
    return _mean(-np.take_along_axis(log_p, labels[:, None], -1)[:, 0], weights)


@nan_unless_finite
def ece(
    logits: Array,
    labels: Array,
    weights: Weights = None,
    bins: int = CALIBRATION_BINS,
) -> float:
    """Expected calibration error: Σ_b |B_b| / N · |accuracy(B_b) − confidence(B_b)|.

    Confidence is the largest softmax probability; B_b are `bins` intervals of equal
    width (0, 1/bins], (1/bins, 2/bins], …

    Args:
      logits: (N, K) before the softmax.
      labels: (N,) classes in [0, K).
      weights: (N,) of the examples, 0 for padding; None for 1 each.
      bins: number of intervals.

    Returns:
      A number in [0, 1].

    References:
      Guo, Pleiss, Sun, Weinberger, On Calibration of Modern Neural Networks, ICML
      2017, eq. 3 (15 bins).
    """
    p = special.softmax(np.asarray(logits, np.float64), axis=-1)
    confidence = p.max(-1)
    gap = (p.argmax(-1) == np.asarray(labels)) - confidence
    weights = weights_or_ones(weights, len(gap))
    gaps = np.bincount(confidence_bins(confidence, bins), weights * gap, minlength=bins)
    return float(np.abs(gaps).sum() / weights.sum())


def confidence_bins(confidence: np.ndarray, bins: int) -> np.ndarray:
    """The interval (0, 1/bins], (1/bins, 2/bins], … that holds each confidence.

    Args:
      confidence: numbers in [0, 1], any shape.
      bins: number of intervals of equal width.

    Returns:
      Integers of the same shape in [0, bins); 0 belongs to the first interval.
    """
    return np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)


@nan_unless_finite
def brier(logits: Array, labels: Array, weights: Weights = None) -> float:
    """Brier score: Σ_c (p_c − [c is the label])², the sum over classes, in [0, 2].

    Args:
      logits: (N, K) before the softmax.
      labels: (N,) classes in [0, K).
      weights: (N,) of the examples, 0 for padding; None for 1 each.

    Returns:
      Mean over examples, in [0, 2].

    References:
      Brier, Verification of Forecasts Expressed in Terms of Probability, 1950, eq. 2.
    """
    p = special.softmax(np.asarray(logits, np.float64), axis=-1)
    truth = np.eye(p.shape[-1])[np.asarray(labels).astype(int)]
    return _mean(np.square(p - truth).sum(-1), weights)


def _as_outputs(logits: Array, labels: Array) -> tuple[np.ndarray, np.ndarray]:
    """Both as (N, outputs) in float64; (N,) becomes (N, 1)."""
    pair = [np.asarray(values, np.float64) for values in (logits, labels)]
    outputs, targets = (values.reshape(len(values), -1) for values in pair)
    if outputs.shape != targets.shape:
        raise UserError(
            f"labels have the shape {np.shape(labels)}, and the model's outputs "
            f"{np.shape(logits)}; the two shapes must be equal."
        )
    return outputs, targets


@nan_unless_finite
def label_accuracy(logits: Array, labels: Array, weights: Weights = None) -> float:
    """Share of correct yes/no labels, 1 − Hamming loss.

    Args:
      logits: (N, L) before the sigmoid; above 0 is a yes.
      labels: (N, L) of 0 and 1.
      weights: (N,) of the examples, 0 for padding; None for 1 each.

    Returns:
      A number in [0, 1], the mean over examples and labels.
    """
    logits, labels = _as_outputs(logits, labels)
    return _mean(((logits > 0) == (labels > 0.5)).mean(-1), weights)


@nan_unless_finite
def exact_match(logits: Array, labels: Array, weights: Weights = None) -> float:
    """Share of examples whose labels are all correct ("subset accuracy").

    Args:
      logits: (N, L) before the sigmoid; above 0 is a yes.
      labels: (N, L) of 0 and 1.
      weights: (N,) of the examples, 0 for padding; None for 1 each.

    Returns:
      A number in [0, 1], at most `label_accuracy`.
    """
    logits, labels = _as_outputs(logits, labels)
    return _mean(((logits > 0) == (labels > 0.5)).all(-1), weights)


@nan_unless_finite
def label_macro_f1(logits: Array, labels: Array, weights: Weights = None) -> float:
    """Mean over labels of F1; 0 for a label neither present nor predicted.

    Args:
      logits: (N, L) before the sigmoid; above 0 is a yes.
      labels: (N, L) of 0 and 1.
      weights: (N,) of the examples, 0 for padding; None for 1 each.

    Returns:
      A number in [0, 1]; every label counts the same.
    """
    logits, labels = _as_outputs(logits, labels)
    predicted, true = logits > 0, labels > 0.5
    weights = weights_or_ones(weights, len(predicted))[:, None]
    total = (weights * predicted).sum(0) + (weights * true).sum(0)
    hits = 2 * (weights * (predicted & true)).sum(0)
    f1 = np.where(total > 0, hits / np.where(total > 0, total, 1), 0.0)
    return float(np.mean(f1))


@nan_unless_finite
def label_confusion(
    logits: Array, labels: Array, weights: Weights = None
) -> np.ndarray:
    """Counts of each yes/no label.

    Args:
      logits: (N, L) before the sigmoid; above 0 is a yes.
      labels: (N, L) of 0 and 1.
      weights: (N,) of the examples, 0 for padding; None for 1 each.

    Returns:
      float64 (L, 2, 2): sums of `weights`, [label, truth, prediction].
    """
    outputs, targets = _as_outputs(logits, labels)
    predicted, true = (outputs > 0).astype(int), (targets > 0.5).astype(int)
    cells = np.eye(4)[2 * true + predicted]  # (N, L, 4)
    counts = np.tensordot(weights_or_ones(weights, len(outputs)), cells, axes=1)
    return counts.reshape(-1, 2, 2)


@nan_unless_finite
def label_nll(logits: Array, labels: Array, weights: Weights = None) -> float:
    """Binary cross-entropy in nats, mean over examples and labels.

    Args:
      logits: (N, L) before the sigmoid.
      labels: (N, L) of 0 and 1, or probabilities.
      weights: (N,) of the examples, 0 for padding; None for 1 each.

    Returns:
      A number ≥ 0.
    """
    logits, labels = _as_outputs(logits, labels)
    return _mean((np.logaddexp(0, logits) - labels * logits).mean(-1), weights)


@nan_unless_finite
def mse(outputs: Array, targets: Array, weights: Weights = None) -> float:
    """Squared error, mean over examples and outputs, without ½.

    Args:
      outputs: (N, D), or (N,) for one output.
      targets: of the same shape.
      weights: (N,) of the examples, 0 for padding; None for 1 each.

    Returns:
      A number ≥ 0, in the squared unit of the targets.
    """
    outputs, targets = _as_outputs(outputs, targets)
    return _mean(np.square(outputs - targets).mean(-1), weights)


@nan_unless_finite
def mae(outputs: Array, targets: Array, weights: Weights = None) -> float:
    """Absolute error, mean over examples and outputs.

    Args:
      outputs: (N, D), or (N,) for one output.
      targets: of the same shape.
      weights: (N,) of the examples, 0 for padding; None for 1 each.

    Returns:
      A number ≥ 0, in the unit of the targets.
    """
    outputs, targets = _as_outputs(outputs, targets)
    return _mean(np.abs(outputs - targets).mean(-1), weights)


@nan_unless_finite
def r2(outputs: Array, targets: Array, weights: Weights = None) -> float:
    """Coefficient of determination 1 − SS_res / SS_tot, mean over outputs.

    For an output whose target is constant it is 1 if the residuals are 0, else 0.

    Args:
      outputs: (N, D), or (N,) for one output.
      targets: of the same shape.
      weights: (N,) of the examples, 0 for padding; None for 1 each.

    Returns:
      A number of at most 1; 0 is as good as the mean of the targets.
    """
    outputs, targets = _as_outputs(outputs, targets)
    weights = weights_or_ones(weights, len(targets))[:, None]
    mean = (weights * targets).sum(0) / weights.sum()
    residual = (weights * np.square(outputs - targets)).sum(0)
    total = (weights * np.square(targets - mean)).sum(0)
    # Not by the variance: rounding gives a constant one of about 1e-33.
    varies = np.ptp(targets[weights[:, 0] > 0], axis=0) > 0
    unexplained = residual / np.where(varies, total, 1.0)
    constant = np.where(residual > 0, 0.0, 1.0)
    return float(np.mean(np.where(varies, 1.0 - unexplained, constant)))
