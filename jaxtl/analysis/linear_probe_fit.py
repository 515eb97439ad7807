"""Linear probes of given features: fits many strengths, chooses one, and tests it.

References:
  Alain, Bengio, Understanding Intermediate Layers Using Linear Classifier Probes, 2016
  (arXiv 1610.01644).
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.analysis import linear_models
from jaxtl.core.errors import UserError, nearest
from jaxtl.evaluation import metrics

STRENGTHS = tuple(10.0 ** (e / 2) for e in range(-10, 3))
SOLVERS = {
    "classification": ("logistic", "ridge"),
    "multilabel": ("ridge",),
    "regression": ("ridge",),
}
# Errors that ridge computes in closed form; they need no validation data.
CLOSED_FORM = ("loo", "gcv")
_OF_LOGITS = ("nll", "ece")  # the outputs of ridge are no logits


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """Linear models of one stage's features, one per strength.

    Attributes:
      stage: name of the stage; "" for features from elsewhere.
      solver: "logistic" or "ridge".
      path: strengths (S,), weights (S, d, K), intercept (S, K); they apply to the
        features before standardization.
      scores: per strength, metrics on validation ({} without), and with ridge "loo"
        (leave-one-out mean squared error), "gcv", and for classes "loo_accuracy".
      metric: that the strength was chosen by.
      best: index of the chosen strength.
      test: metrics of that strength on test, {} where there is none.
      examples: {split: number of examples}.
      width: d, the number of features.
    """

    stage: str
    solver: str
    path: linear_models.RegularizationPath
    scores: list[dict[str, float]]
    metric: str
    best: int
    test: dict[str, float]
    examples: dict[str, int]
    width: int

    @property
    def strength(self) -> float:
        """The chosen strength."""
        return float(self.path.strengths[self.best])

    @property
    def weights(self) -> np.ndarray:
        """The chosen model's weights, (d, K)."""
        return self.path.weights[self.best]

    @property
    def intercept(self) -> np.ndarray:
        """The chosen model's intercept, (K,)."""
        return self.path.intercept[self.best]

    def to_json(self) -> dict:
        """All fields but the coefficients, as JSON values."""
        content = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del content["path"]
        strengths = self.path.strengths.tolist()
        return {**content, "strengths": strengths, "strength": self.strength}


def linear_probe(
    features: ArrayLike,
    labels: ArrayLike,
    strengths: Iterable[float] = STRENGTHS,
    *,
    val: tuple[ArrayLike, ArrayLike] | None = None,
    test: tuple[ArrayLike, ArrayLike] | None = None,
    task: str = "classification",
    outputs: int | None = None,
    solver: str = "auto",
    standardize: bool = True,
    metric: str = "auto",
    stage: str = "",
) -> Probe:
    """Fits a linear model per strength, chooses one, and tests it.

    The objective is mean loss + ½·strength·‖W‖²; `linear_models` has the corresponding
    settings of scikit-learn.

    Args:
      features: (n, d) of the training examples.
      labels: (n,) classes, (n, L) zeros and ones, or (n,) or (n, T) targets.
      strengths: positive numbers.
      val, test: (features, labels) of these splits.
      task: "classification", "multilabel" or "regression".
      outputs: number of classes; None takes the largest training label + 1.
      solver: "logistic" (multinomial) or "ridge" (on ±1 for classes); "auto" takes
        "logistic" for classes, "ridge" for other tasks.
      standardize: whether features get mean 0 and standard deviation 1 on the training
        examples before they are penalized.
      metric: that the strength is chosen by: a metric on val, or with ridge "loo" or
        "gcv". "auto" takes the task's main one. Of equal ones the strongest penalty
        wins.
      stage: name of the stage that the features are of.

    Returns:
      The chosen model, and the metrics of every strength.

    Raises:
      UserError: a strength that is not positive, an unknown solver, or no val.
    """
    solver = resolve_solver(task, solver)
    strengths = check_strengths(strengths)
    metric = resolve_metric(task, solver, metric, val is not None)
    x = _check_features(features, labels)
    if task == "classification" and outputs is None:
        outputs = int(np.max(labels)) + 1
    path, scores = _fit(x, labels, strengths, standardize, task, outputs, solver)
    for i, row in enumerate(scores if val is not None else ()):
        row.update(_metrics(task, solver, path, i, *val))
    best = _best(scores, strengths, metric)
    splits = {"train": (x, labels), "val": val, "test": test}
    return Probe(
        stage=stage,
        solver=solver,
        path=path,
        scores=scores,
        metric=metric,
        best=best,
        test={} if test is None else _metrics(task, solver, path, best, *test),
        examples={name: len(s[1]) for name, s in splits.items() if s is not None},
        width=x.shape[1],
    )


def _check_features(features: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Converts features to float64, (n, d); UserError where they don't fit labels."""
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or len(x) != len(labels) or not np.isfinite(x).all():
        raise UserError(
            f"features of shape {x.shape} for {len(labels)} labels: expected finite "
            "numbers, (examples, width)."
        )
    return x


def _fit(
    x: np.ndarray,
    labels: ArrayLike,
    strengths: np.ndarray,
    standardize: bool,
    task: str,
    outputs: int | None,
    solver: str,
) -> tuple[linear_models.RegularizationPath, list[dict[str, float]]]:
    """Fits the models of all strengths; scores them where no validation is needed."""
    mean, scale = np.zeros(x.shape[1]), np.ones(x.shape[1])
    if standardize:
        mean, scale = linear_models.standardizer(x)
    spectrum = linear_models.decompose((x - mean) / scale)
    if solver == "logistic":
        path = linear_models.logistic(spectrum, labels, outputs, strengths).path
        scores = [{} for _ in strengths]
    else:
        y = _targets(task, labels, outputs)
        path = linear_models.ridge(spectrum, y, strengths)
        scores = [_closed_form(task, spectrum, y, labels, s) for s in strengths]
    return linear_models.unstandardized(path, mean, scale), scores


def resolve_solver(task: str, solver: str) -> str:
    """Name of the solver, "auto" resolved; UserError for one that the task has not."""
    if task not in SOLVERS:
        raise UserError(
            f"task={task!r}{nearest(task, SOLVERS)}: linear probes are for "
            f"{', '.join(SOLVERS)}."
        )
    names = SOLVERS[task]
    if solver != "auto" and solver not in names:
        raise UserError(
            f"solver={solver!r} is none for {task}{nearest(solver, names)} "
            f"(known: auto, {', '.join(names)})."
        )
    return names[0] if solver == "auto" else solver


def check_strengths(strengths: Iterable[float]) -> np.ndarray:
    """Converts strengths to an array, (S,); UserError unless all are above 0."""
    values = np.asarray(list(strengths), np.float64)
    wrong = [s for s in values.tolist() if not 0 < s < math.inf]
    if wrong or not len(values):
        raise UserError(
            f"strengths={values.tolist()}: expected at least one number, all above 0"
            f"{f'; {wrong[0]:g} is not' if wrong else ''}."
        )
    return values


def resolve_metric(task: str, solver: str, metric: str, val: bool) -> str:
    """Name of the metric that chooses the strength, "auto" resolved.

    Args:
      task, solver: of the probe.
      metric: "auto", or the name.
      val: whether there is a val split.

    Raises:
      UserError: a metric that this probe can't measure.
    """
    names = [m for m in metrics.METRICS[task] if _is_measured(task, solver, m)]
    if solver == "ridge":
        names += CLOSED_FORM
    if metric == "auto":
        metric = metrics.main_metric(task)
    if metric not in names:
        raise UserError(
            f"metric={metric!r} is none of a {solver} probe"
            f"{metrics.nearest_metric(metric, names)} "
            f"(known: {', '.join(names)})."
        )
    if not val and metric not in CLOSED_FORM:
        raise UserError(
            "a probe chooses its strength on a val split, and there is none; raise "
            "data.val, or use solver='ridge' with metric='loo'."
        )
    return metric


def _is_measured(task: str, solver: str, metric: str) -> bool:
    """Whether the outputs of a probe give a metric."""
    if solver != "ridge" or task == "regression":
        return True
    return metric not in _OF_LOGITS


def _targets(task: str, labels: ArrayLike, outputs: int | None) -> np.ndarray:
    """Targets of ridge, (n, K): ±1 for classes and labels, else the labels."""
    if task == "classification":
        return linear_models.signs(labels, outputs)
    y = np.asarray(labels, np.float64).reshape(len(labels), -1)
    return 2.0 * y - 1.0 if task == "multilabel" else y


def _closed_form(
    task: str,
    spectrum: linear_models.Spectrum,
    y: np.ndarray,
    labels: ArrayLike,
    strength: float,
) -> dict[str, float]:
    """Computes the scores of ridge that need no validation data."""
    held_out = linear_models.leave_one_out(spectrum, y, strength)
    scores = {
        "loo": float(np.square(held_out - y).mean()),
        "gcv": linear_models.gcv(spectrum, y, strength),
    }
    if task == "classification":
        scores["loo_accuracy"] = metrics.accuracy(held_out, labels)
    return scores


def _metrics(
    task: str,
    solver: str,
    path: linear_models.RegularizationPath,
    index: int,
    x: ArrayLike,
    y: ArrayLike,
) -> dict[str, float]:
    """Computes the metrics of one strength's model on features and labels."""
    scores = metrics.compute(task, path(x, index), y)
    return {m: v for m, v in scores.items() if _is_measured(task, solver, m)}


def _best(
    scores: Sequence[Mapping[str, float]], strengths: np.ndarray, metric: str
) -> int:
    """Index of the best score; ties go to lower nll, then to the larger strength."""
    name = "loss" if metric in CLOSED_FORM else metric
    keys = [
        (metrics.score(name, row[metric]), -row.get("nll", 0.0), strength)
        for row, strength in zip(scores, strengths)
    ]
    return max(range(len(keys)), key=keys.__getitem__)
