"""The methods: k-NN, logistic and ridge regression, SVM, random forest, boosting.

Each builds a learner of scikit-learn; settings that are not fields keep the defaults of
scikit-learn.
"""

import dataclasses
from typing import Any, ClassVar

from jaxtl.analysis.baselines.base import Baseline
from jaxtl.analysis.candidates import choice


@dataclasses.dataclass(frozen=True, kw_only=True)
class KNN(Baseline):
    """The nearest neighbors' vote, or the mean of their targets.

    Attributes:
      neighbors: number of neighbors; candidates above the number of examples are left
        out.
      weights: of the neighbors, "uniform" or "distance" (1/distance).

    References:
      Cover, Hart, Nearest Neighbor Pattern Classification, IEEE Trans. Inf. Theory 13
      (1967).
    """

    neighbors: int | tuple[int, ...] = (1, 3, 5, 9, 15)
    weights: str | tuple[str, ...] = choice("uniform", "uniform", "distance")

    title: ClassVar[str] = "k-NN"

    def possible(self, examples: int) -> bool:
        return self.neighbors <= examples

    def learner(self, task: str, *, several: bool, seed: int, jobs: int) -> Any:
        from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

        classes = task == "classification"
        kind = KNeighborsClassifier if classes else KNeighborsRegressor
        return kind(self.neighbors, weights=self.weights, n_jobs=jobs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogisticRegression(Baseline):
    """Multinomial logistic regression with an L2 penalty.

    Attributes:
      C: inverse strength of the penalty: Σ loss + ‖W‖² / (2C), the sum over examples.
    """

    C: float | tuple[float, ...] = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)

    title: ClassVar[str] = "logistic regression"
    tasks: ClassVar[tuple[str, ...]] = ("classification",)

    def learner(self, task: str, *, several: bool, seed: int, jobs: int) -> Any:
        from sklearn import linear_model

        return linear_model.LogisticRegression(C=self.C, max_iter=5000)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ridge(Baseline):
    """Linear regression with an L2 penalty.

    Attributes:
      alpha: strength of the penalty: ‖XW + b − y‖² + alpha·‖W‖², the sum over examples.
    """

    alpha: float | tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)

    title: ClassVar[str] = "ridge regression"
    tasks: ClassVar[tuple[str, ...]] = ("regression",)

    def learner(self, task: str, *, several: bool, seed: int, jobs: int) -> Any:
        from sklearn import linear_model

        return linear_model.Ridge(alpha=self.alpha)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SVM(Baseline):
    """Support vector machine; regression targets are scaled to mean 0 and variance 1.

    It predicts no probabilities, so "nll" and "ece" are not measured. The linear kernel
    is that of liblinear: squared hinge loss, one class against the remaining ones.

    Attributes:
      C: weight of the slack.
      kernel: "rbf" or "linear".
      gamma: of the RBF kernel exp(−gamma·‖x − x'‖²); "scale" is 1 / (width · variance
        of the features), "auto" is 1 / width. The linear kernel has none.

    References:
      Cortes, Vapnik, Support-Vector Networks, Machine Learning 20 (1995).
    """

    C: float | tuple[float, ...] = (0.1, 1.0, 10.0, 100.0)
    kernel: str | tuple[str, ...] = choice("rbf", "rbf", "linear")
    gamma: float | str | tuple[float | str, ...] = choice("scale", "scale", "auto")

    title: ClassVar[str] = "SVM"
    probabilities: ClassVar[bool] = False

    def learner(self, task: str, *, several: bool, seed: int, jobs: int) -> Any:
        from sklearn import compose, multioutput, preprocessing, svm

        classes, rbf = task == "classification", self.kernel == "rbf"
        if rbf:
            model = (svm.SVC if classes else svm.SVR)(C=self.C, gamma=self.gamma)
        else:
            kind = svm.LinearSVC if classes else svm.LinearSVR
            model = kind(C=self.C, random_state=seed, max_iter=20_000)
        if classes:
            return model
        model = multioutput.MultiOutputRegressor(model) if several else model
        scaler = preprocessing.StandardScaler()
        return compose.TransformedTargetRegressor(regressor=model, transformer=scaler)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomForest(Baseline):
    """Random forest: trees on bootstrap samples.

    A split is chosen among √width features for classes, among all for regression.

    Attributes:
      trees: number of trees.
      leaf: minimum number of examples in a leaf.
      depth: maximum depth of the trees; None sets no limit.

    References:
      Breiman, Random Forests, Machine Learning 45 (2001).
    """

    trees: int | tuple[int, ...] = 300
    leaf: int | tuple[int, ...] = (1, 3)
    depth: int | tuple[int | None, ...] | None = choice(None, None)

    title: ClassVar[str] = "random forest"

    def learner(self, task: str, *, several: bool, seed: int, jobs: int) -> Any:
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
      iterations: number of trees (per class, or per regression target).
      rate: shrinkage of each tree.
      leaves: maximum number of leaves of a tree, at least 2.
      leaf: minimum number of examples in a leaf.

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

    def learner(self, task: str, *, several: bool, seed: int, jobs: int) -> Any:
        from sklearn import ensemble, multioutput

        classes = task == "classification"
        kind = ensemble.HistGradientBoostingRegressor
        kind = ensemble.HistGradientBoostingClassifier if classes else kind
        model = kind(
            max_iter=self.iterations,
            learning_rate=self.rate,
            max_leaf_nodes=self.leaves,
            min_samples_leaf=self.leaf,
            early_stopping=False,  # it would hold out some of the train rows
            random_state=seed,
        )
        return multioutput.MultiOutputRegressor(model) if several else model
