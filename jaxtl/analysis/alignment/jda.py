"""Joint distribution adaptation: TCA whose classes' means are drawn together too."""

import numpy as np

from jaxtl.analysis.alignment import base, nearest_neighbor
from jaxtl.analysis.alignment.tca import Kernelised, components, contrast


def class_contrasts(ys: np.ndarray, guessed: np.ndarray) -> np.ndarray:
    """Returns (n + m, C): a column e_c per class, M_c = e_c e_cᵀ.

    e_c is 1/n_c on the class's source rows and −1/m_c on its target rows. A class that
    no target row is guessed to be keeps its source half alone, as in the authors'
    program.

    Args:
      ys: (n,) source labels.
      guessed: (m,) target pseudo-labels.

    References:
      Long, Wang, Ding, Sun & Yu, Transfer Feature Learning with Joint Distribution
      Adaptation, ICCV 2013, eq. 7.
    """
    columns = []
    for label in np.unique(ys):
        source, target = ys == label, guessed == label
        halves = source / source.sum(), target / -max(target.sum(), 1)
        columns.append(np.concatenate(halves))
    return np.stack(columns, 1)


class JDA(Kernelised):
    """Rows of both domains to k components, refined with its own target labels.

    Each iteration labels the target by its nearest source row, and solves TCA's problem
    with M = (marginal·M_0 + Σ_c M_c) / ‖·‖_F. Target labels are never read.

    Attributes:
      dimension: k.
      ridge: λ, on the squared coefficients.
      kernel, bandwidth: as TCA.
      iterations: T; 1 is TCA (with M scaled to norm 1).
      marginal: weight of M_0; None is the number of classes, as in the authors'
        program. The paper's eq. 8 has 1.
      normalise: whether rows of Z are scaled to length 1 before they are compared, and
        by `transform`.
      labels_: (m,) the target's labels after the last iteration.

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
        normalise: bool = False,
    ):
        self.dimension = dimension
        self.ridge = ridge
        self.kernel = kernel
        self.bandwidth = bandwidth
        self.iterations = iterations
        self.marginal = marginal
        self.normalise = normalise

    def fit(self, xs, xt, ys=None):
        xs, xt = base.pair(self, xs, xt)
        ys = base.labels(self, "ys", ys, len(xs))
        base.whole(self, "iterations", self.iterations, 10_000, "rounds of labelling")
        weight = len(np.unique(ys)) if self.marginal is None else self.marginal
        base.number(self, "marginal", weight, 0)
        phi = self._prepare(xs, xt)
        margin = np.sqrt(weight) * contrast(len(xs), len(xt))[:, None]
        contrasts = margin
        for _ in range(self.iterations):
            norm = np.linalg.norm(contrasts.T @ contrasts)  # = ‖E Eᵀ‖_F
            scaled = contrasts / np.sqrt(norm) if norm > 0 else contrasts
            self.components_ = components(phi, scaled, self.ridge, self.dimension)
            z = self._scaled(phi @ self.components_)
            self.labels_ = nearest_neighbor.nearest_neighbor(
                z[: len(xs)], ys, z[len(xs) :]
            )
            classes = class_contrasts(ys, self.labels_)
            contrasts = np.concatenate([margin, classes], 1)
        return self

    def _scaled(self, z):
        return nearest_neighbor.unit(z) if self.normalise else z

    def _transform(self, x, domain):
        return self._scaled(super()._transform(x, domain))
