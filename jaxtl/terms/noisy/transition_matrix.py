"""The transition matrix of label noise: what one is, and anchor points that show it."""

import numpy as np

from jaxtl.core.errors import UserError


def check_transition(matrix, where: str = "the transition matrix") -> np.ndarray:
    """Returns T as float64 (K, K), T[i, j] = P(given label j | true class i).

    Raises:
      UserError: T is not square, has an entry below 0 or not finite, or a row that does
        not sum to 1 (within 1e-3).
    """
    try:
        made = np.asarray(matrix, np.float64)
    except (TypeError, ValueError):
        made = np.zeros(0)
    if made.ndim != 2 or made.shape[0] != made.shape[1] or not made.size:
        raise UserError(
            f"{where} must be a square matrix, P(given | true) with a row per true "
            f"class; got {made.shape if made.size else repr(matrix)}."
        )
    if not np.isfinite(made).all() or (made < 0).any():
        bad = np.argwhere(~np.isfinite(made) | (made < 0))[0]
        raise UserError(
            f"{where} holds {made[tuple(bad)]:g} in row {bad[0]}, column {bad[1]}; "
            "probabilities are numbers in [0, 1]."
        )
    sums = made.sum(1)
    if (off := np.abs(sums - 1)).max() > 1e-3:
        row = int(off.argmax())
        transposed = np.abs(made.sum(0) - 1).max() <= 1e-3
        hint = "; the columns do, so it may be transposed" if transposed else ""
        raise UserError(
            f"{where} is not stochastic: row {row} sums to {sums[row]:.4g} where each "
            f"row must sum to 1{hint}."
        )
    return made / sums[:, None]


def estimate_transition(probabilities, quantile: float = 1.0) -> np.ndarray:
    """Returns T̂ (K, K) from anchor points: T̂[i] = p(· | x̄ⁱ).

    The anchor x̄ⁱ is the example that a model trained on the noisy labels holds for
    class i most surely, so it is taken to be of that class without doubt.

    Args:
      probabilities: (n, K), that model's predictions, of the train examples or of any
        others (labels are not needed).
      quantile: 1 takes the largest p(i | x); less takes the example at that quantile
        of it, against outliers (the paper takes 0.97 on CIFAR-100 and Clothing1M).

    Raises:
      UserError: predictions that are not distributions, or a quantile outside (0, 1].

    References:
      Patrini et al., Making Deep Neural Networks Robust to Label Noise, CVPR 2017, eq.
      12 and 13 and section 6.
    """
    p = check_probabilities(probabilities)
    if not 0 < quantile <= 1:
        raise UserError(f"quantile={quantile!r}: expected a number in (0, 1].")
    place = max(int(np.ceil(quantile * len(p))), 1) - 1
    anchors = np.argsort(p, axis=0, kind="stable")[place]
    return p[anchors]


def check_probabilities(probabilities) -> np.ndarray:
    """Returns (n, K) float64; UserError where rows are no distributions."""
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
