"""KLIEP: the density ratio that brings the source nearest to the target in KL."""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator

from jaxtl.analysis.alignment import base
from jaxtl.core.errors import UserError

BANDWIDTHS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # candidates, in median distances


def coefficients(
    source: np.ndarray, target: np.ndarray, steps: int, tolerance: float
) -> np.ndarray:
    """Computes α ≥ 0, (b,), that maximizes Σ_j log (Ψα)_j under mean_i (Φα)_i = 1.

    With p_l = α_l·mean_i Φ_il, which then sum to 1, this is maximum likelihood of a
    mixture's proportions, and EM reaches the optimum that the paper's gradient ascent
    with projections does. max_l mean_j Ψ_jl / (φ̄_l w_j) − 1 bounds how much mean log w
    can still grow; EM stops where that is at most `tolerance`.

    Args:
      source: (n, b) Φ, basis functions at source rows.
      target: (m, b) Ψ, basis functions at target rows.
      steps: maximum number of EM steps.
      tolerance: in nats.

    Returns:
      α in float64; 0 for kernels that no source row is near to.

    References:
      Sugiyama, Nakajima, Kashima, von Bünau & Kawanabe, Direct Importance Estimation
      with Model Selection and Its Application to Covariate Shift Adaptation, NeurIPS
      2007, eq. 6 and figure 1.
    """
    scale = source.mean(0)
    positive = scale > 0
    ratio = target[:, positive] / scale[positive]
    share = np.full(ratio.shape[1], 1 / ratio.shape[1])
    for _ in range(steps):
        gain = (ratio / (ratio @ share)[:, None]).mean(0)
        if gain.max() - 1 <= tolerance:
            break
        share = share * gain
    alpha = np.zeros(len(scale))
    alpha[positive] = share / scale[positive]
    return alpha


class KLIEP(BaseEstimator):
    """Weights source examples by the ratio of densities p_target(x) / p_source(x).

    Attributes:
      bandwidth: of the kernels exp(−‖x − c‖²/2b²); None chooses among `BANDWIDTHS`
        times the median distance by the likelihood of target rows left out in turn.
      centers: maximum number of kernels, centered on target rows drawn by `seed`.
      folds: number of parts of the target in that choice.
      steps, tolerance: as for `coefficients`.
      seed: of the drawn centers and folds.
      weights: (n,) after `fit`, ≥ 0 with mean 1; a `sample_weight`.

    References:
      Sugiyama et al., NeurIPS 2007.
    """

    def __init__(
        self,
        bandwidth: float | None = None,
        centers: int = 100,
        folds: int = 5,
        steps: int = 5_000,
        tolerance: float = 1e-4,
        seed: int = 0,
    ) -> None:
        self.bandwidth = bandwidth
        self.centers = centers
        self.folds = folds
        self.steps = steps
        self.tolerance = tolerance
        self.seed = seed

    def fit(self, xs: ArrayLike, xt: ArrayLike, ys: ArrayLike | None = None) -> Self:
        """Fits the density ratio to features alone.

        Args:
          xs: (n, d) source features.
          xt: (m, d) target features.
          ys: ignored.

        Returns:
          This object, with `weights` (n,), the ratio at each source row, and the fitted
          `centers_`, `bandwidth_` and `coefficients_`.

        Raises:
          UserError: bad features or settings, or kernels so narrow that source rows are
            in none of them.
        """
        xs, xt = base.check_pair(self, xs, xt)
        base.check_integer(self, "centers", self.centers, 10**9, "kernels")
        order = np.random.default_rng(self.seed).permutation(len(xt))
        self.centers_ = xt[order[: self.centers]]
        if self.bandwidth is None:
            self.bandwidth_ = self._choose(xs, xt, order)
        else:
            self.bandwidth_ = base.kernel_bandwidth(self, self.bandwidth, xs)
        self.coefficients_ = self._coefficients(xs, xt, self.bandwidth_)
        if not self.coefficients_.any():
            raise UserError(
                f"KLIEP: bandwidth={self.bandwidth_:g} is so small that no source row "
                "is near a target row; give a larger one."
            )
        self.weights = self.ratio(xs)
        return self

    def ratio(self, x: ArrayLike) -> np.ndarray:
        """Computes the estimated density ratio p_target / p_source.

        Args:
          x: (rows, d) features of either domain; `fit` comes before.

        Returns:
          (rows,) float64, not negative; Σ_l α_l·exp(−‖x − c_l‖² / 2σ²) over the
          centers.

        Raises:
          UserError: x that is not a matrix of finite numbers.
        """
        x = base.check_rows(self, "x", x)
        kernel = base.rbf_kernel(x, self.centers_, self.bandwidth_)
        return kernel @ self.coefficients_

    def _coefficients(self, xs: np.ndarray, xt: np.ndarray, width: float) -> np.ndarray:
        """Computes α for a bandwidth; zeros where no source row is near a center."""
        source, target = (base.rbf_kernel(x, self.centers_, width) for x in (xs, xt))
        if not (source.mean(0) > 0).any():
            return np.zeros(len(self.centers_))
        near = (target[:, source.mean(0) > 0] > 0).any(1)
        return coefficients(source, target[near], self.steps, self.tolerance)

    def _choose(self, xs: np.ndarray, xt: np.ndarray, order: np.ndarray) -> float:
        """Chooses the bandwidth with the largest mean log ratio on held-out rows.

        Args:
          xs, xt: rows of both domains.
          order: a permutation of the target rows, which is split in folds.
        """
        median = base.kernel_bandwidth(self, None, np.concatenate([xs, xt]))
        widths = [median * factor for factor in BANDWIDTHS]
        if len(xt) < 2:
            return median
        base.check_integer(self, "folds", self.folds, 10**9, "parts of the target")
        parts = np.array_split(order, min(self.folds, len(xt)))
        scores = []
        for width in widths:
            score = 0.0
            for part in parts:
                training = np.setdiff1d(order, part)
                alpha = self._coefficients(xs, xt[training], width)
                ratio = base.rbf_kernel(xt[part], self.centers_, width) @ alpha
                with np.errstate(divide="ignore"):
                    score += np.log(ratio).mean() / len(parts)
            scores.append(score)
        return widths[int(np.argmax(scores))]
