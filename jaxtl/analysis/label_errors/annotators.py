"""Several annotators per example: the error rates of each, and the likely labels.

Labels are estimated before training: `dawid_skene(annotations).labels`, or the rows
whose `posterior` is high enough, become the y of `tl.data.Arrays`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from jaxtl.core.errors import UserError


class Annotators(NamedTuple):
    """Estimates from annotations.

    Attributes:
      posterior: (items, K), P(true class | all annotations).
      labels: (items,), the most probable class.
      confusion: (annotators, K, K), P(annotator says j | true class i); the row of a
        class that no item has is uniform.
      prior: (K,), of the true classes.
      log_likelihood: of the annotations, in nats, without the multinomial coefficients,
        at the estimates that `posterior` was computed from.
      iterations: number of EM iterations.
    """

    posterior: np.ndarray
    labels: np.ndarray
    confusion: np.ndarray
    prior: np.ndarray
    log_likelihood: float
    iterations: int


def dawid_skene(
    annotations: ArrayLike,
    classes: int | None = None,
    iterations: int = 1000,
    tolerance: float = 1e-8,
) -> Annotators:
    """Estimates true classes and annotators' error rates by maximum likelihood (EM).

    EM starts from each item's share of votes and stops where the log-likelihood grows
    by less than `tolerance` nats.

    Args:
      annotations: (items, annotators) class indices, −1 where there is none; or
        (items, annotators, K) counts, for annotators that judge an item repeatedly.
      classes: K; None takes the largest index + 1. Unused for counts.
      iterations: maximum number of EM iterations.
      tolerance: in nats.

    Raises:
      UserError: annotations of another shape, a class outside [0, K), or an item that
        nobody annotated.

    References:
      Dawid & Skene, Maximum Likelihood Estimation of Observer Error-Rates Using the EM
      Algorithm, Applied Statistics 28 (1979), eq. 2.3 to 2.5 and 3.1.
    """
    counts = _counts(annotations, classes)
    votes = counts.sum(1)
    posterior, previous = votes / votes.sum(1, keepdims=True), -np.inf
    iteration = 0
    while iteration < iterations:
        iteration += 1
        prior, confusion = _maximize(counts, posterior)
        posterior, likelihood = _expect(counts, prior, confusion)
        if likelihood - previous < tolerance:
            break
        previous = likelihood
    labels = posterior.argmax(1)
    return Annotators(posterior, labels, confusion, prior, likelihood, iteration)


def _maximize(
    counts: np.ndarray, posterior: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Computes (prior (K,), confusion (annotators, K, K)): the M step, eq. 2.3, 2.4."""
    joint = np.einsum("ni,naj->aij", posterior, counts)
    mass = joint.sum(2, keepdims=True)
    empty = np.full_like(joint, 1 / counts.shape[2])
    return posterior.mean(0), np.divide(joint, mass, out=empty, where=mass > 0)


def _expect(
    counts: np.ndarray, prior: np.ndarray, confusion: np.ndarray
) -> tuple[np.ndarray, float]:
    """Computes (posterior (items, K), log-likelihood): the E step, eq. 2.5 and 2.7."""
    with np.errstate(divide="ignore"):
        log_prior, log_confusion = np.log(prior), np.log(confusion)
    # 0 · log 0 is 0: a class that an annotator never named has no influence.
    terms = special.xlogy(counts[:, :, None], confusion)
    impossible = (counts[:, :, None] > 0) & np.isinf(log_confusion)
    log_joint = log_prior + np.where(impossible, -np.inf, terms).sum((1, 3))
    evidence = special.logsumexp(log_joint, axis=1, keepdims=True)
    return np.exp(log_joint - evidence), float(evidence.sum())


def _counts(annotations: ArrayLike, classes: int | None) -> np.ndarray:
    """Converts annotations to float64 counts, (items, annotators, K)."""
    array = np.asarray(annotations)
    if array.ndim == 3:
        counts = array.astype(np.float64)
        if not np.isfinite(counts).all() or (counts < 0).any():
            raise UserError("annotations: counts must be finite and at least 0.")
    elif array.ndim == 2 and np.issubdtype(array.dtype, np.integer) and array.size:
        classes = classes if classes is not None else int(array.max()) + 1
        if array.max() >= classes or array.min() < -1:
            invalid = array.max() if array.max() >= classes else array.min()
            raise UserError(
                f"annotations hold the class {invalid}; expected 0 to {classes - 1}, "
                "or −1 for no annotation."
            )
        counts = (array[..., None] == np.arange(classes)).astype(np.float64)
    else:
        raise UserError(
            "annotations must be (items, annotators) whole numbers, or (items, "
            f"annotators, classes) counts; got {array.dtype} {array.shape}."
        )
    if (missing := counts.sum((1, 2)) == 0).any():
        raise UserError(f"annotations: nobody annotated item {int(missing.argmax())}.")
    return counts
