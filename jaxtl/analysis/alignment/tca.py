"""Transfer component analysis: directions of much variance and little mean discrepancy.

`components` solves the eigenproblem of TCA and of JDA (jda.py).
"""

import numpy as np
from scipy import linalg

from jaxtl.analysis.alignment import base

# Shares of a kernel's largest eigenvalue below which rounding has the say.
RANK = 1e-10


def contrast(n: int, m: int) -> np.ndarray:
    """Returns e, (n + m,): 1/n on source rows, −1/m on target rows; L = e eᵀ.

    tr(KL) is then the squared distance of the two means in feature space.

    References:
      Pan, Tsang, Kwok & Yang, Domain Adaptation via Transfer Component Analysis, IEEE
      Trans. Neural Networks 22 (2011), eq. 4.
    """
    return np.concatenate([np.full(n, 1 / n), np.full(m, -1 / m)])


def components(phi: np.ndarray, contrasts: np.ndarray, ridge: float, count: int):
    """Returns W, (r, k): the leading solutions of ΦᵀHΦ w = μ (ΦᵀMΦ + λI) w.

    They minimise tr(Wᵀ(ΦᵀMΦ + λI)W) under WᵀΦᵀHΦW = I, H centring and M = E Eᵀ, up to
    the lengths of the columns: each has length 1 here, as figures published for TCA
    and JDA were computed with.

    Args:
      phi: (N, r) rows of both domains, in features or in a kernel's eigenbasis.
      contrasts: (N, c), E.
      ridge: λ > 0.
      count: k ≤ r.

    References:
      Pan et al., 2011, eq. 10 and proposition 1.
    """
    centred = phi - phi.mean(0)
    gaps = phi.T @ contrasts
    last = phi.shape[1]
    _, found = linalg.eigh(
        centred.T @ centred,
        gaps @ gaps.T + ridge * np.eye(last),
        subset_by_index=[last - count, last - 1],
    )
    found = found[:, ::-1]
    return found / np.linalg.norm(found, axis=0)


class Kernelised(base.Mapping):
    """What TCA and JDA share: a kernel, and rows as coordinates in its eigenbasis.

    With K = VSVᵀ, coefficients α of Kα only matter within V's columns, and λ‖α‖² is
    kept by writing α = Vw: the problem in w has Φ = VS, of K's rank instead of N. For
    kernel="primal" Φ are the features themselves (λ then weighs feature directions).
    """

    def _prepare(self, xs, xt):
        """Checks the settings; stores the rows and returns Φ."""
        base.one_of(self, "kernel", self.kernel, (*base.KERNELS, "primal"))
        base.number(self, "ridge", self.ridge, 0, open_=True)
        x = np.concatenate([xs, xt])
        self.width_ = x.shape[1]
        if self.kernel == "primal":
            self.basis_ = None
            self._check_dimension(x.shape[1])
            return x
        self.rows_ = x
        if self.kernel == "linear":
            u, scales, _ = np.linalg.svd(x, full_matrices=False)
            values = scales**2
        else:
            self.bandwidth_ = base.bandwidth(self, self.bandwidth, x)
            values, u = np.linalg.eigh(self._kernel(x))
        kept = values > RANK * values.max()
        self._check_dimension(int(kept.sum()))
        self.basis_ = u[:, kept]
        return self.basis_ * values[kept]

    def _check_dimension(self, rank: int) -> None:
        base.whole(
            self, "dimension", self.dimension, rank, "the rank of what it is taken from"
        )

    def _kernel(self, x):
        if self.kernel == "linear":
            return x @ self.rows_.T
        return base.rbf(x, self.rows_, self.bandwidth_)

    def _transform(self, x, domain):
        phi = x if self.basis_ is None else self._kernel(x) @ self.basis_
        return phi @ self.components_


class TCA(Kernelised):
    """Rows of both domains to k transfer components.

    Attributes:
      dimension: k.
      ridge: λ (the paper's μ), on the squared coefficients.
      kernel: "linear", "rbf", or "primal" (features without a kernel).
      bandwidth: of the RBF kernel exp(−‖x − x'‖²/2b²); None is the median distance.

    References:
      Pan et al., 2011, section III.
    """

    def __init__(
        self,
        dimension: int = 20,
        ridge: float = 1.0,
        kernel: str = "linear",
        bandwidth: float | None = None,
    ):
        self.dimension = dimension
        self.ridge = ridge
        self.kernel = kernel
        self.bandwidth = bandwidth

    def fit(self, xs, xt, ys=None):
        xs, xt = base.pair(self, xs, xt)
        phi = self._prepare(xs, xt)
        gap = contrast(len(xs), len(xt))[:, None]
        self.components_ = components(phi, gap, self.ridge, self.dimension)
        return self
