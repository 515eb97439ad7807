"""Power transform and optimal transport of queries to class centers (PT-MAP)."""

import dataclasses
from typing import ClassVar

import numpy as np

from jaxtl.analysis import geometry
from jaxtl.analysis.episodes.base import FewShotMethod

_TOLERANCE = 1e-6  # of the change of the plan's row sums
_ITERATIONS = 1000  # of Sinkhorn's algorithm, at most


def transform(
    support: np.ndarray, query: np.ndarray, power: float
) -> tuple[np.ndarray, np.ndarray]:
    """Both sets to a power, then of unit length, centered, and of unit length again.

    The features (x + 1e-6)^power are of a network that ends in a ReLU; negative ones
    are set to 0. Each set is centered on its own mean. All is done in coordinates of
    the space that the examples span, which changes no distance.

    Args:
      support, query: (n, d) and (m, d).
      power: the paper has ½.
    """
    features = np.concatenate([support, query])
    [features] = geometry.span((np.maximum(features, 0.0) + 1e-6) ** power)
    features = geometry.unit(features)
    parts = features[: len(support)], features[len(support) :]
    first, second = (geometry.unit(x - x.mean(axis=0)) for x in parts)
    return first, second


def transport(costs: np.ndarray, strength: float) -> np.ndarray:
    """Sinkhorn's plan (m, ways): rows sum to 1, columns to m / ways.

    Args:
      costs: (m, ways).
      strength: of the costs against the entropy.
    """
    columns = len(costs) / costs.shape[1]
    # The rows' factors cancel in the first step; without the minimum they underflow.
    plan = np.exp(-strength * (costs - costs.min(axis=1, keepdims=True)))
    rows = plan.sum(axis=1)
    for _ in range(_ITERATIONS):
        plan = plan / rows[:, None]
        plan = plan * (columns / plan.sum(axis=0))
        last, rows = rows, plan.sum(axis=1)
        if np.abs(rows - last).max() <= _TOLERANCE:
            break
    return plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class PTMAP(FewShotMethod):
    """Soft assignments of queries to centers that both sets estimate, in turn.

    Queries are transported as if each class had as many of them.

    Attributes:
      power: of the transform.
      strength: λ of the transport.
      rate: of the centers' updates.
      iterations: of both.

    References:
      Hu, Gripon, Pateux, Leveraging the Feature Distribution in Transfer-based Few-Shot
      Learning, ICANN 2021; constants of its program, yhu01/PT-MAP.
    """

    power: float | tuple[float, ...] = 0.5
    strength: float | tuple[float, ...] = 10.0
    rate: float | tuple[float, ...] = 0.2
    iterations: int | tuple[int, ...] = 20

    title: ClassVar[str] = "PT-MAP"
    transductive: ClassVar[bool] = True

    def scores(
        self, support: np.ndarray, labels: np.ndarray, query: np.ndarray
    ) -> np.ndarray:
        support, query = transform(support, query, self.power)
        centers, targets = (
            geometry.prototypes(support, labels),
            geometry.one_hot(labels),
        )
        for _ in range(self.iterations):
            plan = self._plan(query, centers)
            mass = targets.sum(axis=0) + plan.sum(axis=0)
            means = (targets.T @ support + plan.T @ query) / mass[:, None]
            centers = centers + self.rate * (means - centers)
        return self._plan(query, centers)

    def _plan(self, query: np.ndarray, centers: np.ndarray) -> np.ndarray:
        costs = geometry.squared_distances(query, centers)
        return transport(costs, self.strength)
