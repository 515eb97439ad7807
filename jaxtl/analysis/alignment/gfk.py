"""Geodesic flow kernel: features integrated along a path between two subspaces."""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.analysis.alignment import base

MIN_SINE = 1e-10  # sin θ below which two directions count as equal


def principal_angles(
    ps: np.ndarray, pt: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes the angles between two subspaces, and the frame of their geodesic.

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
    residual = pt @ vt.T - a * cosines
    # The residual gives the sine: arccos loses half of its digits near angle 0.
    sines = np.linalg.norm(residual, axis=0)
    b = residual / np.where(sines > MIN_SINE, sines, np.inf)
    return np.arctan2(np.where(sines > MIN_SINE, sines, 0.0), cosines), a, b


def _flow_weights(
    angles: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes ∫₀¹ cos², ∫₀¹ cos·sin and ∫₀¹ sin² of tθ, each (k,).

    They are the paper's Λ₁/2, −Λ₂/2 and Λ₃/2.

    References:
      Gong, Shi, Sha & Grauman, Geodesic Flow Kernel for Unsupervised Domain Adaptation,
      CVPR 2012, eq. 6 and 7; the paper leaves the common factor ½ out.
    """
    ratio = np.sinc(2 * angles / np.pi)  # sin 2θ / 2θ, 1 at 0
    mixed = 0.5 * np.sin(angles) * np.sinc(angles / np.pi)  # (1 − cos 2θ) / 4θ
    return 0.5 * (1 + ratio), mixed, 0.5 * (1 - ratio)


def factor(angles: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Computes L, (d, 2k), with L Lᵀ = ∫₀¹ Φ(t)Φ(t)ᵀ dt = G.

    Args:
      angles, a, b: from `principal_angles`.

    Returns:
      L in float64; rows times L are the features that the kernel G compares.
    """
    cos_cos, cos_sin, sin_sin = _flow_weights(angles)
    # Cholesky factor of each angle's [[cos_cos, cos_sin], [cos_sin, sin_sin]].
    upper_left = np.sqrt(cos_cos)
    lower_left = cos_sin / upper_left
    lower_right = np.sqrt(np.maximum(sin_sin - lower_left**2, 0.0))
    return np.concatenate([a * upper_left + b * lower_left, b * lower_right], 1)


class GFK(base.FeatureMap):
    """Maps rows x of either domain to x L, so that dot products are xᵀGx'.

    Nearest neighbors of the mapped rows are nearest in the kernel's distance. The mean
    of its domain is subtracted from each row.

    Attributes:
      dimension: k, below the rank of either domain. (The paper's k ≤ d/2 is what its
        R_S needs; beyond, some angles are 0 and the kernel is as well defined.)

    References:
      Gong et al., CVPR 2012, eq. 4 to 8.
    """

    def __init__(self, dimension: int = 20) -> None:
        self.dimension = dimension

    def fit(self, xs: ArrayLike, xt: ArrayLike, ys: ArrayLike | None = None) -> Self:
        xs, xt = base.check_pair(self, xs, xt)
        source_mean, ps = base.principal_directions(self, "xs", xs, self.dimension)
        target_mean, pt = base.principal_directions(self, "xt", xt, self.dimension)
        self.means_ = {"source": source_mean, "target": target_mean}
        self.angles_, a, b = principal_angles(ps, pt)
        self.factor_ = factor(self.angles_, a, b)
        self.width_ = xs.shape[1]
        return self

    def _transform(self, x: np.ndarray, domain: str) -> np.ndarray:
        return (x - self.means_[domain]) @ self.factor_
