"""A linear support vector machine of several classes (the head of MetaOptNet)."""

import dataclasses
import warnings
from typing import ClassVar

import numpy as np

from jaxtl.analysis import geometry
from jaxtl.analysis.episodes.base import FewShotMethod

_ITERATIONS = 100_000  # of liblinear, at most


def svm_scores(
    support: np.ndarray, labels: np.ndarray, query: np.ndarray, slack: float
) -> np.ndarray:
    """Q W of Crammer and Singer's machine, without intercept, (m, ways).

    The authors' dual has the kernel S Sᵀ + I. It is that of features [S I], one more
    for each support example, which no query has.

    Args:
      support, labels, query: (n, d), (n,) and (m, d) of an episode.
      slack: C, the weight of the slack.
    """
    from sklearn import exceptions, svm

    support, query = geometry.span(support, query)  # where the weights are

    machine = svm.LinearSVC(
        C=slack,
        multi_class="crammer_singer",
        fit_intercept=False,
        tol=1e-6,
        max_iter=_ITERATIONS,
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        machine.fit(np.hstack([support, np.eye(len(support))]), labels)
    weights = machine.coef_[:, : support.shape[1]]
    scores = query @ weights.T
    # Of two classes scikit-learn keeps the difference alone; the weights sum to 0.
    return np.hstack([-scores, scores]) / 2 if len(weights) == 1 else scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaOptNet(FewShotMethod):
    """Outputs of a linear support vector machine by Crammer and Singer.

    Attributes:
      slack: C, the weight of the slack; the authors' program has 0.1.

    References:
      Lee, Maji, Ravichandran, Soatto, Meta-Learning with Differentiable Convex
      Optimization, CVPR 2019; Crammer, Singer, JMLR 2 (2001).
    """

    slack: float | tuple[float, ...] = (0.1, 0.01, 1.0)

    title: ClassVar[str] = "SVM (MetaOptNet)"

    def scores(
        self, support: np.ndarray, labels: np.ndarray, query: np.ndarray
    ) -> np.ndarray:
        return svm_scores(support, labels, query, self.slack)
