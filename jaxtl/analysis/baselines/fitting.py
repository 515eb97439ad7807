"""Fits a baseline on train, chooses its settings on val, and scores it on test once."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl.analysis import linear_models
from jaxtl.analysis.baselines import inputs
from jaxtl.analysis.baselines.base import LAST, RAW, TFIDF, Baseline
from jaxtl.core import config, progress
from jaxtl.core.errors import UserError
from jaxtl.data.dataset import Dataset
from jaxtl.evaluation import metrics
from jaxtl.evaluation.details import classification_details
from jaxtl.evaluation.metrics import experiment_metrics
from jaxtl.training import result
from jaxtl.training.experiment import Experiment

MIN_PROBABILITY = 1e-12  # lower bound before the logarithm is taken
PROBABILISTIC = ("nll", "ece")  # metrics that need predicted probabilities


def depends_on(baseline: Baseline, exp: Experiment) -> dict[str, Any]:
    """Settings that determine a baseline's result, by name.

    Args:
      baseline: its fields count, candidates included.
      exp: the experiment whose data, and perhaps model, it reads.

    Returns:
      "baseline" itself and, of the experiment, "data", "seed", "test", "monitor" and
      "metrics" (if any); for all features but tf-idf "preprocess"; for features of a
      stage "model", "init" and "dtype".
    """
    settings = inputs.depends_on(baseline.features, exp)
    settings |= {"test": exp.test, "monitor": exp.monitor}
    if exp.metrics:
        settings["metrics"] = exp.metrics
    return {"baseline": baseline, **settings}


def key(baseline: Baseline, exp: Experiment) -> Any:
    """Hashable key of a result of `run`: equal keys give equal results.

    Args:
      baseline: as for `depends_on`.
      exp: as for `depends_on`.

    Returns:
      The values of `depends_on` as nested tuples.
    """
    return config.key(depends_on(baseline, exp))


def named(baselines: Any) -> dict[str, Baseline]:
    """Names the baselines of an experiment file's BASELINES.

    Args:
      baselines: a mapping from names; or a sequence of baselines or a single one, which
        are named by method and features ("k-NN on raw inputs"); None for none.

    Returns:
      Name -> baseline, in the order of BASELINES.

    Raises:
      UserError: a value that is no baseline, or two of one name.
    """
    if isinstance(baselines, Mapping):
        pairs = list(baselines.items())
    else:
        sequence = () if baselines is None else baselines
        sequence = sequence if isinstance(sequence, Sequence) else (sequence,)
        pairs = [(_name(value), value) for value in sequence]
    for name, value in pairs:
        if not isinstance(value, Baseline) or not isinstance(name, str):
            raise UserError(
                f"BASELINES: expected baselines by their names, such as "
                f'{{"k-NN": tl.baselines.KNN()}}; got {name!r}: {value!r}.'
            )
    names = [name for name, _ in pairs]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise UserError(
            f"BASELINES: two baselines would both be called {repeated[0]!r}; name "
            'them: BASELINES = {"one name": …, "another": …}.'
        )
    return dict(pairs)


def _name(value: Any) -> str:
    """Name of a baseline by its method and features."""
    if not isinstance(value, Baseline):
        return type(value).__name__
    titles = {RAW: "raw inputs", TFIDF: "tf-idf", LAST: "the model's features"}
    return f"{value.title} on {titles.get(value.features, value.features)}"


def run(
    baseline: Baseline, exp: Experiment, seed: int | None = None, *, jobs: int = 1
) -> dict[str, Any]:
    """Fits the candidates of a baseline, chooses one on val, and scores it on test.

    Rows and labels are those of a run: labelled train rows with their label noise, the
    clean labels of val and test. Candidates are compared by the experiment's monitor
    (for None by the task's main metric); of equal ones the first is chosen. "nll" and
    "ece" come from probabilities of at least 1e-12; an SVM predicts none, so it has
    neither, nor what the experiment measures of them.

    Args:
      baseline: the method and its candidates.
      exp: the experiment; with `test=False` the test split is not read.
      seed: replaces the experiment's.
      jobs: number of threads.

    Returns:
      JSON values: "val", "test" ({metric: value}; those of val are of the fit on train
      alone), "monitor", "chosen_settings", "tried" (each candidate with its metric),
      "seed", "train_seconds" (one fit of the chosen candidate), "seconds" (in all),
      "examples", "versions", and for classes "details" (`classification_details`, of
      test where it is read; for an SVM without "reliability").

    Raises:
      UserError: a task or features that the baseline is not for, several candidates
        and no val split, too few examples.
    """
    from threadpoolctl import threadpool_limits

    start = time.perf_counter()
    exp = exp if seed is None else dataclasses.replace(exp, seed=seed)
    data = inputs.dataset(exp)
    _check_task(baseline, data.task)
    experiment_metrics.check(exp.metrics, data.task, data.class_names)
    metric = _metric(baseline, data, exp)
    names = [n for n in ("train", "val", "test") if len(data.rows.get(n, ()))]
    names = [n for n in names if exp.test or n != "test"]
    candidates = _candidates(baseline, data, "val" in names)
    problem = _problem(baseline, exp, data, names, jobs)
    with threadpool_limits(limits=jobs):
        scores = _choose_and_test(candidates, metric, problem)
    directions = experiment_metrics.directions(exp.metrics)
    return {
        **scores,
        "monitor": metric,
        "seed": exp.seed,
        "seconds": time.perf_counter() - start,
        "examples": {name: len(rows) for name, rows in data.rows.items()},
        "versions": _versions(),
        **({"higher_is_better": directions} if directions else {}),
    }


class _Problem(NamedTuple):
    """The arrays that baselines are fitted and scored on.

    Attributes:
      data: the data set.
      seed: of the learners.
      jobs: number of threads.
      x: {split: features (n, width)}, possibly sparse.
      y: {split: labels (n,) or (n, targets)}.
      metrics: those of the experiment.
    """

    data: Dataset
    seed: int
    jobs: int
    x: dict[str, Any]
    y: dict[str, np.ndarray]
    metrics: Mapping[str, Any]


def _problem(
    baseline: Baseline, exp: Experiment, data: Dataset, names: Sequence[str], jobs: int
) -> _Problem:
    """Computes the features of some splits, standardized where the baseline asks so."""
    x = inputs.matrices(baseline.features, exp, data, names)
    standardize = baseline.standardize
    if standardize is None:
        standardize = baseline.features not in (RAW, TFIDF)
    if standardize:
        mean, scale = linear_models.standardizer(x["train"])
        x = {n: ((v - mean) / scale).astype(np.float32) for n, v in x.items()}
    y = {n: data.y_clean[data.rows[n]] for n in names}
    y["train"] = data.y[data.rows["train"]]
    return _Problem(data, exp.seed, jobs, x, y, exp.metrics)


def _check_task(baseline: Baseline, task: str) -> None:
    """Raises UserError where the baseline is not for the task."""
    if task in baseline.tasks:
        return
    alternatives = {"classification": "LogisticRegression", "regression": "Ridge"}
    alternative = alternatives.get(task)
    raise UserError(
        f"baselines.{type(baseline).__name__} is for {' and '.join(baseline.tasks)}, "
        f"and the task of these data is {task!r}"
        + (f"; take {alternative}()." if alternative else ".")
    )


def _metric(baseline: Baseline, data: Dataset, exp: Experiment) -> str:
    """Metric that chooses: the monitor, or the task's main one where it can't be."""
    monitor, main = exp.monitor, metrics.main_metric(data.task)
    if monitor is None or monitor == "auto":
        return main
    names = experiment_metrics.names(exp.metrics, data.class_names)
    names = (*metrics.METRICS[data.task], *names)
    metrics.monitored_value(dict.fromkeys(names, 0.0), monitor)
    if baseline.probabilities:
        return monitor
    measured = experiment_metrics.of_predictions(exp.metrics)
    measured = experiment_metrics.names(measured, data.class_names)
    without = {*PROBABILISTIC, *exp.metrics} - set(measured)
    return main if monitor.split("[")[0] in without else monitor


def _candidates(baseline: Baseline, data: Dataset, val: bool) -> list[Baseline]:
    """Candidates that the number of train examples allows.

    Several candidates need a val split to choose on: an arbitrary one would look like a
    choice.

    Raises:
      UserError: no candidate is possible, or there are several and no val split.
    """
    name, count = f"baselines.{type(baseline).__name__}", len(data.rows["train"])
    data.check_labelled(name)
    candidates = baseline.candidates()
    possible = [candidate for candidate in candidates if candidate.possible(count)]
    if not possible:
        raise UserError(
            f"{name}: no candidate can be fitted on {count} train examples "
            f"({_settings(candidates[0])})."
        )
    if len(candidates) > 1 and not val:
        raise UserError(
            f"{name} has {len(candidates)} candidates to choose from on val, and there "
            "is no val split; raise data.val, or give one value per setting: "
            f"{_settings(candidates[0])}."
        )
    return possible


def _settings(candidate: Baseline) -> str:
    return ", ".join(f"{name}={v!r}" for name, v in candidate.settings().items())


def _choose_and_test(
    candidates: Sequence[Baseline], metric: str, problem: _Problem
) -> dict[str, Any]:
    """Fits all candidates, and scores the best one on val and test."""
    x, y = problem.x, problem.y
    tried, best = [], None
    for candidate in progress.track(candidates, "fitting baselines"):
        fitted, seconds = _fit(candidate, problem, x["train"], y["train"], ("train",))
        scores = _scores(candidate, fitted, problem, "val") if "val" in x else {}
        value = scores.get("val", {}).get(metric)
        tried.append({**candidate.settings(), metric: value})
        directions = experiment_metrics.directions(problem.metrics)
        score = metrics.score(metric, value, directions) if scores else 0.0
        if best is None or score > best[0]:
            best = score, candidate, fitted, seconds, scores
    _, candidate, fitted, seconds, scores = best
    if "test" in x:
        if candidate.refit == "train+val" and "val" in x:
            fitted, seconds = _fit(
                candidate, problem, *_train_and_val(x, y), ("train", "val")
            )
        scores = {**scores, **_scores(candidate, fitted, problem, "test")}
    return {
        **scores,
        "chosen_settings": candidate.settings(),
        "tried": tried,
        "train_seconds": seconds,
    }


def _train_and_val(
    x: Mapping[str, Any], y: Mapping[str, np.ndarray]
) -> tuple[Any, np.ndarray]:
    """Concatenates the rows of train and val."""
    from scipy import sparse

    join = sparse.vstack if sparse.issparse(x["train"]) else np.concatenate
    return join([x["train"], x["val"]]), np.concatenate([y["train"], y["val"]])


def _fit(
    candidate: Baseline,
    problem: _Problem,
    x: Any,
    y: np.ndarray,
    names: Sequence[str],
) -> tuple[Any, float]:
    """Fits a candidate on some splits; returns the learner, and the seconds it took."""
    task = problem.data.task
    several = task == "regression" and y.ndim == 2 and y.shape[1] > 1
    if task == "regression":
        y = np.float64(y) if several else np.float64(y).reshape(-1)
    learner = candidate.learner(
        task, several=several, seed=problem.seed, jobs=problem.jobs
    )
    weights = _fit_weights(candidate, learner, problem.data, names)
    start = time.perf_counter()
    try:
        learner.fit(x, y, **weights)
    except ValueError as error:
        raise UserError(
            f"baselines.{type(candidate).__name__} can't be fitted on {len(y)} "
            f"examples ({_settings(candidate)}): {str(error).splitlines()[0]}"
        ) from error
    return learner, time.perf_counter() - start


def _fit_weights(
    candidate: Baseline, learner: Any, data: Dataset, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """The argument `sample_weight` of a learner's `fit`, {} for data without weights.

    Raises:
      UserError: the learner takes none.
    """
    from sklearn.utils.validation import has_fit_parameter

    if data.weights is None:
        return {}
    if not has_fit_parameter(learner, "sample_weight"):
        raise UserError(
            f"baselines.{type(candidate).__name__} takes no weights of examples, and "
            "the data have some (data.sample_weight)."
        )
    rows = np.concatenate([data.rows[name] for name in names])
    return {"sample_weight": data.weights[rows]}


def _outputs(fitted: Any, problem: _Problem, split: str) -> np.ndarray:
    """Predicts log-probabilities, (n, K), or regression targets, (n, targets)."""
    x = problem.x[split]
    if problem.data.task == "regression":
        return np.reshape(fitted.predict(x), (x.shape[0], -1))
    p = np.zeros((x.shape[0], problem.data.outputs))
    if hasattr(fitted, "predict_proba"):
        # A class without a train label has no column, and no probability.
        p[:, np.asarray(fitted.classes_)] = fitted.predict_proba(x)
    else:
        p[np.arange(len(p)), np.asarray(fitted.predict(x))] = 1.0
    return np.log(np.maximum(p, MIN_PROBABILITY))


def _scores(
    candidate: Baseline, fitted: Any, problem: _Problem, split: str
) -> dict[str, Any]:
    """Computes {split: metrics}, and for classes "details"."""
    data = problem.data
    outputs, y = _outputs(fitted, problem, split), problem.y[split]
    weights = None if data.weights is None else data.weights[data.rows[split]]
    scores, added = metrics.compute(data.task, outputs, y, weights), problem.metrics
    if not candidate.probabilities:
        added = experiment_metrics.of_predictions(added)
    scores |= experiment_metrics.measure(
        added, data.task, outputs, y, weights, data.class_names
    ).values
    details = classification_details(data.task, outputs, y, data.class_names)
    if not candidate.probabilities:
        scores = {name: v for name, v in scores.items() if name not in PROBABILISTIC}
        details.pop("reliability", None)
    return {
        split: scores,
        **({"details": {"split": split, **details}} if details else {}),
    }


def _versions() -> dict[str, str]:
    import sklearn

    return {**result.versions(), "scikit-learn": sklearn.__version__}
