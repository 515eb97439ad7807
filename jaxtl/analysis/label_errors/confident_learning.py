"""Confident learning: which labels are wrong, by predictions made out of sample."""

from typing import NamedTuple

import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.terms.noisy.transition_matrix import check_probabilities

METHODS = ("prune_by_noise_rate", "confident_joint")


class LabelErrors(NamedTuple):
    """Examples whose label is probably wrong, the most suspicious first.

    Attributes:
      rows: (m,), places in the labels that were given.
      given: (m,), their labels.
      suggested: (m,), the labels that the model would give instead.
      score: (m,), p(given) − max over other classes of p; the smaller the worse.
      joint: (K, K), estimated P(given label i, true label j); sums to 1.
      confident: (K, K), counts of the confident joint: given i, confidently j.
      transition: (K, K), P(given label j | true label i), rows sum to 1: what
        `noisy.ForwardCorrection` takes.
      thresholds: (K,), the mean p(j) over examples labelled j; inf for a class that no
        example has.
    """

    rows: np.ndarray
    given: np.ndarray
    suggested: np.ndarray
    score: np.ndarray
    joint: np.ndarray
    confident: np.ndarray
    transition: np.ndarray
    thresholds: np.ndarray


def find_label_errors(
    labels, probabilities, method: str = "prune_by_noise_rate"
) -> LabelErrors:
    """Ranks the labels that are probably wrong.

    Args:
      labels: (n,) given class indices.
      probabilities: (n, K) predictions by models that did not train on the example
        itself (cross-validation, or a held-out part): in sample a network repeats the
        labels that it has memorised.
      method: "prune_by_noise_rate" takes from each off-diagonal cell (i, j) of the
        estimated joint the n · joint[i, j] examples labelled i with the largest p(j) −
        p(i); "confident_joint" takes those that the confident joint counted there. Both
        leave alone an example whose given label is the most probable.

    Raises:
      UserError: labels and probabilities that don't fit each other.

    References:
      Northcutt, Jiang & Chuang, Confident Learning, JAIR 70 (2021), eq. 1 to 3 and
      sections 3.2 (methods 2 and 4).
    """
    p = check_probabilities(probabilities)
    labels = _checked(labels, p)
    check_method(method)
    thresholds = class_thresholds(labels, p)
    confidently = confident_class(p, thresholds)
    confident = confident_joint(labels, confidently, p.shape[1])
    joint = calibrated(confident, labels)
    if method == "confident_joint":
        wrong = (confidently >= 0) & (confidently != labels)
    else:
        wrong = pruned(labels, p, joint)
    wrong &= p.argmax(1) != labels
    score = margins(labels, p)
    rows = np.flatnonzero(wrong)
    rows = rows[np.argsort(score[rows], kind="stable")]
    return LabelErrors(
        rows=rows,
        given=labels[rows],
        suggested=p[rows].argmax(1),
        score=score[rows],
        joint=joint,
        confident=confident,
        transition=transition(joint),
        thresholds=thresholds,
    )


def check_method(method: str) -> None:
    """Raises UserError for a method that is not one of `METHODS`."""
    if method not in METHODS:
        raise UserError(
            f"method={method!r} is unknown{nearest(method, METHODS)} "
            f"(known: {', '.join(METHODS)})."
        )


def class_thresholds(labels, p) -> np.ndarray:
    """Returns t_j = mean of p(j) over examples labelled j, (K,): eq. 2."""
    classes = p.shape[1]
    count = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, p[np.arange(len(p)), labels], minlength=classes)
    return np.where(count > 0, sums / np.maximum(count, 1), np.inf)


def confident_class(p, thresholds) -> np.ndarray:
    """Returns (n,): the most probable class of those with p(j) ≥ t_j, −1 for none."""
    # Rounding must not exclude a class whose examples all have the same p.
    above = np.where(p >= thresholds - 1e-12, p, -1.0)
    return np.where(above.max(1) >= 0, above.argmax(1), -1)


def confident_joint(labels, confidently, classes: int) -> np.ndarray:
    """Returns counts[given label, confident class], (K, K) whole numbers: eq. 1."""
    there = confidently >= 0
    cells = labels[there] * classes + confidently[there]
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def calibrated(confident, labels) -> np.ndarray:
    """Returns the joint, (K, K): rows in proportion to the given labels' counts: eq. 3.

    A class that nothing was confidently counted for is taken to be labelled right.
    """
    classes = len(confident)
    count = np.bincount(labels, minlength=classes).astype(np.float64)
    mass = confident.sum(1, keepdims=True)
    shares = np.divide(confident, mass, out=np.eye(classes), where=mass > 0)
    joint = shares * count[:, None]
    return joint / joint.sum()


def transition(joint) -> np.ndarray:
    """Returns P(given j | true i), (K, K), of a joint of (given, true)."""
    mass = joint.sum(0)[:, None]
    return np.divide(joint.T, mass, out=np.eye(len(joint)), where=mass > 0)


def pruned(labels, p, joint) -> np.ndarray:
    """Returns bools (n,): prune by noise rate, method 4."""
    wrong = np.zeros(len(labels), bool)
    for given in range(len(joint)):
        mine = np.flatnonzero(labels == given)
        for true in range(len(joint)):
            many = min(round(len(labels) * joint[given, true]), len(mine))
            if given == true or many == 0:
                continue
            margin = p[mine, true] - p[mine, given]
            wrong[mine[np.argsort(-margin, kind="stable")[:many]]] = True
    return wrong


def margins(labels, p) -> np.ndarray:
    """Returns p(given) − max over other classes of p, (n,), in [−1, 1]."""
    rows = np.arange(len(p))
    others = p.copy()
    others[rows, labels] = -np.inf
    return p[rows, labels] - others.max(1)


def _checked(labels, p) -> np.ndarray:
    found = np.asarray(labels)
    if found.shape != (len(p),) or not np.issubdtype(found.dtype, np.integer):
        raise UserError(
            f"labels must be {len(p)} whole numbers, one per row of probabilities; got "
            f"{found.dtype} {found.shape}."
        )
    if p.shape[1] < 2:
        raise UserError("probabilities must be of at least two classes.")
    if found.min() < 0 or found.max() >= p.shape[1]:
        bad = found.min() if found.min() < 0 else found.max()
        raise UserError(
            f"labels hold the class {bad}; the probabilities are of classes 0 to "
            f"{p.shape[1] - 1}."
        )
    return found
