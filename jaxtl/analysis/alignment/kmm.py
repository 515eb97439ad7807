"""Kernel mean matching: weights that give the source the target's mean embedding."""

import numpy as np
from sklearn.base import BaseEstimator

from jaxtl.analysis.alignment import base
from jaxtl.core.errors import UserError


def problem(xs, xt, bandwidth: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns K and κ: K_ij = k(x_i, x_j), (n, n), κ_i = n/m Σ_j k(x_i, x'_j).

    ½βᵀKβ − κᵀβ is n²/2 times the squared distance of the weighted source's and the
    target's mean embeddings, less a constant.

    References:
      Huang, Smola, Gretton, Borgwardt & Schölkopf, Correcting Sample Selection Bias by
      Unlabeled Data, NeurIPS 2006, eq. 9 to 12.
    """
    gram = base.rbf(xs, xs, bandwidth)
    return gram, len(xs) / len(xt) * base.rbf(xs, xt, bandwidth).sum(1)


def project(v: np.ndarray, top: float, low: float, high: float) -> np.ndarray:
    """Returns the nearest point to v with entries in [0, top], sum in [low, high]."""
    inside = np.clip(v, 0.0, top)
    total = inside.sum()
    if low <= total <= high:
        return inside
    goal = low if total < low else high
    # Σ clip(v − s) falls with s and is linear between the 2n kinks, so find the piece.
    kinks = np.sort(np.concatenate([v, v - top]))
    left, right = 0, len(kinks) - 1
    while right - left > 1:
        middle = (left + right) // 2
        if np.clip(v - kinks[middle], 0.0, top).sum() >= goal:
            left = middle
        else:
            right = middle
    a, b = (np.clip(v - kinks[i], 0.0, top).sum() for i in (left, right))
    share = (a - goal) / (a - b) if a > b else 0.0
    shift = kinks[left] + share * (kinks[right] - kinks[left])
    return np.clip(v - shift, 0.0, top)


def solve(gram, kappa, top: float, slack: float, steps: int, tolerance: float):
    """Returns β minimising ½βᵀKβ − κᵀβ with 0 ≤ β ≤ top, |Σβ − n| ≤ n·slack.

    Accelerated projected gradient, restarted where it overshoots; K's largest
    eigenvalue sets the step. It stops where a step moves no weight by more than
    `tolerance`, or after `steps`.

    References:
      Huang et al., 2006, eq. 12. O'Donoghue & Candès, Adaptive Restart for Accelerated
      Gradient Schemes, Found. Comput. Math. 15 (2015).
    """
    n = len(kappa)
    low, high = n * (1 - slack), n * (1 + slack)
    beta = point = project(np.ones(n), top, low, high)
    length = np.linalg.eigvalsh(gram)[-1]
    momentum = 1.0
    for _ in range(steps):
        new = project(point - (gram @ point - kappa) / length, top, low, high)
        moved = new - point
        if np.abs(moved).max() <= tolerance:
            return new
        if moved @ (new - beta) < 0:
            momentum, point = 1.0, beta
            if np.array_equal(point, new):
                return new
            new = project(point - (gram @ point - kappa) / length, top, low, high)
        following = 0.5 * (1 + np.sqrt(1 + 4 * momentum**2))
        point = new + (momentum - 1) / following * (new - beta)
        beta, momentum = new, following
    return beta


class KMM(BaseEstimator):
    """Weights of source examples, without estimating a density.

    Attributes:
      bandwidth: of the RBF kernel exp(−‖x − x'‖²/2b²); None is the median distance.
      top: B, the largest weight.
      slack: ε, how far the mean weight may be from 1; None is (√n − 1)/√n.
      steps: of the solver, at most.
      tolerance: change of a weight at which the solver stops.
      weights: (n,) after `fit`, each ≥ 0; a `sample_weight`.

    References:
      Huang et al., NeurIPS 2006 (B = 1000, ε as here).
    """

    def __init__(
        self,
        bandwidth: float | None = None,
        top: float = 1000.0,
        slack: float | None = None,
        steps: int = 20_000,
        tolerance: float = 1e-6,
    ):
        self.bandwidth = bandwidth
        self.top = top
        self.slack = slack
        self.steps = steps
        self.tolerance = tolerance

    def fit(self, xs, xt, ys=None):
        """Learns the weights from features alone; returns self.

        Raises:
          UserError: bad features or settings, or weights that can't sum so high.
        """
        xs, xt = base.pair(self, xs, xt)
        root = np.sqrt(len(xs))
        slack = (root - 1) / root if self.slack is None else self.slack
        base.number(self, "slack", slack, 0)
        base.number(self, "top", self.top, 0, open_=True)
        if self.top < 1 - slack:
            raise UserError(
                f"KMM: top={self.top!r} keeps the mean weight below 1 − slack = "
                f"{1 - slack:.3g}; expected a number of at least that."
            )
        width = base.bandwidth(self, self.bandwidth, np.concatenate([xs, xt]))
        gram, kappa = problem(xs, xt, width)
        self.bandwidth_ = width
        self.weights = solve(gram, kappa, self.top, slack, self.steps, self.tolerance)
        return self
