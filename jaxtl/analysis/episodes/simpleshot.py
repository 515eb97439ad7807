"""Nearest class mean of centered features of unit length (SimpleShot)."""

import dataclasses
from typing import ClassVar

import numpy as np

from jaxtl.analysis import geometry
from jaxtl.analysis.episodes.base import FewShotMethod
from jaxtl.analysis.episodes.protonet import prototype_scores


def simpleshot_scores(
    support: np.ndarray, labels: np.ndarray, query: np.ndarray
) -> np.ndarray:
    """−‖q − c_k‖² for the means c_k of features of unit length, (m, ways).

    Args:
      support, labels, query: (n, d), (n,) and (m, d) of an episode, features less the
        mean of other classes.
    """
    return prototype_scores(geometry.unit(support), labels, geometry.unit(query))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimpleShot(FewShotMethod):
    """Distances to class means after centering and division by the length (CL2N).

    References:
      Wang, Chao, Weinberger, van der Maaten, SimpleShot, 2019 (arXiv 1911.04623).
    """

    title: ClassVar[str] = "SimpleShot"
    centered: ClassVar[bool] = True

    def scores(
        self, support: np.ndarray, labels: np.ndarray, query: np.ndarray
    ) -> np.ndarray:
        return simpleshot_scores(support, labels, query)
