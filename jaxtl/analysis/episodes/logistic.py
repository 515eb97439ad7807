"""Logistic regression on features of unit length."""

import dataclasses
from typing import ClassVar

import numpy as np

from jaxtl.analysis import geometry
from jaxtl.analysis.episodes.base import FewShotMethod


def logistic_scores(
    support: np.ndarray, labels: np.ndarray, query: np.ndarray, slack: float
) -> np.ndarray:
    """Log probabilities of multinomial logistic regression, (m, ways).

    Args:
      support, labels, query: (n, d), (n,) and (m, d) of an episode.
      slack: C, inverse strength of the penalty: Σ loss + ‖W‖² / (2C).
    """
    from sklearn import linear_model

    support, query = geometry.span(support, query)  # where the weights are

    model = linear_model.LogisticRegression(C=slack, max_iter=1000)
    return model.fit(support, labels).predict_log_proba(query)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogisticHead(FewShotMethod):
    """Logistic regression (scikit-learn's) on features of unit length.

    Attributes:
      slack: C, inverse strength of the penalty: Σ loss + ‖W‖² / (2C).

    References:
      Tian et al., Rethinking Few-Shot Image Classification: A Good Embedding Is All You
      Need?, ECCV 2020.
    """

    slack: float | tuple[float, ...] = (1.0, 0.1, 10.0)

    title: ClassVar[str] = "logistic regression"

    def scores(
        self, support: np.ndarray, labels: np.ndarray, query: np.ndarray
    ) -> np.ndarray:
        support, query = geometry.unit(support), geometry.unit(query)
        return logistic_scores(support, labels, query, self.slack)
