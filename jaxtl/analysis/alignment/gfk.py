"""Geodesic flow kernel: features along the whole way from one subspace to another."""

import numpy as np

from jaxtl.analysis.alignment import base

TINY = 1e-10  # sin θ below which two directions are one


def principal_angles(ps: np.ndarray, pt: np.ndarray):
    """Returns the angles between two subspaces, and the frame the geodesic turns in.

    The geodesic is Φ(t) = A cos(tΘ) + B sin(tΘ), Φ(0) spanning P_S and Φ(1) P_T; eq. 4
    of the paper has A = P_S U₁ and B = −R_S U₂.

    Args:
      ps: (d, k) source basis, orthonormal columns.
      pt: (d, k) target basis.

    Returns:
      `(angles, a, b)`: (k,) in [0, π/2] ascending, (d, k) and (d, k); columns of b are
      0 where the angle is.
    """
    u, cosines, vt = np.linalg.svd(ps.T @ pt)
    a = ps @ u
    rest = pt @ vt.T - a * cosines
    # The sine from the remainder: arccos loses half of its digits near angle 0.
    sines = np.linalg.norm(rest, axis=0)
    b = rest / np.where(sines > TINY, sines, np.inf)
    return np.arctan2(np.where(sines > TINY, sines, 0.0), cosines), a, b


def flow_weights(angles: np.ndarray):
    """Returns ∫₀¹ cos², ∫₀¹ cos·sin and ∫₀¹ sin² of tθ, each (k,): Λ₁/2, −Λ₂/2, Λ₃/2.

    References:
      Gong, Shi, Sha & Grauman, Geodesic Flow Kernel for Unsupervised Domain Adaptation,
      CVPR 2012, eq. 6 and 7; the paper leaves the common factor ½ out.
    """
    ratio = np.sinc(2 * angles / np.pi)  # sin 2θ / 2θ, 1 at 0
    mixed = 0.5 * np.sin(angles) * np.sinc(angles / np.pi)  # (1 − cos 2θ) / 4θ
    return 0.5 * (1 + ratio), mixed, 0.5 * (1 - ratio)


def factor(angles: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns L, (d, 2k), with L Lᵀ = ∫₀¹ Φ(t)Φ(t)ᵀ dt = G."""
    first, mixed, last = flow_weights(angles)
    # Cholesky of each angle's [[first, mixed], [mixed, last]].
    top = np.sqrt(first)
    low = mixed / top
    corner = np.sqrt(np.maximum(last - low**2, 0.0))
    return np.concatenate([a * top + b * low, b * corner], 1)


class GFK(base.Mapping):
    """Rows of either domain to x L, so that dot products are xᵀGx'.

    Nearest neighbours of the mapped rows are those of the kernel's own distance. Rows
    are taken less the mean of the domain they belong to.

    Attributes:
      dimension: k, below the rank of either domain. (The paper's k ≤ d/2 is what its
        R_S needs; beyond, some angles are 0 and the kernel is as well defined.)

    References:
      Gong et al., CVPR 2012, eq. 4 to 8.
    """

    def __init__(self, dimension: int = 20):
        self.dimension = dimension

    def fit(self, xs, xt, ys=None):
        xs, xt = base.pair(self, xs, xt)
        source, ps = base.principal(self, "xs", xs, self.dimension)
        target, pt = base.principal(self, "xt", xt, self.dimension)
        self.means_ = {"source": source, "target": target}
        self.angles_, a, b = principal_angles(ps, pt)
        self.factor_ = factor(self.angles_, a, b)
        self.width_ = xs.shape[1]
        return self

    def _transform(self, x, domain):
        return (x - self.means_[domain]) @ self.factor_
