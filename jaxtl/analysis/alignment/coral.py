"""CORAL: maps the source so that it has the target's covariance."""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.analysis.alignment import base
from jaxtl.core.errors import UserError


def recoloring(cs: np.ndarray, ct: np.ndarray) -> np.ndarray:
    """Computes A = C_S^(−1/2) C_T^(1/2), (d, d), so that Aᵀ C_S A = C_T.

    Args:
      cs: (d, d) source covariance, positive definite.
      ct: (d, d) target covariance, positive semidefinite.

    Returns:
      A, to be applied to centered source rows from the right.

    References:
      Sun, Feng & Saenko, Return of Frustratingly Easy Domain Adaptation, AAAI 2016,
      algorithm 1.
    """
    return _power(cs, -0.5) @ _power(ct, 0.5)


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """Computes a power of a symmetric, positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    # Rounding may leave −1e−17 where an eigenvalue is 0.
    return (vectors * np.maximum(values, 0.0) ** exponent) @ vectors.T


class CORAL(base.FeatureMap):
    """Multiplies source rows by C_S^(−1/2) C_T^(1/2); keeps target rows as they are.

    Means are not aligned: standardize each domain before, as the paper does.

    Attributes:
      ridge: added to the diagonal of both covariances (normalized by n − 1); the
        paper's 1 suits features of variance 1. 0 needs a source of full rank.

    References:
      Sun, Feng & Saenko, AAAI 2016, algorithm 1.
    """

    def __init__(self, ridge: float = 1.0) -> None:
        self.ridge = ridge

    def fit(self, xs: ArrayLike, xt: ArrayLike, ys: ArrayLike | None = None) -> Self:
        xs, xt = base.check_pair(self, xs, xt)
        base.check_number(self, "ridge", self.ridge, 0)
        cs, ct = self._covariance("xs", xs), self._covariance("xt", xt)
        values = np.linalg.eigvalsh(cs)
        if values[0] <= values[-1] * len(values) * np.finfo(float).eps:
            raise UserError(
                f"CORAL: ridge={self.ridge!r} leaves the source's covariance singular "
                f"({len(xs)} rows, {xs.shape[1]} features); expected a number above 0."
            )
        self.map_ = recoloring(cs, ct)
        self.width_ = xs.shape[1]
        return self

    def _covariance(self, field: str, x: np.ndarray) -> np.ndarray:
        """Computes the covariance of rows plus the ridge, (d, d)."""
        if len(x) < 2:
            raise UserError(
                f"CORAL: {field} has 1 row, and a covariance needs at least 2."
            )
        covariance = np.atleast_2d(np.cov(x, rowvar=False))
        return covariance + self.ridge * np.eye(len(covariance))

    def _transform(self, x: np.ndarray, domain: str) -> np.ndarray:
        return x @ self.map_ if domain == "source" else x
