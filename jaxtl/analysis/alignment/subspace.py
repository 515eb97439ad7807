"""Subspace alignment: turn the source's principal subspace into the target's."""

import numpy as np

from jaxtl.analysis.alignment import base


def alignment(ps: np.ndarray, pt: np.ndarray) -> np.ndarray:
    """Returns M* = P_SᵀP_T, (k, k), the minimiser of ‖P_S M − P_T‖²_F.

    Args:
      ps: (d, k) source basis, orthonormal columns.
      pt: (d, k) target basis.

    References:
      Fernando, Habrard, Sebban & Tuytelaars, Unsupervised Visual Domain Adaptation
      Using Subspace Alignment, ICCV 2013, eq. 1 to 3.
    """
    return ps.T @ pt


class SubspaceAlignment(base.Mapping):
    """Source rows to x P_S P_SᵀP_T, target rows to x P_T, after each domain's mean.

    Attributes:
      dimension: k of the principal subspaces; below the rank of either domain.

    References:
      Fernando et al., ICCV 2013, algorithm 1.
    """

    def __init__(self, dimension: int = 20):
        self.dimension = dimension

    def fit(self, xs, xt, ys=None):
        xs, xt = base.pair(self, xs, xt)
        source, ps = base.principal(self, "xs", xs, self.dimension)
        target, pt = base.principal(self, "xt", xt, self.dimension)
        self.means_ = {"source": source, "target": target}
        self.maps_ = {"source": ps @ alignment(ps, pt), "target": pt}
        self.width_ = xs.shape[1]
        return self

    def _transform(self, x, domain):
        return (x - self.means_[domain]) @ self.maps_[domain]
