"""The methods: k-NN, logistic and ridge regression, SVM, random forest, boosting.

Each says which of scikit-learn's learners it is; what is not named here is left as it
is there.
"""

import dataclasses
from typing import ClassVar

from jaxtl.analysis.baselines.base import Baseline, known


@dataclasses.dataclass(frozen=True, kw_only=True)
class KNN(Baseline):
    """The nearest neighbours' vote, or the mean of their targets.

    Attributes:
      neighbours: how many; more than there are examples are passed over.
      weights: of the neighbours, "uniform" or "distance" (1/distance).

    References:
      Cover, Hart, Nearest Neighbor Pattern Classification, IEEE Trans. Inf. Theory 13
      (1967).
    """

    neighbours: int | tuple[int, ...] = (1, 3, 5, 9, 15)
    weights: str | tuple[str, ...] = known("uniform", "uniform", "distance")

    title: ClassVar[str] = "k-NN"

    def possible(self, examples):
        return self.neighbours <= examples

    def learner(self, task, *, several, seed, jobs):
        from sklearn import neighbors

        kind = neighbors.KNeighborsRegressor
        if task == "classification":
            kind = neighbors.KNeighborsClassifier
        return kind(self.neighbours, weights=self.weights, n_jobs=jobs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogisticRegression(Baseline):
    """Multinomial logistic regression with an L2 penalty.

    Attributes:
      C: Σ loss + ‖W‖² / (2C), the sum over examples.
    """

    C: float | tuple[float, ...] = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)

    title: ClassVar[str] = "logistic regression"
    tasks: ClassVar[tuple[str, ...]] = ("classification",)

    def learner(self, task, *, several, seed, jobs):
        from sklearn import linear_model

        return linear_model.LogisticRegression(C=self.C, max_iter=5000)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ridge(Baseline):
    """Linear regression with an L2 penalty.

    Attributes:
      alpha: ‖XW + b − y‖² + alpha·‖W‖², the sum over examples.
    """

    alpha: float | tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)

    title: ClassVar[str] = "ridge regression"
    tasks: ClassVar[tuple[str, ...]] = ("regression",)

    def learner(self, task, *, several, seed, jobs):
        from sklearn import linear_model

        return linear_model.Ridge(alpha=self.alpha)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SVM(Baseline):
    """Support vector machine; for regression on targets of mean 0 and variance 1.

    It gives no probabilities, so "nll" and "ece" are left out. The linear kernel is
    liblinear's: squared hinge, one class against the rest.

    Attributes:
      C: of the slack.
      kernel: "rbf" or "linear".
      gamma: of the RBF kernel exp(−gamma·‖x − x'‖²); "scale" is 1 / (width · variance
        of the features), "auto" is 1 / width. The linear kernel has none.

    References:
      Cortes, Vapnik, Support-Vector Networks, Machine Learning 20 (1995).
    """

    C: float | tuple[float, ...] = (0.1, 1.0, 10.0, 100.0)
    kernel: str | tuple[str, ...] = known("rbf", "rbf", "linear")
    gamma: float | str | tuple[float | str, ...] = known("scale", "scale", "auto")

    title: ClassVar[str] = "SVM"
    probabilities: ClassVar[bool] = False

    def learner(self, task, *, several, seed, jobs):
        from sklearn import compose, multioutput, preprocessing, svm

        classes, rbf = task == "classification", self.kernel == "rbf"
        if rbf:
            made = (svm.SVC if classes else svm.SVR)(C=self.C, gamma=self.gamma)
        else:
            kind = svm.LinearSVC if classes else svm.LinearSVR
            made = kind(C=self.C, random_state=seed, max_iter=20_000)
        if classes:
            return made
        made = multioutput.MultiOutputRegressor(made) if several else made
        scaled = preprocessing.StandardScaler()
        return compose.TransformedTargetRegressor(regressor=made, transformer=scaled)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomForest(Baseline):
    """Random forest: trees on bootstrap samples, with √width (or all) inputs a split.

    Attributes:
      trees: their number.
      leaf: least examples in a leaf.
      depth: of the trees, None without limit.

    References:
      Breiman, Random Forests, Machine Learning 45 (2001).
    """

    trees: int | tuple[int, ...] = 300
    leaf: int | tuple[int, ...] = (1, 3)
    depth: int | tuple[int | None, ...] | None = known(None, None)

    title: ClassVar[str] = "random forest"

    def learner(self, task, *, several, seed, jobs):
        from sklearn import ensemble

        kind = ensemble.RandomForestRegressor
        if task == "classification":
            kind = ensemble.RandomForestClassifier
        return kind(
            self.trees,
            min_samples_leaf=self.leaf,
            max_depth=self.depth,
            random_state=seed,
            n_jobs=jobs,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientBoosting(Baseline):
    """Boosted trees on histograms of the features.

    Attributes:
      iterations: trees (per class, or regression target).
      rate: shrinkage of each.
      leaves: at most, in a tree; at least 2.
      leaf: least examples in a leaf.

    References:
      Friedman, Greedy Function Approximation, Annals of Statistics 29 (2001).
      Ke et al., LightGBM, NeurIPS 2017 (histograms).
    """

    iterations: int | tuple[int, ...] = 100
    rate: float | tuple[float, ...] = 0.1
    leaves: int | tuple[int, ...] = 31
    leaf: int | tuple[int, ...] = (5, 20)

    title: ClassVar[str] = "gradient boosting"
    sparse: ClassVar[bool] = False

    def learner(self, task, *, several, seed, jobs):
        from sklearn import ensemble, multioutput

        classes = task == "classification"
        kind = ensemble.HistGradientBoostingRegressor
        kind = ensemble.HistGradientBoostingClassifier if classes else kind
        made = kind(
            max_iter=self.iterations,
            learning_rate=self.rate,
            max_leaf_nodes=self.leaves,
            min_samples_leaf=self.leaf,
            early_stopping=False,  # which would choose on train rows of its own
            random_state=seed,
        )
        return multioutput.MultiOutputRegressor(made) if several else made
