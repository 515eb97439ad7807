"""Subspace alignment: maps the source's principal subspace to the target's."""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.analysis.alignment import base


def alignment(ps: np.ndarray, pt: np.ndarray) -> np.ndarray:
    """Computes M* = P_SᵀP_T, (k, k), the minimizer of ‖P_S M − P_T‖²_F.

    Args:
      ps: (d, k) source basis, orthonormal columns.
      pt: (d, k) target basis.

    Returns:
      M*, by which the source's coordinates are multiplied from the right.

    References:
      Fernando, Habrard, Sebban & Tuytelaars, Unsupervised Visual Domain Adaptation
      Using Subspace Alignment, ICCV 2013, eq. 1 to 3.
    """
    return ps.T @ pt


class SubspaceAlignment(base.FeatureMap):
    """Maps source rows x to x P_S P_SᵀP_T and target rows to x P_T.

    The mean of its domain is subtracted from each row.

    Attributes:
      dimension: k of the principal subspaces; below the rank of either domain.

    References:
      Fernando et al., ICCV 2013, algorithm 1.
    """

    def __init__(self, dimension: int = 20) -> None:
        self.dimension = dimension

    def fit(self, xs: ArrayLike, xt: ArrayLike, ys: ArrayLike | None = None) -> Self:
        xs, xt = base.check_pair(self, xs, xt)
        source_mean, ps = base.principal_directions(self, "xs", xs, self.dimension)
        target_mean, pt = base.principal_directions(self, "xt", xt, self.dimension)
        self.means_ = {"source": source_mean, "target": target_mean}
        self.maps_ = {"source": ps @ alignment(ps, pt), "target": pt}
        self.width_ = xs.shape[1]
        return self

    def _transform(self, x: np.ndarray, domain: str) -> np.ndarray:
        return (x - self.means_[domain]) @ self.maps_[domain]
