"""The nearest support example of each class."""

import dataclasses
from typing import ClassVar

import numpy as np

from jaxtl.analysis import geometry
from jaxtl.analysis.candidates import choice
from jaxtl.analysis.episodes.base import FewShotMethod

DISTANCES = ("euclidean", "cosine")


def nearest_scores(
    support: np.ndarray, labels: np.ndarray, query: np.ndarray, distance: str
) -> np.ndarray:
    """−min_i ‖q − s_i‖² over the examples of each class, (m, ways).

    Args:
      support, labels, query: (n, d), (n,) and (m, d) of an episode.
      distance: "euclidean", or "cosine" for the same with vectors of unit length, in
        whose order neighbors are those of the largest cosines.
    """
    if distance == "cosine":
        support, query = geometry.unit(support), geometry.unit(query)
    squared = geometry.squared_distances(query, support)
    classes = range(int(labels.max()) + 1)
    return -np.stack([squared[:, labels == k].min(axis=1) for k in classes], axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearestNeighbor(FewShotMethod):
    """Negative squared distance to the nearest example of each class (1-NN).

    Attributes:
      distance: "euclidean" or "cosine".

    References:
      Cover, Hart, Nearest Neighbor Pattern Classification, IEEE Trans. Inf. Theory 13
      (1967).
    """

    distance: str | tuple[str, ...] = choice(DISTANCES, *DISTANCES)

    title: ClassVar[str] = "nearest neighbor"

    def scores(
        self, support: np.ndarray, labels: np.ndarray, query: np.ndarray
    ) -> np.ndarray:
        return nearest_scores(support, labels, query, self.distance)
