"""A baseline on an experiment: fitted on train, chosen on val, scored on test once."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl.analysis import linear_models
from jaxtl.analysis.baselines import inputs
from jaxtl.analysis.baselines.base import LAST, RAW, TFIDF, Baseline
from jaxtl.core import config
from jaxtl.core.errors import UserError
from jaxtl.data import dataset as data_base
from jaxtl.evaluation import metrics
from jaxtl.training import result
from jaxtl.training.experiment import Experiment

LEAST = 1e-12  # of a probability, before its logarithm
OF_LOGITS = ("nll", "ece")


def depends_on(baseline: Baseline, exp: Experiment) -> dict[str, Any]:
    """Returns what decides a baseline's result: itself, and settings of the experiment.

    "data", "seed", "test", "monitor"; but for tf-idf "preprocess"; and for features of
    a stage "model", "init" and "dtype".
    """
    found = inputs.depends_on(baseline.features, exp)
    return {"baseline": baseline, **found, "test": exp.test, "monitor": exp.monitor}


def key(baseline: Baseline, exp: Experiment) -> Any:
    """Returns a hashable value, equal where `run` would give the same result."""
    return config.key(depends_on(baseline, exp))


def named(found: Any) -> dict[str, Baseline]:
    """Returns what an experiment file's BASELINES gives, by name.

    Args:
      found: a mapping from names; or a row of baselines or a single one, which are
        named by method and features ("k-NN on raw inputs"); None for none.

    Raises:
      UserError: what is no baseline, or two of one name.
    """
    if isinstance(found, Mapping):
        pairs = list(found.items())
    else:
        row = () if found is None else found
        row = row if isinstance(row, Sequence) else (row,)
        pairs = [(_name(value), value) for value in row]
    for name, value in pairs:
        if not isinstance(value, Baseline) or not isinstance(name, str):
            raise UserError(
                f"BASELINES: expected baselines by their names, such as "
                f'{{"k-NN": tl.baselines.KNN()}}; got {name!r}: {value!r}.'
            )
    names = [name for name, _ in pairs]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(
            f"BASELINES: two baselines would both be called {twice[0]!r}; name them: "
            'BASELINES = {"one name": …, "another": …}.'
        )
    return dict(pairs)


def _name(value: Any) -> str:
    if not isinstance(value, Baseline):
        return type(value).__name__
    words = {RAW: "raw inputs", TFIDF: "tf-idf", LAST: "the model's features"}
    return f"{value.title} on {words.get(value.features, value.features)}"


def run(
    baseline: Baseline, exp: Experiment, seed: int | None = None, *, jobs: int = 1
) -> dict[str, Any]:
    """Fits, chooses on val, and scores a baseline on an experiment's data.

    The rows and labels are a run's: labelled train rows with their noise, the clean
    labels of val and test. The metric it is chosen by is the experiment's monitor (the
    task's main one for None); of equals the first candidate. "nll" and "ece" come from
    probabilities of at least 1e-12; an SVM has none and leaves both out.

    Args:
      baseline: what to fit.
      exp: the experiment; "test" is left alone where its `test` is False.
      seed: in place of the experiment's.
      jobs: threads.

    Returns:
      JSON values: "val", "test" ({metric: value}; val's are of the fit on train alone),
      "monitor", "chosen_settings", "tried" (each candidate with its metric), "seed",
      "train_seconds" (one fit of what was chosen), "seconds" (all together),
      "examples", "versions", and for classes "details" (`metrics.details`, of test
      where it is looked at; an SVM's without "reliability").

    Raises:
      UserError: a task or features that the baseline is not for, several candidates
        and no val split, too few examples.
    """
    from threadpoolctl import threadpool_limits

    begin = time.perf_counter()
    exp = exp if seed is None else dataclasses.replace(exp, seed=seed)
    data = inputs.dataset(exp)
    _check_task(baseline, data.task)
    metric = _metric(baseline, data.task, exp.monitor)
    there = [n for n in ("train", "val", "test") if len(data.rows.get(n, ()))]
    names = [n for n in there if exp.test or n != "test"]
    options = _options(baseline, data, "val" in names)
    x = inputs.matrices(baseline.features, exp, data, names)
    model = baseline.features not in (RAW, TFIDF)
    if model if baseline.standardize is None else baseline.standardize:
        mean, scale = linear_models.standardizer(x["train"])
        x = {n: ((v - mean) / scale).astype(np.float32) for n, v in x.items()}
    y = {n: data.y_clean[data.rows[n]] for n in names}
    y["train"] = data.y[data.rows["train"]]
    with threadpool_limits(limits=jobs):
        found = _chosen(options, metric, _Problem(data, exp.seed, jobs, x, y))
    return {
        **found,
        "monitor": metric,
        "seed": exp.seed,
        "seconds": time.perf_counter() - begin,
        "examples": {name: len(rows) for name, rows in data.rows.items()},
        "versions": _versions(),
    }


class _Problem(NamedTuple):
    """The data, a seed and threads, and per split features x and labels y."""

    data: data_base.Dataset
    seed: int
    jobs: int
    x: dict[str, Any]
    y: dict[str, np.ndarray]


def _check_task(baseline: Baseline, task: str) -> None:
    if task in baseline.tasks:
        return
    better = {"classification": "LogisticRegression", "regression": "Ridge"}.get(task)
    raise UserError(
        f"baselines.{type(baseline).__name__} is for {' and '.join(baseline.tasks)}, "
        f"and the task of these data is {task!r}"
        + (f"; take {better}()." if better else ".")
    )


def _metric(baseline: Baseline, task: str, monitor: str | None) -> str:
    if monitor in (None, "auto"):
        return metrics.main(task)
    metrics.monitored(dict.fromkeys(metrics.METRICS[task], 0.0), monitor)
    unknown = monitor in OF_LOGITS and not baseline.probabilities
    return metrics.main(task) if unknown else monitor


def _options(baseline: Baseline, data, val: bool) -> list[Baseline]:
    """Returns the candidates that so many examples allow, more than one only with val.

    An arbitrary one instead would look as if it had been chosen.
    """
    where, count = f"baselines.{type(baseline).__name__}", len(data.rows["train"])
    every = baseline.candidates()
    found = [option for option in every if option.possible(count)]
    if not found:
        raise UserError(
            f"{where}: no candidate can be fitted on {count} train examples "
            f"({_settings(every[0])})."
        )
    if len(every) > 1 and not val:
        raise UserError(
            f"{where} has {len(every)} candidates to choose from on val, and there is "
            f"no val split; raise data.val, or settle them: {_settings(every[0])}."
        )
    return found


def _settings(option: Baseline) -> str:
    return ", ".join(f"{name}={v!r}" for name, v in option.settings().items())


def _chosen(options: list[Baseline], metric: str, problem: _Problem) -> dict:
    """Fits all candidates, and returns what the best of them comes to."""
    x, y = problem.x, problem.y
    sign = 1 if metrics.higher_is_better(metric) else -1
    tried, best = [], None
    for option in options:
        fitted, took = _fit(option, problem, x["train"], y["train"])
        val = _scored(option, fitted, problem, "val") if "val" in x else {}
        value = val.get("val", {}).get(metric)
        tried.append({**option.settings(), metric: value})
        score = sign * value if val else 0.0
        if best is None or score > best[0]:
            best = score, option, fitted, took, val
    _, option, fitted, took, found = best
    if "test" in x:
        if option.refit == "train+val" and "val" in x:
            fitted, took = _fit(option, problem, *_joined(x, y))
        found = {**found, **_scored(option, fitted, problem, "test")}
    chosen = {"chosen_settings": option.settings(), "tried": tried}
    return {**found, **chosen, "train_seconds": took}


def _joined(x: dict, y: dict) -> tuple[Any, np.ndarray]:
    from scipy import sparse

    join = sparse.vstack if sparse.issparse(x["train"]) else np.concatenate
    return join([x["train"], x["val"]]), np.concatenate([y["train"], y["val"]])


def _fit(option: Baseline, problem: _Problem, x, y) -> tuple[Any, float]:
    """Returns (the fitted learner, seconds)."""
    task = problem.data.task
    several = task == "regression" and y.ndim == 2 and y.shape[1] > 1
    if task == "regression":
        y = np.float64(y) if several else np.float64(y).reshape(-1)
    made = option.learner(task, several=several, seed=problem.seed, jobs=problem.jobs)
    begin = time.perf_counter()
    try:
        made.fit(x, y)
    except ValueError as error:
        raise UserError(
            f"baselines.{type(option).__name__} can't be fitted on {len(y)} examples "
            f"({_settings(option)}): {str(error).splitlines()[0]}"
        ) from error
    return made, time.perf_counter() - begin


def _outputs(fitted, problem: _Problem, split: str) -> np.ndarray:
    """Returns (n, K) log-probabilities, or (n, targets)."""
    x = problem.x[split]
    if problem.data.task == "regression":
        return np.reshape(fitted.predict(x), (x.shape[0], -1))
    p = np.zeros((x.shape[0], problem.data.outputs))
    if hasattr(fitted, "predict_proba"):
        # A class without a train label has no column, and no probability.
        p[:, np.asarray(fitted.classes_)] = fitted.predict_proba(x)
    else:
        p[np.arange(len(p)), np.asarray(fitted.predict(x))] = 1.0
    return np.log(np.maximum(p, LEAST))


def _scored(option: Baseline, fitted, problem: _Problem, split: str) -> dict:
    """Returns {split: metrics}, and for classes "details"."""
    data = problem.data
    outputs, y = _outputs(fitted, problem, split), problem.y[split]
    found = metrics.compute(data.task, outputs, y)
    details = metrics.details(data.task, outputs, y, data.class_names)
    if not option.probabilities:
        found = {name: v for name, v in found.items() if name not in OF_LOGITS}
        details.pop("reliability", None)
    return {
        split: found,
        **({"details": {"split": split, **details}} if details else {}),
    }


def _versions() -> dict[str, str]:
    import sklearn

    return {**result.versions(), "scikit-learn": sklearn.__version__}
