"""Metrics of features: neighbors, a linear probe, and how many dimensions they fill.

They read no output of the head, so they judge a model whose head nothing has trained.
`KNNAccuracy` and `LinearProbeAccuracy` read labels; `RankMe` and `LiDAR` read none.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.core import progress
from jaxtl.core.errors import UserError
from jaxtl.evaluation.metrics.base import Metric, note, undefined

NOT_FINITE = "the features hold NaN or infinity"


class FeatureEvidence(NamedTuple):
    """What metrics of features read of a model, on the host in float64.

    Attributes:
      features, labels: of a split, (n, width) and (n,).
      bank, bank_labels: of the labelled train rows, (m, width) and (m,); None where
        there are none, and where the split is these rows.
      sample: (r, width), features of train rows with and without labels; None where
        there are none.
      views: `(operations, examples, copies) -> (examples, copies, width)`, features of
        random views of some of these rows.
    """

    features: np.ndarray
    labels: np.ndarray
    bank: np.ndarray | None
    bank_labels: np.ndarray | None
    sample: np.ndarray | None
    views: Callable[..., np.ndarray] | None


def knn_predictions(
    queries: ArrayLike,
    bank: ArrayLike,
    labels: ArrayLike,
    k: int = 20,
    temperature: float = 0.1,
    leave_out: bool = False,
) -> np.ndarray:
    """Classes by the k most similar examples, weighted by exp(cosine / temperature).

    Args:
      queries: (n, width).
      bank: (m, width), of labelled examples.
      labels: (m,) classes, whole numbers from 0.
      k: number of neighbors, at most all.
      temperature: of the weights.
      leave_out: whether query i is example i of the bank, which it then does not see.

    Returns:
      (n,) classes; of equal votes the first class.

    References:
      Wu et al., Unsupervised Feature Learning via Non-Parametric Instance
      Discrimination, CVPR 2018, section 3.4 (there k = 200 of 50,000, τ = 0.07).
    """
    queries, bank = _unit_rows(queries), _unit_rows(bank)
    labels = np.asarray(labels)
    k = min(k, len(bank) - leave_out)
    votes_of = np.eye(int(labels.max()) + 1)
    predictions = []
    starts = range(0, len(queries), _CHUNK)
    for start in progress.track(starts, "looking for nearest neighbors, in blocks"):
        similarity = queries[start : start + _CHUNK] @ bank.T
        if leave_out:
            rows = np.arange(len(similarity))
            similarity[rows, start + rows] = -np.inf
        nearest = np.argsort(-similarity, 1, kind="stable")[:, :k]
        closeness = np.take_along_axis(similarity, nearest, 1)
        weights = np.exp((closeness - closeness[:, :1]) / temperature)
        votes = np.einsum("nk,nkc->nc", weights, votes_of[labels[nearest]])
        predictions.append(votes.argmax(1))
    return np.concatenate(predictions)


def rankme(features: ArrayLike) -> float:
    """exp of the entropy of singular values: how many dimensions features fill.

    exp(−Σ p_k log p_k), p_k = σ_k / Σ σ + 1e-7. At most min(n, width); features are
    not centered.

    Args:
      features: (n, width), of more examples than the width.

    Returns:
      A number from 1 to min(n, width), but for the 1e-7; NaN, with a note, where
      features are not finite or all 0.

    References:
      Garrido, Balestriero, Najman, LeCun, RankMe, ICML 2023, eq. 1.
    """
    x = np.asarray(features, np.float64)
    if not np.isfinite(x).all():
        return undefined(NOT_FINITE)
    return _effective_rank(np.linalg.svd(x, compute_uv=False))


def lidar(features: ArrayLike, ridge: float = 1e-4) -> float:
    """exp of the entropy of the eigenvalues of linear discriminant analysis.

    Each example is a class of its own and its views are the members: the eigenvalues
    are those of Σ_w^−½ Σ_b Σ_w^−½, with the covariance Σ_b of the examples' means and
    the mean covariance Σ_w of views about them, plus `ridge` · I.

    Args:
      features: (examples, views, width), both at least 2.
      ridge: δ.

    Returns:
      A number from 1 to the width, but for the 1e-7; NaN, with a note, where features
      are not finite or all examples have the same mean.

    References:
      Thilak et al., LiDAR: Sensing Linear Probing Performance in Joint Embedding SSL
      Architectures, ICLR 2024, section 4.
    """
    x = np.asarray(features, np.float64)
    if not np.isfinite(x).all():
        return undefined(NOT_FINITE)
    means = x.mean(1)
    centered = means - means.mean(0)
    between = centered.T @ centered / len(means)
    within_rows = (x - means[:, None]).reshape(-1, x.shape[-1])
    within = within_rows.T @ within_rows / len(within_rows)
    values, vectors = np.linalg.eigh(within + ridge * np.eye(x.shape[-1]))
    root = vectors / np.sqrt(values)
    return _effective_rank(np.linalg.eigvalsh(root.T @ between @ root).clip(0))


def _effective_rank(values: np.ndarray) -> float:
    total = values.sum()
    if not np.isfinite(total):
        return undefined(NOT_FINITE)
    if total == 0:
        return undefined("the features are all equal")
    share = values / total + 1e-7
    return float(np.exp(-np.sum(share * np.log(share))))


_CHUNK = 1024  # queries that are compared with the whole bank at once


def _unit_rows(x: ArrayLike) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureMetric(Metric):
    """Base class of metrics of the features that the head reads.

    Attributes:
      label_free: whether no label is read.
    """

    label_free: ClassVar[bool] = False
    reads_features: ClassVar[bool] = True
    reads_scores: ClassVar[bool] = True

    def measure_features(self, evidence: FeatureEvidence) -> float:
        """The value."""
        raise TypeError(f"{type(self).__name__} defines no measure_features(evidence)")

    def check_counts(self, where: str, **counts: int) -> None:
        """Raises UserError unless fields are whole numbers of at least 1, or 2."""
        for name, least in counts.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise UserError(
                    f"{where}.{name}={value!r}: expected a whole number of at least "
                    f"{least}."
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class KNNAccuracy(FeatureMetric):
    """Accuracy of a weighted k-nearest-neighbor classifier on the features.

    The neighbors are the labelled train rows; without any, the split's own other rows,
    each example being left out in turn.

    Attributes:
      k: number of neighbors.
      temperature: of the weights exp(cosine / temperature).
    """

    k: int = 20
    temperature: float = 0.1

    def check(self, task: str, class_names: tuple[str, ...], where: str) -> None:
        super().check(task, class_names, where)
        self.check_counts(where, k=1)
        if not self.temperature > 0:
            raise UserError(
                f"{where}.temperature={self.temperature!r}: expected a number above 0."
            )

    def measure_features(self, evidence: FeatureEvidence) -> float:
        x, y = evidence.features, evidence.labels
        alone = evidence.bank is None
        if alone and len(x) < 2:
            return undefined("there is no other labelled example to compare with")
        bank, labels = (x, y) if alone else (evidence.bank, evidence.bank_labels)
        settings = {"k": self.k, "temperature": self.temperature}
        predicted = knn_predictions(x, bank, labels, leave_out=alone, **settings)
        return float(np.mean(predicted == y))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearProbeAccuracy(FeatureMetric):
    """Accuracy of scikit-learn's logistic regression on standardized features.

    It is fitted on the labelled train rows; without any, on four fifths of the split
    for each other fifth.

    Attributes:
      strength: of the penalty ½ · strength · ‖w‖².
    """

    strength: float = 1.0

    def check(self, task: str, class_names: tuple[str, ...], where: str) -> None:
        super().check(task, class_names, where)
        if not self.strength > 0:
            raise UserError(
                f"{where}.strength={self.strength!r}: expected a number above 0."
            )

    def measure_features(self, evidence: FeatureEvidence) -> float:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import KFold, cross_val_predict
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        x, y = evidence.features, evidence.labels
        fitted = y if evidence.bank is None else evidence.bank_labels
        if len(np.unique(fitted)) < 2 or (evidence.bank is None and len(x) < 10):
            return undefined("a probe needs two classes and ten examples")
        logistic = LogisticRegression(C=1 / self.strength, max_iter=1000)
        probe = make_pipeline(StandardScaler(), logistic)
        if evidence.bank is None:
            folds = KFold(5, shuffle=True, random_state=0)
            return float(np.mean(cross_val_predict(probe, x, y, cv=folds) == y))
        probe.fit(evidence.bank, evidence.bank_labels)
        return float(np.mean(probe.predict(x) == y))


_TASKS = ("classification", "multilabel", "regression")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankMe(FeatureMetric):
    """Number of dimensions that the features of train rows fill; reads no label.

    References:
      Garrido et al., ICML 2023. See `rankme`.
    """

    tasks: ClassVar[tuple[str, ...]] = _TASKS
    label_free: ClassVar[bool] = True

    def measure_features(self, evidence: FeatureEvidence) -> float:
        sample = evidence.sample
        if sample is None:
            return undefined("there are no train rows")
        if len(sample) < sample.shape[1]:
            note(f"its {len(sample)} train rows bound it, not the features")
        return rankme(sample)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiDAR(FeatureMetric):
    """Number of dimensions in which examples differ more than their views do.

    It reads no label. The views are random, the same ones at every evaluation.

    Attributes:
      views: operations of a view, on stored values, such as those of
        `tl.selfsup.simclr_views()`.
      examples: number of train rows, 1,000 in the paper.
      copies: views of each, 50 in the paper.

    References:
      Thilak et al., ICLR 2024. See `lidar`.
    """

    tasks: ClassVar[tuple[str, ...]] = _TASKS
    label_free: ClassVar[bool] = True

    views: tuple = ()
    examples: int = 500
    copies: int = 10

    def check(self, task: str, class_names: tuple[str, ...], where: str) -> None:
        super().check(task, class_names, where)
        self.check_counts(where, examples=2, copies=2)
        if not self.views or not all(map(callable, self.views)):
            raise UserError(
                f"{where}.views={self.views!r}: expected the operations that make a "
                "view, such as tl.selfsup.simclr_views()."
            )

    def measure_features(self, evidence: FeatureEvidence) -> float:
        if evidence.views is None:
            return undefined("there are no train rows")
        features = evidence.views(self.views, self.examples, self.copies)
        if len(features) < features.shape[-1]:
            note(f"its {len(features)} train rows bound it, not the features")
        return lidar(features)
