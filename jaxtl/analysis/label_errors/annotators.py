"""Several annotators per example: how good each is, and what the label most likely is.

The estimate is a preparation: `dawid_skene(annotations).labels` (or rows of `posterior`
where it is sure enough) become the y of `tl.data.Arrays`.
"""

from typing import NamedTuple

import numpy as np
from scipy import special

from jaxtl.core.errors import UserError


class Annotators(NamedTuple):
    """What the annotations say.

    Attributes:
      posterior: (items, K), P(true class | all annotations).
      labels: (items,), the most probable class.
      confusion: (annotators, K, K), P(annotator says j | true class i); a row of a
        class that nobody has is uniform.
      prior: (K,), of the true classes.
      log_likelihood: of the annotations at the estimates that `posterior` rests on, in
        nats, without the multinomial coefficients.
      iterations: that were taken.
    """

    posterior: np.ndarray
    labels: np.ndarray
    confusion: np.ndarray
    prior: np.ndarray
    log_likelihood: float
    iterations: int


def dawid_skene(
    annotations, classes: int | None = None, iterations: int = 1000, tolerance=1e-8
) -> Annotators:
    """Maximum likelihood of true classes and of annotators' errors, by EM.

    It begins with each item's share of votes and stops where the log-likelihood grows
    by less than `tolerance` nats.

    Args:
      annotations: (items, annotators) class indices, −1 where there is none; or
        (items, annotators, K) counts, for annotators that judge an item repeatedly.
      classes: K; None takes the largest index + 1. Unused for counts.
      iterations: at most.
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
    posterior, before = votes / votes.sum(1, keepdims=True), -np.inf
    taken = 0
    while taken < iterations:
        taken += 1
        prior, confusion = maximised(counts, posterior)
        posterior, likelihood = expected(counts, prior, confusion)
        if likelihood - before < tolerance:
            break
        before = likelihood
    labels = posterior.argmax(1)
    return Annotators(posterior, labels, confusion, prior, likelihood, taken)


def maximised(counts, posterior) -> tuple[np.ndarray, np.ndarray]:
    """Returns (prior (K,), confusion (annotators, K, K)): eq. 2.3 and 2.4."""
    joint = np.einsum("ni,naj->aij", posterior, counts)
    mass = joint.sum(2, keepdims=True)
    empty = np.full_like(joint, 1 / counts.shape[2])
    return posterior.mean(0), np.divide(joint, mass, out=empty, where=mass > 0)


def expected(counts, prior, confusion) -> tuple[np.ndarray, float]:
    """Returns (posterior (items, K), log-likelihood): eq. 2.5 and 2.7."""
    with np.errstate(divide="ignore"):
        log_prior, log_confusion = np.log(prior), np.log(confusion)
    # 0 · log 0 is 0: what was never said does not count against a class.
    terms = special.xlogy(counts[:, :, None], confusion)
    impossible = (counts[:, :, None] > 0) & np.isinf(log_confusion)
    log_joint = log_prior + np.where(impossible, -np.inf, terms).sum((1, 3))
    evidence = special.logsumexp(log_joint, axis=1, keepdims=True)
    return np.exp(log_joint - evidence), float(evidence.sum())


def _counts(annotations, classes: int | None) -> np.ndarray:
    """Returns (items, annotators, K) float64 counts."""
    found = np.asarray(annotations)
    if found.ndim == 3:
        counts = found.astype(np.float64)
        if not np.isfinite(counts).all() or (counts < 0).any():
            raise UserError("annotations: counts must be finite and at least 0.")
    elif found.ndim == 2 and np.issubdtype(found.dtype, np.integer) and found.size:
        known = classes if classes is not None else int(found.max()) + 1
        if found.max() >= known or found.min() < -1:
            bad = found.max() if found.max() >= known else found.min()
            raise UserError(
                f"annotations hold the class {bad}; expected 0 to {known - 1}, or −1 "
                "for no annotation."
            )
        counts = (found[..., None] == np.arange(known)).astype(np.float64)
    else:
        raise UserError(
            "annotations must be (items, annotators) whole numbers, or (items, "
            f"annotators, classes) counts; got {found.dtype} {found.shape}."
        )
    if (missing := counts.sum((1, 2)) == 0).any():
        raise UserError(f"annotations: nobody annotated item {int(missing.argmax())}.")
    return counts
