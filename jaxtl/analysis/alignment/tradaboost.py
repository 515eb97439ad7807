"""TrAdaBoost: boosting that trusts the target's few labels and doubts the source's."""

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.tree import DecisionTreeClassifier

from jaxtl.analysis.alignment import base
from jaxtl.core.errors import UserError


def source_factor(n: int, rounds: int) -> float:
    """Returns β = 1 / (1 + √(2 ln n / N)), by which a wrong source weight shrinks.

    References:
      Dai, Yang, Xue & Yu, Boosting for Transfer Learning, ICML 2007, figure 1.
    """
    return 1 / (1 + np.sqrt(2 * np.log(n) / rounds))


def update(weights, wrong, n: int, beta: float):
    """Returns the next round's weights, β_t and the error it comes from.

    ε_t is the weighted error on target rows, β_t = ε_t / (1 − ε_t); wrong source rows
    shrink by β, wrong target rows grow by 1/β_t.

    Args:
      weights: (n + m,) source rows first.
      wrong: (n + m,) bools.
      n: source rows.
      beta: `source_factor`.

    References:
      Dai et al., ICML 2007, figure 1, steps 4 to 6. ε_t is kept within [1e-10, ½ −
      1e-10], where the paper asks for less than ½ and has no case for 0.
    """
    error = float(weights[n:] @ wrong[n:] / weights[n:].sum())
    held = min(max(error, 1e-10), 0.5 - 1e-10)
    step = held / (1 - held)
    factors = np.where(wrong, np.where(np.arange(len(wrong)) < n, beta, 1 / step), 1.0)
    return weights * factors, step, error


class TrAdaBoost(ClassifierMixin, BaseEstimator):
    """A vote of the second half of N boosted learners.

    With more than two classes the votes ln(1/β_t) go to the class predicted; with two
    that is the paper's threshold.

    Attributes:
      learner: a scikit-learn classifier that takes `sample_weight`; None is a decision
        stump.
      rounds: N.
      learners_, votes_, errors_: after `fit`, one of each round (votes of the first
        half are 0).
      weights_: (n + m,) after the last round, source rows first, sum 1.

    References:
      Dai, Yang, Xue & Yu, ICML 2007.
    """

    def __init__(self, learner=None, rounds: int = 50):
        self.learner = learner
        self.rounds = rounds

    def fit(self, xs, ys, xt, yt):
        """Learns from both labelled domains; returns self.

        Args:
          xs, ys: (n, d) and (n,), the source.
          xt, yt: (m, d) and (m,), the few target rows that have labels.

        Raises:
          UserError: bad features, labels or settings, or a single class in all.
        """
        xs, xt = base.pair(self, xs, xt)
        ys = base.labels(self, "ys", ys, len(xs))
        yt = base.labels(self, "yt", yt, len(xt))
        base.whole(self, "rounds", self.rounds, 100_000, "learners")
        x, y = np.concatenate([xs, xt]), np.concatenate([ys, yt])
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise UserError(
                f"TrAdaBoost: all {len(y)} labels are {self.classes_[0]}; expected "
                "two classes at least."
            )
        learner = self.learner or DecisionTreeClassifier(max_depth=1, random_state=0)
        n, weights = len(xs), np.ones(len(y))
        beta = source_factor(n, self.rounds)
        self.learners_, self.errors_, steps = [], [], []
        for _ in range(self.rounds):
            weights = weights / weights.sum()
            made = clone(learner).fit(x, y, sample_weight=weights)
            weights, step, error = update(weights, made.predict(x) != y, n, beta)
            self.learners_.append(made)
            self.errors_.append(error)
            steps.append(step)
        self.weights_ = weights / weights.sum()
        late = np.arange(1, self.rounds + 1) >= np.ceil(self.rounds / 2)
        self.votes_ = np.where(late, np.log(1 / np.array(steps)), 0.0)
        self.width_ = x.shape[1]
        return self

    def predict(self, x) -> np.ndarray:
        """Returns the class with most votes for each row, (rows,)."""
        x = base.rows(self, "x", x)
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
