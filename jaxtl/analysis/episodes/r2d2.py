"""Ridge regression on the labels, in closed form (R2D2)."""

import dataclasses
from typing import ClassVar

import numpy as np

from jaxtl.analysis import geometry
from jaxtl.analysis.episodes.base import FewShotMethod


def ridge_scores(
    support: np.ndarray, labels: np.ndarray, query: np.ndarray, strength: float
) -> np.ndarray:
    """[Q 1] W with W = Xᵀ (X Xᵀ + strength · I)⁻¹ Y / √n for X = [S 1] / √n, (m, ways).

    W minimizes mean_i ‖W ᵀ[s_i 1] − y_i‖² + strength · ‖W‖², the intercept penalized
    like the weights; the inverse is of the size of the support set.

    Args:
      support, labels, query: (n, d), (n,) and (m, d) of an episode.
      strength: of the penalty.
    """
    x = np.pad(support, ((0, 0), (0, 1)), constant_values=1.0) / np.sqrt(len(support))
    y = geometry.one_hot(labels) / np.sqrt(len(support))
    dual = np.linalg.solve(x @ x.T + strength * np.eye(len(x)), y)
    return np.pad(query, ((0, 0), (0, 1)), constant_values=1.0) @ (x.T @ dual)


@dataclasses.dataclass(frozen=True, kw_only=True)
class R2D2(FewShotMethod):
    """Outputs of ridge regression to the indicators of classes.

    Attributes:
      strength: of the penalty.

    References:
      Bertinetto, Henriques, Torr, Vedaldi, Meta-Learning with Differentiable
      Closed-Form Solvers, ICLR 2019, eq. 4 to 6.
    """

    strength: float | tuple[float, ...] = (1.0, 1e-3, 1e-2, 0.1, 10.0, 100.0)

    title: ClassVar[str] = "ridge (R2D2)"

    def scores(
        self, support: np.ndarray, labels: np.ndarray, query: np.ndarray
    ) -> np.ndarray:
        return ridge_scores(support, labels, query, self.strength)
