"""Linear probes of given features: many strengths fitted, one chosen, that one tested.

References:
  Alain, Bengio, Understanding Intermediate Layers Using Linear Classifier Probes, 2016
  (arXiv 1610.01644).
"""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from jaxtl.analysis import linear_models
from jaxtl.core.errors import UserError, nearest
from jaxtl.evaluation import metrics

STRENGTHS = tuple(10.0 ** (e / 2) for e in range(-10, 3))
SOLVERS = {
    "classification": ("logistic", "ridge"),
    "multilabel": ("ridge",),
    "regression": ("ridge",),
}
# Ridge chooses by these without validation data, and its outputs are no logits.
CLOSED = ("loo", "gcv")
_OF_LOGITS = ("nll", "ece")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """Linear models of one stage's features, one per strength.

    Attributes:
      stage: whose features, "" for features that were given.
      solver: "logistic" or "ridge".
      path: strengths (S,), weights (S, d, K), intercept (S, K); they apply to the
        features as they are, standardised or not.
      scores: per strength, metrics on validation ({} without), and with ridge "loo"
        (leave-one-out mean squared error), "gcv", and for classes "loo_accuracy".
      metric: what the strength was chosen by.
      best: index of the chosen strength.
      test: its metrics on test, {} where there is none.
      examples: {split: count}.
      width: d, numbers per example.
    """

    stage: str
    solver: str
    path: linear_models.Path
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
        """Returns everything but the coefficients, as JSON values."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del found["path"]
        strengths = self.path.strengths.tolist()
        return {**found, "strengths": strengths, "strength": self.strength}


def linear_probe(
    features,
    labels,
    strengths: Iterable[float] = STRENGTHS,
    *,
    val: tuple | None = None,
    test: tuple | None = None,
    task: str = "classification",
    outputs: int | None = None,
    solver: str = "auto",
    standardize: bool = True,
    metric: str = "auto",
    stage: str = "",
) -> Probe:
    """Fits a linear model per strength, chooses one, and tests that one.

    The objective is mean loss + ½·strength·‖W‖², see `linear` for scikit-learn's names.

    Args:
      features: (n, d) of the training examples.
      labels: (n,) classes, (n, L) zeros and ones, or (n,) or (n, T) targets.
      strengths: positive numbers.
      val, test: (features, labels) of these splits.
      task: "classification", "multilabel" or "regression".
      outputs: number of classes; None counts the training labels.
      solver: "logistic" (multinomial) or "ridge" (on ±1 for classes); "auto" takes the
        task's first.
      standardize: whether features get mean 0 and standard deviation 1 on the training
        examples before they are penalised.
      metric: that the strength is chosen by: a metric on val, or with ridge "loo" or
        "gcv". "auto" takes the task's main one. Of equals the strongest penalty.

    Raises:
      UserError: a strength that is not positive, an unknown solver, or no val.
    """
    solver = solver_for(task, solver)
    strengths = positive(strengths)
    metric = metric_for(task, solver, metric, val is not None)
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or len(x) != len(labels) or not np.isfinite(x).all():
        raise UserError(
            f"features of shape {x.shape} for {len(labels)} labels: expected finite "
            "numbers, (examples, width)."
        )
    if task == "classification" and outputs is None:
        outputs = int(np.max(labels)) + 1
    still = np.zeros(x.shape[1]), np.ones(x.shape[1])
    mean, scale = linear_models.standardizer(x) if standardize else still
    parts = linear_models.spectrum((x - mean) / scale)
    if solver == "logistic":
        path = linear_models.logistic(parts, labels, outputs, strengths).path
        scores = [{} for _ in strengths]
    else:
        y = _targets(task, labels, outputs)
        path = linear_models.ridge(parts, y, strengths)
        scores = [_closed(task, parts, y, labels, s) for s in strengths]
    path = linear_models.unstandardized(path, mean, scale)
    if val is not None:
        for i, row in enumerate(scores):
            row.update(_measured(task, solver, path, i, *val))
    best = _best(scores, strengths, metric)
    pairs = {"train": (x, labels), "val": val, "test": test}
    return Probe(
        stage=stage,
        solver=solver,
        path=path,
        scores=scores,
        metric=metric,
        best=best,
        test={} if test is None else _measured(task, solver, path, best, *test),
        examples={name: len(p[1]) for name, p in pairs.items() if p is not None},
        width=x.shape[1],
    )


def solver_for(task: str, solver: str) -> str:
    """Returns the solver that is meant; UserError for one that the task has not."""
    if task not in SOLVERS:
        raise UserError(
            f"task={task!r}{nearest(task, SOLVERS)}: linear probes are for "
            f"{', '.join(SOLVERS)}."
        )
    known = SOLVERS[task]
    if solver != "auto" and solver not in known:
        raise UserError(
            f"solver={solver!r} is none for {task}{nearest(solver, known)} "
            f"(known: auto, {', '.join(known)})."
        )
    return known[0] if solver == "auto" else solver


def positive(strengths: Iterable[float]) -> np.ndarray:
    """Returns strengths as an array; UserError unless all are above 0."""
    found = np.asarray(list(strengths), np.float64)
    wrong = [s for s in found.tolist() if not 0 < s < math.inf]
    if wrong or not len(found):
        raise UserError(
            f"strengths={found.tolist()}: expected at least one number, all above 0"
            f"{f'; {wrong[0]:g} is not' if wrong else ''}."
        )
    return found


def metric_for(task: str, solver: str, metric: str, val: bool) -> str:
    """Returns the metric that is meant; UserError where nothing can measure it."""
    known = [m for m in metrics.METRICS[task] if solver != "ridge" or _fits(task, m)]
    if solver == "ridge":
        known += CLOSED
    if metric == "auto":
        metric = metrics.main(task)
    if metric not in known:
        raise UserError(
            f"metric={metric!r} is none of a {solver} probe{nearest(metric, known)} "
            f"(known: {', '.join(known)})."
        )
    if not val and metric not in CLOSED:
        raise UserError(
            "a probe chooses its strength on a val split, and there is none; raise "
            "data.val, or use solver='ridge' with metric='loo'."
        )
    return metric


def _fits(task: str, metric: str) -> bool:
    return task == "regression" or metric not in _OF_LOGITS


def _targets(task: str, labels, outputs) -> np.ndarray:
    if task == "classification":
        return linear_models.signs(labels, outputs)
    y = np.asarray(labels, np.float64).reshape(len(labels), -1)
    return 2.0 * y - 1.0 if task == "multilabel" else y


def _closed(task, parts, y, labels, strength) -> dict[str, float]:
    held_out = linear_models.leave_one_out(parts, y, strength)
    found = {
        "loo": float(np.square(held_out - y).mean()),
        "gcv": linear_models.gcv(parts, y, strength),
    }
    if task == "classification":
        found["loo_accuracy"] = metrics.accuracy(held_out, labels)
    return found


def _measured(task, solver, path, index, x, y) -> dict[str, float]:
    found = metrics.compute(task, path(x, index), y)
    return {m: v for m, v in found.items() if solver != "ridge" or _fits(task, m)}


def _best(scores, strengths, metric: str) -> int:
    lower = metric in CLOSED or not metrics.higher_is_better(metric)
    sign = 1 if lower else -1
    keys = [
        (sign * row[metric], row.get("nll", 0.0), -strength)
        for row, strength in zip(scores, strengths)
    ]
    return min(range(len(keys)), key=keys.__getitem__)
