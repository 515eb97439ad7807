"""Kernel mean matching: weights that give the source the target's mean embedding."""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator

from jaxtl.analysis.alignment import base
from jaxtl.core.errors import UserError


def problem(
    xs: np.ndarray, xt: np.ndarray, bandwidth: float
) -> tuple[np.ndarray, np.ndarray]:
    """Computes K and κ: K_ij = k(x_i, x_j), (n, n), κ_i = n/m Σ_j k(x_i, x'_j).

    ½βᵀKβ − κᵀβ is n²/2 times the squared distance of the weighted source's and the
    target's mean embeddings, less a constant.

    Args:
      xs: (n, d) source features.
      xt: (m, d) target features.
      bandwidth: width σ of the Gaussian kernel exp(−‖x − x'‖² / 2σ²).

    Returns:
      K and κ in float64.

    References:
      Huang, Smola, Gretton, Borgwardt & Schölkopf, Correcting Sample Selection Bias by
      Unlabeled Data, NeurIPS 2006, eq. 9 to 12.
    """
    gram = base.rbf_kernel(xs, xs, bandwidth)
    return gram, len(xs) / len(xt) * base.rbf_kernel(xs, xt, bandwidth).sum(1)


def project(v: np.ndarray, top: float, low: float, high: float) -> np.ndarray:
    """Computes the nearest point to v, (n,), in [0, top]ⁿ with sum in [low, high].

    Args:
      v: any point, (n,).
      top: largest value of an entry.
      low: smallest sum.
      high: largest sum, at most n · top.

    Returns:
      The Euclidean projection, (n,).
    """
    clipped = np.clip(v, 0.0, top)
    total = clipped.sum()
    if low <= total <= high:
        return clipped
    goal = low if total < low else high
    # Σ clip(v − s) falls with s and is linear between the 2n kinks: bisect for the
    # two kinks around the goal, then interpolate.
    kinks = np.sort(np.concatenate([v, v - top]))
    lower, upper = 0, len(kinks) - 1
    while upper - lower > 1:
        middle = (lower + upper) // 2
        if np.clip(v - kinks[middle], 0.0, top).sum() >= goal:
            lower = middle
        else:
            upper = middle
    a, b = (np.clip(v - kinks[i], 0.0, top).sum() for i in (lower, upper))
    share = (a - goal) / (a - b) if a > b else 0.0
    shift = kinks[lower] + share * (kinks[upper] - kinks[lower])
    return np.clip(v - shift, 0.0, top)


def solve(
    gram: np.ndarray,
    kappa: np.ndarray,
    top: float,
    slack: float,
    steps: int,
    tolerance: float,
) -> np.ndarray:
    """Computes β, (n,), that minimizes ½βᵀKβ − κᵀβ, 0 ≤ β ≤ top, |Σβ − n| ≤ n·slack.

    Accelerated projected gradient descent, restarted where it overshoots; K's largest
    eigenvalue sets the step size. It stops where a step moves no weight by more than
    `tolerance`, or after `steps`.

    Args:
      gram: (n, n) K.
      kappa: (n,) κ.
      top, slack: bounds of β and of its sum.
      steps: maximum number of gradient steps.
      tolerance: of a weight's change.

    Returns:
      β; where `steps` ran out the last iterate, which satisfies the bounds.

    References:
      Huang et al., 2006, eq. 12. O'Donoghue & Candès, Adaptive Restart for Accelerated
      Gradient Schemes, Found. Comput. Math. 15 (2015).
    """
    n = len(kappa)
    low, high = n * (1 - slack), n * (1 + slack)
    beta = point = project(np.ones(n), top, low, high)
    lipschitz = np.linalg.eigvalsh(gram)[-1]
    momentum = 1.0
    for _ in range(steps):
        new = project(point - (gram @ point - kappa) / lipschitz, top, low, high)
        moved = new - point
        if np.abs(moved).max() <= tolerance:
            return new
        if moved @ (new - beta) < 0:
            momentum, point = 1.0, beta
            if np.array_equal(point, new):
                return new
            new = project(point - (gram @ point - kappa) / lipschitz, top, low, high)
        next_momentum = 0.5 * (1 + np.sqrt(1 + 4 * momentum**2))
        point = new + (momentum - 1) / next_momentum * (new - beta)
        beta, momentum = new, next_momentum
    return beta


class KMM(BaseEstimator):
    """Weights source examples without estimating a density.

    Attributes:
      bandwidth: of the RBF kernel exp(−‖x − x'‖²/2b²); None is the median distance.
      top: B, the largest weight.
      slack: ε, the largest difference of the mean weight from 1; None is (√n − 1)/√n.
      steps: maximum number of steps of the solver.
      tolerance: the solver stops where no weight changes by more.
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
    ) -> None:
        self.bandwidth = bandwidth
        self.top = top
        self.slack = slack
        self.steps = steps
        self.tolerance = tolerance

    def fit(self, xs: ArrayLike, xt: ArrayLike, ys: ArrayLike | None = None) -> Self:
        """Fits the weights to features alone.

        Args:
          xs: (n, d) source features.
          xt: (m, d) target features.
          ys: ignored.

        Returns:
          This object, with `weights` (n,), one per source row in [0, `top`], and the
          fitted `bandwidth_`.

        Raises:
          UserError: bad features or settings, or a `top` too low for the weights' sum.
        """
        xs, xt = base.check_pair(self, xs, xt)
        root = np.sqrt(len(xs))
        slack = (root - 1) / root if self.slack is None else self.slack
        base.check_number(self, "slack", slack, 0)
        base.check_number(self, "top", self.top, 0, exclusive=True)
        if self.top < 1 - slack:
            raise UserError(
                f"KMM: top={self.top!r} keeps the mean weight below 1 − slack = "
                f"{1 - slack:.3g}; expected a number of at least that."
            )
        width = base.kernel_bandwidth(self, self.bandwidth, np.concatenate([xs, xt]))
        gram, kappa = problem(xs, xt, width)
        self.bandwidth_ = width
        self.weights = solve(gram, kappa, self.top, slack, self.steps, self.tolerance)
        return self
