"""Transfer component analysis: directions of large variance and similar domain means.

`components` solves the eigenproblem of TCA and of JDA (jda.py).
"""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from jaxtl.analysis.alignment import base

# Eigenvalues of a kernel below this share of the largest are rounding errors.
RANK_TOLERANCE = 1e-10


def contrast(n: int, m: int) -> np.ndarray:
    """Computes e, (n + m,), 1/n on source and −1/m on target rows; L = e eᵀ.

    tr(KL) is then the squared distance of the two means in feature space.

    Args:
      n: number of source rows.
      m: number of target rows.

    Returns:
      e in float64; its entries add up to 0.

    References:
      Pan, Tsang, Kwok & Yang, Domain Adaptation via Transfer Component Analysis, IEEE
      Trans. Neural Networks 22 (2011), eq. 4.
    """
    return np.concatenate([np.full(n, 1 / n), np.full(m, -1 / m)])


def components(
    phi: np.ndarray, contrasts: np.ndarray, ridge: float, count: int
) -> np.ndarray:
    """Computes W, (r, k), the leading solutions of ΦᵀHΦ w = μ (ΦᵀMΦ + λI) w.

    They minimize tr(Wᵀ(ΦᵀMΦ + λI)W) under WᵀΦᵀHΦW = I, where H centers and M = E Eᵀ, up
    to the lengths of the columns: these are 1 here, as in the programs that computed
    the published figures of TCA and JDA.

    Args:
      phi: (N, r) rows of both domains, in features or in a kernel's eigenbasis.
      contrasts: (N, c), E.
      ridge: λ > 0.
      count: k ≤ r.

    Returns:
      W, of the largest eigenvalue first, columns of length 1.

    References:
      Pan et al., 2011, eq. 10 and proposition 1.
    """
    centered = phi - phi.mean(0)
    gaps = phi.T @ contrasts
    rank = phi.shape[1]
    _, vectors = linalg.eigh(
        centered.T @ centered,
        gaps @ gaps.T + ridge * np.eye(rank),
        subset_by_index=[rank - count, rank - 1],
    )
    vectors = vectors[:, ::-1]
    return vectors / np.linalg.norm(vectors, axis=0)


class KernelFeatureMap(base.FeatureMap):
    """Base of TCA and JDA: a kernel, and rows as coordinates in its eigenbasis.

    With K = VSVᵀ, coefficients α of Kα only matter within V's columns, and λ‖α‖² is
    kept by writing α = Vw: the problem in w has Φ = VS, of K's rank instead of N. For
    kernel="primal" Φ are the features themselves (λ then weights feature directions).
    """

    def _prepare(self, xs: np.ndarray, xt: np.ndarray) -> np.ndarray:
        """Checks the settings, stores the rows and their eigenbasis; returns Φ."""
        base.check_choice(self, "kernel", self.kernel, (*base.KERNELS, "primal"))
        base.check_number(self, "ridge", self.ridge, 0, exclusive=True)
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
            self.bandwidth_ = base.kernel_bandwidth(self, self.bandwidth, x)
            values, u = np.linalg.eigh(self._kernel(x))
        positive = values > RANK_TOLERANCE * values.max()
        self._check_dimension(int(positive.sum()))
        self.basis_ = u[:, positive]
        return self.basis_ * values[positive]

    def _check_dimension(self, rank: int) -> None:
        reason = "the rank of the kernel or of the features"
        base.check_integer(self, "dimension", self.dimension, rank, reason)

    def _kernel(self, x: np.ndarray) -> np.ndarray:
        """Computes the kernel between rows and the fitted rows, (rows, n + m)."""
        if self.kernel == "linear":
            return x @ self.rows_.T
        return base.rbf_kernel(x, self.rows_, self.bandwidth_)

    def _transform(self, x: np.ndarray, domain: str) -> np.ndarray:
        phi = x if self.basis_ is None else self._kernel(x) @ self.basis_
        return phi @ self.components_


class TCA(KernelFeatureMap):
    """Maps rows of both domains to k transfer components.

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
    ) -> None:
        self.dimension = dimension
        self.ridge = ridge
        self.kernel = kernel
        self.bandwidth = bandwidth

    def fit(self, xs: ArrayLike, xt: ArrayLike, ys: ArrayLike | None = None) -> Self:
        xs, xt = base.check_pair(self, xs, xt)
        phi = self._prepare(xs, xt)
        gap = contrast(len(xs), len(xt))[:, None]
        self.components_ = components(phi, gap, self.ridge, self.dimension)
        return self
