"""The transition matrix of label noise: its checks, and its estimate from anchors."""

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.core.errors import UserError


def check_transition(
    matrix: ArrayLike, name: str = "the transition matrix"
) -> np.ndarray:
    """Checks that a transition matrix is square and stochastic.

    Args:
      matrix: T, (K, K), T[i, j] = P(observed label j | true class i).
      name: of the matrix, for messages.

    Returns:
      T as float64, rows divided by their sum.

    Raises:
      UserError: T is not square, has an entry below 0 or not finite, or a row that does
        not sum to 1 (within 1e-3).
    """
    try:
        array = np.asarray(matrix, np.float64)
    except (TypeError, ValueError):
        array = np.zeros(0)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not array.size:
        raise UserError(
            f"{name} must be a square matrix, P(observed | true) with a row per true "
            f"class; got {array.shape if array.size else repr(matrix)}."
        )
    if not np.isfinite(array).all() or (array < 0).any():
        bad = np.argwhere(~np.isfinite(array) | (array < 0))[0]
        raise UserError(
            f"{name} holds {array[tuple(bad)]:g} in row {bad[0]}, column {bad[1]}; "
            "probabilities are numbers in [0, 1]."
        )
    sums = array.sum(1)
    if (off := np.abs(sums - 1)).max() > 1e-3:
        row = int(off.argmax())
        transposed = np.abs(array.sum(0) - 1).max() <= 1e-3
        hint = "; the columns do, so it may be transposed" if transposed else ""
        raise UserError(
            f"{name} is not stochastic: row {row} sums to {sums[row]:.4g} where each "
            f"row must sum to 1{hint}."
        )
    return array / sums[:, None]


def estimate_transition(probabilities: ArrayLike, quantile: float = 1.0) -> np.ndarray:
    """Estimates the transition matrix from anchor points: T̂[i] = p(· | x̄ⁱ).

    The anchor x̄ⁱ is the example with the largest predicted probability of class i under
    a model trained on the noisy labels; its true class is taken to be i.

    Args:
      probabilities: (n, K), predictions of that model for the train examples or any
        others (labels are not needed).
      quantile: 1 takes the largest p(i | x); less takes the example at that quantile
        of it, against outliers (the paper takes 0.97 on CIFAR-100 and Clothing1M).

    Returns:
      T̂, (K, K), float64.

    Raises:
      UserError: predictions that are not distributions, or a quantile outside (0, 1].

    References:
      Patrini et al., Making Deep Neural Networks Robust to Label Noise, CVPR 2017, eq.
      12 and 13 and section 6.
    """
    p = check_probabilities(probabilities)
    if not 0 < quantile <= 1:
        raise UserError(f"quantile={quantile!r}: expected a number in (0, 1].")
    index = max(int(np.ceil(quantile * len(p))), 1) - 1
    anchors = np.argsort(p, axis=0, kind="stable")[index]
    return p[anchors]


def check_probabilities(probabilities: ArrayLike) -> np.ndarray:
    """Checks that every row is a distribution.

    Args:
      probabilities: (n, K).

    Returns:
      (n, K), float64, rows divided by their sum.

    Raises:
      UserError: another shape, an entry below 0 or not finite, or a row that does not
        sum to 1 (within 1e-3).
    """
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or not p.size:
        raise UserError(f"probabilities must be (examples, classes); got {p.shape}.")
    if not np.isfinite(p).all() or (p < 0).any():
        raise UserError("probabilities must be finite and at least 0.")
    sums = p.sum(1)
    if np.abs(sums - 1).max() > 1e-3:
        row = int(np.abs(sums - 1).argmax())
        raise UserError(
            f"probabilities must sum to 1 in each row; row {row} sums to "
            f"{sums[row]:.4g} (softmax the logits first)."
        )
    return p / sums[:, None]
