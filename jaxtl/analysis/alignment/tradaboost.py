"""TrAdaBoost: boosting with many labelled source rows and a few of the target."""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.tree import DecisionTreeClassifier

from jaxtl.analysis.alignment import base
from jaxtl.core.errors import UserError


def source_factor(n: int, rounds: int) -> float:
    """Computes β = 1 / (1 + √(2 ln n / N)), the factor of wrong source rows' weights.

    Args:
      n: number of source rows.
      rounds: N.

    Returns:
      β in (0, 1]; 1 for a single source row.

    References:
      Dai, Yang, Xue & Yu, Boosting for Transfer Learning, ICML 2007, figure 1.
    """
    return 1 / (1 + np.sqrt(2 * np.log(n) / rounds))


def update(
    weights: np.ndarray, wrong: np.ndarray, n: int, beta: float
) -> tuple[np.ndarray, float, float]:
    """Computes the next round's weights.

    ε_t is the weighted error on target rows, β_t = ε_t / (1 − ε_t). Weights of wrong
    source rows are multiplied by β, those of wrong target rows by 1/β_t.

    Args:
      weights: (n + m,) source rows first.
      wrong: (n + m,) bools, whether the round's learner predicts another class.
      n: number of source rows.
      beta: from `source_factor`.

    Returns:
      `(weights, β_t, ε_t)`, weights of shape (n + m,).

    References:
      Dai et al., ICML 2007, figure 1, steps 4 to 6. ε_t is kept within [1e-10, ½ −
      1e-10], where the paper asks for less than ½ and has no case for 0.
    """
    error = float(weights[n:] @ wrong[n:] / weights[n:].sum())
    clipped = min(max(error, 1e-10), 0.5 - 1e-10)
    beta_t = clipped / (1 - clipped)
    is_source = np.arange(len(wrong)) < n
    factors = np.where(wrong, np.where(is_source, beta, 1 / beta_t), 1.0)
    return weights * factors, beta_t, error


class TrAdaBoost(ClassifierMixin, BaseEstimator):
    """A vote among the second half of N boosted learners.

    Each learner's vote, ln(1/β_t), goes to the class that it predicts; with two classes
    that is the paper's threshold.

    Attributes:
      learner: a scikit-learn classifier that takes `sample_weight`; None is a decision
        stump.
      rounds: N.
      learners_, votes_, errors_: after `fit`, one per round (votes of the first half
        are 0).
      weights_: (n + m,) after the last round, source rows first, sum 1.

    References:
      Dai, Yang, Xue & Yu, ICML 2007.
    """

    def __init__(self, learner: Any = None, rounds: int = 50) -> None:
        self.learner = learner
        self.rounds = rounds

    def fit(self, xs: ArrayLike, ys: ArrayLike, xt: ArrayLike, yt: ArrayLike) -> Self:
        """Fits the learners to both labelled domains.

        Args:
          xs, ys: (n, d) and (n,), the source.
          xt, yt: (m, d) and (m,), the labelled target rows.

        Returns:
          This object, with `learners_`, `errors_` (the weighted target error of each
          round), `votes_` and the final `weights_` (n + m,), which add up to 1.

        Raises:
          UserError: bad features, labels or settings, or labels of a single class.
        """
        xs, xt = base.check_pair(self, xs, xt)
        ys = base.check_labels(self, "ys", ys, len(xs))
        yt = base.check_labels(self, "yt", yt, len(xt))
        base.check_integer(self, "rounds", self.rounds, 100_000, "learners")
        x, y = np.concatenate([xs, xt]), np.concatenate([ys, yt])
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise UserError(
                f"TrAdaBoost: all {len(y)} labels are {self.classes_[0]}; expected at "
                "least two classes."
            )
        learner = self.learner or DecisionTreeClassifier(max_depth=1, random_state=0)
        n, weights = len(xs), np.ones(len(y))
        beta = source_factor(n, self.rounds)
        self.learners_, self.errors_, betas = [], [], []
        for _ in range(self.rounds):
            weights = weights / weights.sum()
            fitted = clone(learner).fit(x, y, sample_weight=weights)
            wrong = fitted.predict(x) != y
            weights, beta_t, error = update(weights, wrong, n, beta)
            self.learners_.append(fitted)
            self.errors_.append(error)
            betas.append(beta_t)
        self.weights_ = weights / weights.sum()
        second_half = np.arange(1, self.rounds + 1) >= np.ceil(self.rounds / 2)
        self.votes_ = np.where(second_half, np.log(1 / np.array(betas)), 0.0)
        self.width_ = x.shape[1]
        return self

    def predict(self, x: ArrayLike) -> np.ndarray:
        """Predicts the class with most votes of the second half of the learners.

        Args:
          x: (rows, d), as wide as the features of `fit`.

        Returns:
          (rows,) labels; of classes with equal votes the first in sorted order.

        Raises:
          UserError: x of another width, or that is not a matrix of finite numbers.
        """
        x = base.check_rows(self, "x", x)
        if x.shape[1] != self.width_:
            raise UserError(
                f"TrAdaBoost: x has {x.shape[1]} features, and it was fitted on "
                f"{self.width_}."
            )
        votes = np.zeros((len(x), len(self.classes_)))
        for learner, vote in zip(self.learners_, self.votes_):
            if vote:
                votes += vote * (learner.predict(x)[:, None] == self.classes_)
        return self.classes_[votes.argmax(1)]
