"""The confusion matrix and calibration of a classifier, as JSON, for plots."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from jaxtl.evaluation import metrics, thresholds


def classification_details(
    task: str,
    logits: ArrayLike,
    labels: ArrayLike,
    names: Sequence[str] = (),
    chosen: np.ndarray | None = None,
    max_classes: int = 100,
) -> dict[str, Any]:
    """The confusion matrix and calibration of a classifier, as JSON, for plots.

    Args:
      task: as for `metrics.compute`.
      logits: (N, outputs).
      labels: (N,).
      names: of the classes.
      chosen: the run's thresholds, by which the matrix counts predictions; None for ½.
      max_classes: the largest number of classes to describe.

    Returns:
      {"classes", "confusion": counts, rows true and columns predicted, "reliability":
      {"count", "confidence", "accuracy"} of equally wide bins of the confidence, means
      None where a bin is empty}; {} for other tasks, more classes, or logits that are
      not finite.
    """
    logits = np.asarray(logits, np.float64)
    is_finite = np.isfinite(logits).all()
    if task != "classification" or logits.shape[1] > max_classes or not is_finite:
        return {}
    correct = logits.argmax(-1) == labels
    confidence = special.softmax(logits, -1).max(-1)
    bins = metrics.confidence_bins(confidence, metrics.CALIBRATION_BINS)
    count = np.bincount(bins, minlength=metrics.CALIBRATION_BINS)

    def means(values: np.ndarray) -> list[float | None]:
        sums = np.bincount(bins, values, minlength=metrics.CALIBRATION_BINS)
        return [float(total / n) if n else None for total, n in zip(sums, count)]

    shifted = thresholds.shifted(task, logits, chosen)
    classes = [str(name) for name in names] or list(map(str, range(logits.shape[1])))
    return {
        "classes": classes,
        "confusion": metrics.confusion(shifted, labels).astype(int).tolist(),
        "reliability": {
            "count": count.tolist(),
            "confidence": means(confidence),
            "accuracy": means(correct),
        },
    }
