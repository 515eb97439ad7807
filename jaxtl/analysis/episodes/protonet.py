"""Prototypes: a query belongs to the class whose mean is nearest."""

import dataclasses
from typing import ClassVar

import numpy as np

from jaxtl.analysis import geometry
from jaxtl.analysis.episodes.base import FewShotMethod


def prototype_scores(
    support: np.ndarray, labels: np.ndarray, query: np.ndarray
) -> np.ndarray:
    """−‖q − c_k‖² for the mean c_k of each class, (m, ways).

    Args:
      support, labels, query: (n, d), (n,) and (m, d) of an episode.
    """
    return -geometry.squared_distances(query, geometry.prototypes(support, labels))


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearestMean(FewShotMethod):
    """Negative squared Euclidean distances to the means of classes.

    References:
      Snell, Swersky, Zemel, Prototypical Networks, NeurIPS 2017, eq. 1 and 2.
    """

    title: ClassVar[str] = "ProtoNet"

    def scores(
        self, support: np.ndarray, labels: np.ndarray, query: np.ndarray
    ) -> np.ndarray:
        return prototype_scores(support, labels, query)
