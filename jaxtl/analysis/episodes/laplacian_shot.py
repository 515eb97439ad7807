"""Distances to prototypes, smoothed over neighboring queries (LaplacianShot)."""

import dataclasses
from typing import ClassVar

import numpy as np
from scipy import special

from jaxtl.analysis import geometry
from jaxtl.analysis.episodes.base import FewShotMethod

_TOLERANCE = 1e-6  # of the objective's relative change


def affinity(query: np.ndarray, neighbors: int) -> np.ndarray:
    """1 where j is among the nearest `neighbors` of i, (m, m); not symmetric."""
    squared = geometry.squared_distances(query, query)
    np.fill_diagonal(squared, np.inf)
    nearest = np.argsort(squared, axis=1, kind="stable")[:, :neighbors]
    matrix = np.zeros_like(squared)
    np.put_along_axis(matrix, nearest, 1.0, axis=1)
    return matrix


def bound_updates(
    costs: np.ndarray, weights: np.ndarray, strength: float, iterations: int
) -> np.ndarray:
    """Iterates y ← softmax(−costs + strength · weights · y) from softmax(−costs).

    It stops where the upper bound Σ y log y + y · costs − strength · y · (weights · y)
    changes by less than a millionth.

    Args:
      costs: (m, ways), squared distances to prototypes.
      weights: (m, m), of `affinity`.
      strength: of the Laplacian term.
      iterations: at most.

    Returns:
      (m, ways) probabilities.
    """
    y, last = special.softmax(-costs, axis=1), np.inf
    for iteration in range(iterations):
        y = special.softmax(strength * weights @ y - costs, axis=1)
        pairs = costs - strength * weights @ y
        bound = float((special.xlogy(y, y) + y * pairs).sum())
        if iteration > 1 and abs(bound - last) <= _TOLERANCE * abs(last):
            break
        last = bound
    return y


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaplacianShot(FewShotMethod):
    """Probabilities by squared distances and by the classes of neighboring queries.

    Features are centered and of unit length; prototypes are means of the support set.

    Attributes:
      strength: λ of the Laplacian term.
      neighbors: of a query that count.
      iterations: at most.

    References:
      Ziko, Dolz, Granger, Ben Ayed, Laplacian Regularized Few-Shot Learning, ICML 2020,
      algorithm 1.
    """

    strength: float | tuple[float, ...] = (1.0, 0.1, 0.3, 0.5, 0.7, 1.5)
    neighbors: int | tuple[int, ...] = 2
    iterations: int = 20

    title: ClassVar[str] = "LaplacianShot"
    transductive: ClassVar[bool] = True
    centered: ClassVar[bool] = True

    def scores(
        self, support: np.ndarray, labels: np.ndarray, query: np.ndarray
    ) -> np.ndarray:
        query, prototypes = (
            geometry.unit(query),
            geometry.prototypes(geometry.unit(support), labels),
        )
        costs = geometry.squared_distances(query, prototypes)
        weights = affinity(query, min(self.neighbors, len(query) - 1))
        return bound_updates(costs, weights, self.strength, self.iterations)
