"""Attention of a query over the support set by cosines (MatchingNet)."""

import dataclasses
from typing import ClassVar

import numpy as np
from scipy import special

from jaxtl.analysis import geometry
from jaxtl.analysis.episodes.base import FewShotMethod


def matching_scores(
    support: np.ndarray, labels: np.ndarray, query: np.ndarray, scale: float
) -> np.ndarray:
    """log Σ_i a_i [y_i = k] for a = softmax(scale · cosines with all s_i), (m, ways).

    Args:
      support, labels, query: (n, d), (n,) and (m, d) of an episode.
      scale: of the cosines; the paper has 1.
    """
    cosines = geometry.unit(query) @ geometry.unit(support).T
    attention = special.softmax(scale * cosines, axis=1)
    return np.log(np.maximum(attention @ geometry.one_hot(labels), 1e-300))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CosineAttention(FewShotMethod):
    """Log of the attention that a query pays to each class's examples.

    There is no full-context embedding, which would have to be trained.

    Attributes:
      scale: of the cosines in the softmax; the larger, the nearer to one neighbor.

    References:
      Vinyals et al., Matching Networks for One Shot Learning, NeurIPS 2016, eq. 1.
    """

    scale: float | tuple[float, ...] = (1.0, 10.0, 100.0)

    title: ClassVar[str] = "MatchingNet"

    def scores(
        self, support: np.ndarray, labels: np.ndarray, query: np.ndarray
    ) -> np.ndarray:
        return matching_scores(support, labels, query, self.scale)
