"""KLIEP: the density ratio whose weighted source is nearest the target in KL."""

import numpy as np
from sklearn.base import BaseEstimator

from jaxtl.analysis.alignment import base
from jaxtl.core.errors import UserError

BANDWIDTHS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # tried, times the median distance


def coefficients(source, target, steps: int, tolerance: float) -> np.ndarray:
    """Returns α ≥ 0, (b,), maximising Σ_j log (Ψα)_j under mean_i (Φα)_i = 1.

    With p_l = α_l·mean_i Φ_il, which then sum to 1, this is maximum likelihood of a
    mixture's proportions, and EM reaches the optimum that the paper's gradient ascent
    with projections does. max_l mean_j Ψ_jl / (φ̄_l w_j) − 1 bounds what is left to gain
    in mean log w; that is what `tolerance` is held against.

    Args:
      source: (n, b) Φ, basis functions at source rows.
      target: (m, b) Ψ, at target rows.
      steps: at most.
      tolerance: nats.

    References:
      Sugiyama, Nakajima, Kashima, von Bünau & Kawanabe, Direct Importance Estimation
      with Model Selection and Its Application to Covariate Shift Adaptation, NeurIPS
      2007, eq. 6 and figure 1.
    """
    scale = source.mean(0)
    seen = scale > 0
    ratio = target[:, seen] / scale[seen]
    share = np.full(ratio.shape[1], 1 / ratio.shape[1])
    for _ in range(steps):
        gain = (ratio / (ratio @ share)[:, None]).mean(0)
        if gain.max() - 1 <= tolerance:
            break
        share = share * gain
    found = np.zeros(len(scale))
    found[seen] = share / scale[seen]
    return found


class KLIEP(BaseEstimator):
    """Weights of source examples: a ratio of densities, p_target(x) / p_source(x).

    Attributes:
      bandwidth: of the kernels exp(−‖x − c‖²/2b²); None chooses among `BANDWIDTHS`
        times the median distance by the likelihood of target rows left out in turn.
      centres: how many kernels at most, on target rows drawn by `seed`.
      folds: of that choice.
      steps, tolerance: of `coefficients`.
      seed: of the centres and the folds.
      weights: (n,) after `fit`, ≥ 0 with mean 1; a `sample_weight`.

    References:
      Sugiyama et al., NeurIPS 2007.
    """

    def __init__(
        self,
        bandwidth: float | None = None,
        centres: int = 100,
        folds: int = 5,
        steps: int = 5_000,
        tolerance: float = 1e-4,
        seed: int = 0,
    ):
        self.bandwidth = bandwidth
        self.centres = centres
        self.folds = folds
        self.steps = steps
        self.tolerance = tolerance
        self.seed = seed

    def fit(self, xs, xt, ys=None):
        """Learns the ratio from features alone; returns self.

        Raises:
          UserError: bad features or settings, or kernels so narrow that source rows are
            in none of them.
        """
        xs, xt = base.pair(self, xs, xt)
        base.whole(self, "centres", self.centres, 10**9, "kernels")
        order = np.random.default_rng(self.seed).permutation(len(xt))
        self.centres_ = xt[order[: self.centres]]
        if self.bandwidth is None:
            self.bandwidth_ = self._choose(xs, xt, order)
        else:
            self.bandwidth_ = base.bandwidth(self, self.bandwidth, xs)
        self.coefficients_ = self._coefficients(xs, xt, self.bandwidth_)
        if not self.coefficients_.any():
            raise UserError(
                f"KLIEP: bandwidth={self.bandwidth_:g} is so small that no source row "
                "is near a target row; give a larger one."
            )
        self.weights = self.ratio(xs)
        return self

    def ratio(self, x) -> np.ndarray:
        """Returns the estimated density ratio at new rows, (rows,)."""
        return base.rbf(base.rows(self, "x", x), self.centres_, self.bandwidth_) @ (
            self.coefficients_
        )

    def _coefficients(self, xs, xt, width):
        source, target = (base.rbf(x, self.centres_, width) for x in (xs, xt))
        if not (source.mean(0) > 0).any():
            return np.zeros(len(self.centres_))
        near = (target[:, source.mean(0) > 0] > 0).any(1)
        return coefficients(source, target[near], self.steps, self.tolerance)

    def _choose(self, xs, xt, order) -> float:
        """Returns the bandwidth of the largest mean log ratio on rows left out."""
        middle = base.bandwidth(self, None, np.concatenate([xs, xt]))
        widths = [middle * factor for factor in BANDWIDTHS]
        if len(xt) < 2:
            return middle
        base.whole(self, "folds", self.folds, 10**9, "parts of the target")
        parts = np.array_split(order, min(self.folds, len(xt)))
        scores = []
        for width in widths:
            score = 0.0
            for part in parts:
                kept = np.setdiff1d(order, part)
                alpha = self._coefficients(xs, xt[kept], width)
                left = base.rbf(xt[part], self.centres_, width) @ alpha
                with np.errstate(divide="ignore"):
                    score += np.log(left).mean() / len(parts)
            scores.append(score)
        return widths[int(np.argmax(scores))]
