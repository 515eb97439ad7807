"""Prototypes rectified by the queries that are predicted to be theirs (BD-CSPN)."""

import dataclasses
from typing import ClassVar

import numpy as np
from scipy import special

from jaxtl.analysis import geometry
from jaxtl.analysis.episodes.base import FewShotMethod


def rectify(
    support: np.ndarray, labels: np.ndarray, query: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rectified prototypes (ways, d), and the shifted queries (m, d).

    Queries are shifted by the difference of the means of both sets, and take the class
    of the prototype with the largest cosine. A new prototype is the mean of the class's
    support and query features, weighted by exp(scale · cosine with the old one).

    Args:
      support, labels, query: (n, d), (n,) and (m, d) of an episode.
      scale: of the cosines in the weights.
    """
    query = query + support.mean(axis=0) - query.mean(axis=0)
    features = np.concatenate([support, query])
    basic = geometry.unit(geometry.prototypes(support, labels))
    cosines = geometry.unit(features) @ basic.T
    classes = np.concatenate([labels, cosines[len(support) :].argmax(axis=1)])
    logits = np.where(geometry.one_hot(classes) > 0, scale * cosines, -np.inf)
    return special.softmax(logits, axis=0).T @ features, query


@dataclasses.dataclass(frozen=True, kw_only=True)
class BDCSPN(FewShotMethod):
    """Cosines of shifted queries with prototypes that queries have rectified.

    Attributes:
      scale: of the cosines in the weights of a prototype.

    References:
      Liu, Song, Qin, Prototype Rectification for Few-Shot Learning, ECCV 2020.
    """

    scale: float | tuple[float, ...] = (10.0, 1.0)

    title: ClassVar[str] = "BD-CSPN"
    transductive: ClassVar[bool] = True

    def scores(
        self, support: np.ndarray, labels: np.ndarray, query: np.ndarray
    ) -> np.ndarray:
        prototypes, shifted = rectify(support, labels, query, self.scale)
        return geometry.unit(shifted) @ geometry.unit(prototypes).T
