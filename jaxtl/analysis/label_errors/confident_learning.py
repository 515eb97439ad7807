"""Confident learning: finds wrong labels by out-of-sample predictions."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.core.errors import UserError, nearest
from jaxtl.terms.noisy.transition_matrix import check_probabilities

METHODS = ("prune_by_noise_rate", "confident_joint")


class LabelErrors(NamedTuple):
    """Examples whose label is probably wrong, the most suspicious first.

    Attributes:
      rows: (m,), indices into the labels.
      labels: (m,), their given labels.
      suggested: (m,), the labels that the model would give instead.
      score: (m,), p(given) − max over other classes of p; a smaller one is more
        suspicious.
      joint: (K, K), estimated P(given label i, true label j); sums to 1.
      confident: (K, K), counts of the confident joint: given i, confidently j.
      transition: (K, K), P(given label j | true label i); rows sum to 1. It fits
        `noisy.ForwardCorrection`.
      thresholds: (K,), the mean p(j) over examples labelled j; inf for a class that no
        example has.
    """

    rows: np.ndarray
    labels: np.ndarray
    suggested: np.ndarray
    score: np.ndarray
    joint: np.ndarray
    confident: np.ndarray
    transition: np.ndarray
    thresholds: np.ndarray


def find_label_errors(
    labels: ArrayLike,
    probabilities: ArrayLike,
    method: str = "prune_by_noise_rate",
) -> LabelErrors:
    """Ranks the labels that are probably wrong.

    Args:
      labels: (n,) given class indices.
      probabilities: (n, K) predictions by models that did not train on the example
        itself (cross-validation, or a held-out part): in sample a network repeats the
        labels that it has memorized.
      method: "prune_by_noise_rate" takes from each off-diagonal cell (i, j) of the
        estimated joint the n · joint[i, j] examples labelled i with the largest p(j) −
        p(i); "confident_joint" takes those that the confident joint counted there.
        Neither takes an example whose given label is the most probable.

    Returns:
      The suspicious examples, the most suspicious first, and the estimated joint.

    Raises:
      UserError: labels and probabilities that don't fit each other.

    References:
      Northcutt, Jiang & Chuang, Confident Learning, JAIR 70 (2021), eq. 1 to 3 and
      sections 3.2 (methods 2 and 4).
    """
    p = check_probabilities(probabilities)
    labels = _check_labels(labels, p)
    check_method(method)
    thresholds = _class_thresholds(labels, p)
    confidently = _confident_class(p, thresholds)
    confident = _confident_joint(labels, confidently, p.shape[1])
    joint = _calibrate(confident, labels)
    if method == "confident_joint":
        wrong = (confidently >= 0) & (confidently != labels)
    else:
        wrong = _prune(labels, p, joint)
    wrong &= p.argmax(1) != labels
    score = margins(labels, p)
    rows = np.flatnonzero(wrong)
    rows = rows[np.argsort(score[rows], kind="stable")]
    return LabelErrors(
        rows=rows,
        labels=labels[rows],
        suggested=p[rows].argmax(1),
        score=score[rows],
        joint=joint,
        confident=confident,
        transition=_transition(joint),
        thresholds=thresholds,
    )


def check_method(method: str) -> None:
    """Raises UserError for a method that is not one of `METHODS`."""
    if method not in METHODS:
        raise UserError(
            f"method={method!r} is unknown{nearest(method, METHODS)} "
            f"(known: {', '.join(METHODS)})."
        )


def _class_thresholds(labels: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Computes t_j = mean of p(j) over examples labelled j, (K,): eq. 2."""
    classes = p.shape[1]
    count = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, p[np.arange(len(p)), labels], minlength=classes)
    return np.where(count > 0, sums / np.maximum(count, 1), np.inf)


def _confident_class(p: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Finds the most probable class of those with p(j) ≥ t_j, (n,); −1 for none."""
    # Rounding must not exclude a class whose examples all have the same p.
    above = np.where(p >= thresholds - 1e-12, p, -1.0)
    return np.where(above.max(1) >= 0, above.argmax(1), -1)


def _confident_joint(
    labels: np.ndarray, confidently: np.ndarray, classes: int
) -> np.ndarray:
    """Counts examples by (given label, confident class), (K, K) integers: eq. 1."""
    confident = confidently >= 0
    cells = labels[confident] * classes + confidently[confident]
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def _calibrate(confident: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Computes the joint, (K, K), whose row sums are the given labels' shares: eq. 3.

    The labels of a class without a confident count are taken to be right.
    """
    classes = len(confident)
    count = np.bincount(labels, minlength=classes).astype(np.float64)
    mass = confident.sum(1, keepdims=True)
    shares = np.divide(confident, mass, out=np.eye(classes), where=mass > 0)
    joint = shares * count[:, None]
    return joint / joint.sum()


def _transition(joint: np.ndarray) -> np.ndarray:
    """Computes P(given j | true i), (K, K), from the joint P(given i, true j)."""
    mass = joint.sum(0)[:, None]
    return np.divide(joint.T, mass, out=np.eye(len(joint)), where=mass > 0)


def _prune(labels: np.ndarray, p: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """Marks wrong labels, (n,) bools: prune by noise rate, method 4."""
    wrong = np.zeros(len(labels), bool)
    for label in range(len(joint)):
        rows = np.flatnonzero(labels == label)
        for true in range(len(joint)):
            count = min(round(len(labels) * joint[label, true]), len(rows))
            if label == true or count == 0:
                continue
            margin = p[rows, true] - p[rows, label]
            wrong[rows[np.argsort(-margin, kind="stable")[:count]]] = True
    return wrong


def margins(labels: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Computes p(given) − max over other classes of p, (n,), in [−1, 1].

    Args:
      labels: (n,) given class indices.
      p: (n, K) probabilities.
    """
    rows = np.arange(len(p))
    p_other = p.copy()
    p_other[rows, labels] = -np.inf
    return p[rows, labels] - p_other.max(1)


def _check_labels(labels: ArrayLike, p: np.ndarray) -> np.ndarray:
    """Converts labels to an integer array, (n,); UserError where they don't fit p."""
    labels = np.asarray(labels)
    if labels.shape != (len(p),) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"labels must be {len(p)} whole numbers, one per row of probabilities; got "
            f"{labels.dtype} {labels.shape}."
        )
    if p.shape[1] < 2:
        raise UserError("probabilities must be of at least two classes.")
    if labels.min() < 0 or labels.max() >= p.shape[1]:
        invalid = labels.min() if labels.min() < 0 else labels.max()
        raise UserError(
            f"labels hold the class {invalid}; the probabilities are of classes 0 to "
            f"{p.shape[1] - 1}."
        )
    return labels
