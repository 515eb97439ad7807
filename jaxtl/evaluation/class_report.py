"""Precision, recall and F1 of each class, and the examples that are most wrong."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special


class ClassScore(NamedTuple):
    """The predictions of one class, or of one label.

    Attributes:
      name: of the class.
      precision: share of the examples predicted so that are; NaN where none is
        predicted so.
      recall: share of the class's examples that are predicted so; NaN where there are
        none.
      f1: their harmonic mean, 2 · right / (predicted + examples); NaN without either.
      examples: that are of the class.
      predicted: that are predicted so.
    """

    name: str
    precision: float
    recall: float
    f1: float
    examples: int
    predicted: int


def class_scores(names: tuple[str, ...], confusion: ArrayLike) -> list[ClassScore]:
    """Scores of classes, in their order.

    Args:
      names: (K,) of the classes.
      confusion: (K, K) counts, rows true and columns predicted.
    """
    counts = np.asarray(confusion, np.int64)
    return _scores(names, counts.diagonal(), counts.sum(1), counts.sum(0))


def label_scores(
    names: tuple[str, ...], predicted: ArrayLike, labels: ArrayLike
) -> list[ClassScore]:
    """Scores of the labels of a multilabel task, in their order.

    Args:
      names: (L,) of the labels.
      predicted, labels: (n, L) of 0 and 1.
    """
    predicted, labels = np.asarray(predicted, bool), np.asarray(labels, bool)
    right = (predicted & labels).sum(0)
    return _scores(names, right, labels.sum(0), predicted.sum(0))


def _scores(
    names: tuple[str, ...], right: np.ndarray, true: np.ndarray, predicted: np.ndarray
) -> list[ClassScore]:
    def share(part: float, whole: float) -> float:
        return float(part / whole) if whole else float("nan")

    return [
        ClassScore(name, share(r, p), share(r, t), share(2 * r, t + p), int(t), int(p))
        for name, r, t, p in zip(names, right, true, predicted)
    ]


def example_losses(
    task: str, logits: ArrayLike, labels: ArrayLike
) -> np.ndarray | None:
    """How wrong the prediction of each example is, (n,) float64.

    Args:
      task: of the data.
      logits: (n, outputs).
      labels: (n, ...).

    Returns:
      −log p(label) of classes, summed over the labels of a multilabel task, and the
      squared error of quantities, summed over targets; None for other tasks.
    """
    logits = np.asarray(logits, np.float64)
    labels = np.asarray(labels)
    if task == "classification":
        rows = np.arange(len(labels))
        return -special.log_softmax(logits, -1)[rows, labels.astype(int)]
    if task == "multilabel":
        signs = np.where(labels > 0, 1.0, -1.0)
        return np.logaddexp(0.0, -signs * logits).sum(-1)
    if task == "regression":
        return ((logits - labels.reshape(logits.shape)) ** 2).sum(-1)
    return None
