"""Joint distribution adaptation: TCA that also aligns the means of the classes."""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.analysis import geometry
from jaxtl.analysis.alignment import base, neighbors
from jaxtl.analysis.alignment.tca import KernelFeatureMap, components, contrast


def class_contrasts(ys: np.ndarray, pseudo_labels: np.ndarray) -> np.ndarray:
    """Computes a column e_c per class, (n + m, C), with M_c = e_c e_cᵀ.

    e_c is 1/n_c on the class's source rows and −1/m_c on its target rows. For a class
    that is no target row's pseudo-label, the target part is 0, as in the authors'
    program.

    Args:
      ys: (n,) source labels.
      pseudo_labels: (m,) of the target.

    Returns:
      The columns, one for each class of `ys` in ascending order.

    References:
      Long, Wang, Ding, Sun & Yu, Transfer Feature Learning with Joint Distribution
      Adaptation, ICCV 2013, eq. 7.
    """
    columns = []
    for label in np.unique(ys):
        source, target = ys == label, pseudo_labels == label
        parts = source / source.sum(), target / -max(target.sum(), 1)
        columns.append(np.concatenate(parts))
    return np.stack(columns, 1)


class JDA(KernelFeatureMap):
    """Maps rows of both domains to k components, refined by target pseudo-labels.

    Each iteration solves TCA's problem with M = (marginal·M_0 + Σ_c M_c) / ‖·‖_F, then
    labels each target row as its nearest source row. Target labels are never read.

    Attributes:
      dimension: k.
      ridge: λ, on the squared coefficients.
      kernel, bandwidth: as TCA.
      iterations: T; 1 is TCA (with M scaled to norm 1).
      marginal: weight of M_0; None is the number of classes, as in the authors'
        program. The paper's eq. 8 has 1.
      normalize: whether rows of Z are scaled to length 1 before they are compared, and
        by `transform`.
      labels_: (m,) pseudo-labels of the target after the last iteration.

    References:
      Long et al., ICCV 2013, eq. 8 and 9, algorithm 1. That M is divided by its norm is
      in the authors' program, not in the paper.
    """

    def __init__(
        self,
        dimension: int = 20,
        ridge: float = 1.0,
        kernel: str = "linear",
        bandwidth: float | None = None,
        iterations: int = 10,
        marginal: float | None = None,
        normalize: bool = False,
    ) -> None:
        self.dimension = dimension
        self.ridge = ridge
        self.kernel = kernel
        self.bandwidth = bandwidth
        self.iterations = iterations
        self.marginal = marginal
        self.normalize = normalize

    def fit(self, xs: ArrayLike, xt: ArrayLike, ys: ArrayLike | None = None) -> Self:
        xs, xt = base.check_pair(self, xs, xt)
        ys = base.check_labels(self, "ys", ys, len(xs))
        base.check_integer(
            self, "iterations", self.iterations, 10_000, "rounds of labelling"
        )
        weight = len(np.unique(ys)) if self.marginal is None else self.marginal
        base.check_number(self, "marginal", weight, 0)
        phi = self._prepare(xs, xt)
        marginal = np.sqrt(weight) * contrast(len(xs), len(xt))[:, None]
        contrasts = marginal
        for _ in range(self.iterations):
            norm = np.linalg.norm(contrasts.T @ contrasts)  # = ‖E Eᵀ‖_F
            scaled = contrasts / np.sqrt(norm) if norm > 0 else contrasts
            self.components_ = components(phi, scaled, self.ridge, self.dimension)
            z = self._normalized(phi @ self.components_)
            self.labels_ = neighbors.nearest_neighbor(z[: len(xs)], ys, z[len(xs) :])
            classes = class_contrasts(ys, self.labels_)
            contrasts = np.concatenate([marginal, classes], 1)
        return self

    def _normalized(self, z: np.ndarray) -> np.ndarray:
        return geometry.unit(z) if self.normalize else z

    def _transform(self, x: np.ndarray, domain: str) -> np.ndarray:
        return self._normalized(super()._transform(x, domain))
