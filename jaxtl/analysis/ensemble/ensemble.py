"""Ensembles of finished runs: each member evaluated once, combined in several ways.

All that is chosen or fitted (the method, the weights of votes, a meta-learner, a
temperature) is chosen on validation; the test split is read once, at the end.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.analysis.ensemble import combine
from jaxtl.analysis.ensemble.members import Member, load_members, predict_members
from jaxtl.core.errors import UserError, nearest
from jaxtl.data.dataset import Dataset
from jaxtl.evaluation import metrics
from jaxtl.training.run import Run

SPLITS = ("test", "val")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodMetrics:
    """Metrics of one member, or of one method that combines them.

    Attributes:
      name: of the member or the method.
      val: metrics on validation; of a meta-learner they are out-of-fold.
      test: metrics on the reported split.
      temperature: fitted on validation; None where outputs are no log-probabilities.
      scaled: {"nll", "ece", "brier"} on that split, after temperature scaling.
    """

    name: str
    val: dict[str, float]
    test: dict[str, float]
    temperature: float | None = None
    scaled: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Members, and methods that combine them, side by side.

    Attributes:
      task: of the runs.
      split: the reported split, of which `MethodMetrics.test` is.
      metric: that chose on validation.
      members: metrics of each member, in the order given.
      methods: metrics of each method, in the order of `combine.method_names`.
      best_member: name of the best single member on validation.
      method: name of the chosen method: the requested one, or the best on validation.
      examples: {split: count}.
      logits: (examples, outputs) of the chosen method on the reported split.
    """

    task: str
    split: str
    metric: str
    members: list[MethodMetrics]
    methods: list[MethodMetrics]
    best_member: str
    method: str
    examples: dict[str, int]
    logits: np.ndarray

    @property
    def chosen(self) -> MethodMetrics:
        """The metrics of the chosen method."""
        return next(entry for entry in self.methods if entry.name == self.method)

    def to_json(self) -> dict[str, Any]:
        """Everything but the logits, as JSON values."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del fields["logits"]
        for kind in ("members", "methods"):
            fields[kind] = [dataclasses.asdict(entry) for entry in fields[kind]]
        return fields


def ensemble(
    runs: Iterable[Run | str | pathlib.Path],
    *,
    method: str = "auto",
    split: str = "test",
    which: str = "best",
    estimator: Any = None,
) -> Ensemble:
    """Combines finished runs and reports them beside the ensemble.

    Args:
      runs: directories of runs, of which one that holds several (a variant's seeds)
        gives all; or runs in memory.
      method: one of `combine.method_names(task)`, or "auto" to compare all of them and
        choose on validation.
      split: the split to report on, "test" or "val".
      which: "best" or "last" weights of each run.
      estimator: scikit-learn meta-learner of the method "stacking".

    Returns:
      The metrics of the members and of the combinations, and the chosen one.

    Raises:
      UserError: fewer than two runs, runs of different data, classes or splits, no
        validation split, an unknown method or split.
    """
    if split not in SPLITS:
        raise UserError(
            f"split={split!r}{nearest(split, SPLITS)}: an ensemble reports on 'test', "
            "or on 'val' to leave the test split unseen."
        )
    names = {name for task in combine.METHODS for name in combine.method_names(task)}
    if method not in {"auto", *names}:
        raise UserError(
            f"method={method!r} is unknown{nearest(method, names)} "
            f"(methods: {', '.join(sorted({'auto', *names}))})."
        )
    members = load_members(runs, which)
    dataset = members[0].dataset
    methods = _methods(dataset.task, method)
    splits = tuple(dict.fromkeys(("val", split)))
    _check_splits(dataset, splits)
    dataset.check_unweighted("an ensemble")
    logits = predict_members(members, splits)
    labels = {name: dataset.y_clean[dataset.rows[name]] for name in splits}
    return _compare(members, methods, split, logits, labels, estimator)


def _methods(task: str, method: str) -> tuple[str, ...]:
    names = combine.method_names(task)
    if not names:
        raise UserError(
            f"the runs' task is {task!r}, whose models are evaluated without keeping "
            "their outputs, so there is nothing to combine."
        )
    if method != "auto" and method not in names:
        raise UserError(
            f"method={method!r} does not combine models of the task {task!r} "
            f"(methods: auto, {', '.join(names)})."
        )
    return names if method == "auto" else (method,)


def _check_splits(dataset: Dataset, splits: Iterable[str]) -> None:
    purpose = {"val": "choose a method and fit temperatures on", "test": "test on"}
    for name in splits:
        if len(dataset.rows.get(name, ())) == 0:
            raise UserError(
                f"the runs' data ({dataset.name}) have no {name} split to "
                f"{purpose[name]}; train them with data.{name} above 0."
            )


def _compare(
    members: Sequence[Member],
    methods: Sequence[str],
    split: str,
    logits: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    estimator: Any,
) -> Ensemble:
    """Combines the members' logits by every method, and chooses on validation."""
    task = members[0].dataset.task
    metric = metrics.main_metric(task)
    labels_pair = labels["val"], labels[split]
    of_members = [
        _measure(member.name, task, (logits["val"][i], logits[split][i]), labels_pair)
        for i, member in enumerate(members)
    ]
    weights = [entry.val[metric] for entry in of_members]
    combined = {}
    for name in methods:
        if name == combine.STACKING:
            combined[name] = _stack(task, split, logits, labels["val"], estimator)
        else:
            function = combine.METHODS[task][name]
            combined[name] = tuple(
                function(logits[part], weights) for part in ("val", split)
            )
    of_methods = [
        _measure(name, task, pair, labels_pair) for name, pair in combined.items()
    ]
    best = _best(of_methods, metric).name
    return Ensemble(
        task=task,
        split=split,
        metric=metric,
        members=of_members,
        methods=of_methods,
        best_member=_best(of_members, metric).name,
        method=best,
        examples={name: len(y) for name, y in labels.items()},
        logits=combined[best][1],
    )


def _stack(
    task: str,
    split: str,
    logits: Mapping[str, np.ndarray],
    labels: np.ndarray,
    estimator: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """(Out-of-fold predictions on validation, predictions on the reported split)."""
    out_of_fold, predicted = combine.stacking(
        logits["val"], labels, logits[split], task=task, estimator=estimator
    )
    # A report on val must not use predictions for examples that were fitted on.
    return out_of_fold, out_of_fold if split == "val" else predicted


def _measure(
    name: str,
    task: str,
    logits: tuple[np.ndarray, np.ndarray],
    labels: tuple[np.ndarray, np.ndarray],
) -> MethodMetrics:
    """Metrics on (val, the reported split) of logits (n, outputs) each."""
    val, test = (_metrics(task, z, y) for z, y in zip(logits, labels))
    if task != "classification":
        return MethodMetrics(name=name, val=val, test=test)
    if name in combine.VOTES:
        del val["nll"], test["nll"]
        return MethodMetrics(name=name, val=val, test=test)
    temperature = combine.fit_temperature(logits[0], labels[0])
    return MethodMetrics(
        name=name,
        val=val,
        test=test,
        temperature=temperature,
        scaled=combine.calibration_metrics(logits[1], labels[1], temperature),
    )


def _metrics(task: str, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    values = metrics.compute(task, logits, labels)
    if task == "classification":
        values["brier"] = metrics.brier(logits, labels)
    return values


def _best(entries: Sequence[MethodMetrics], metric: str) -> MethodMetrics:
    """The best on validation; of equal ones the smallest NLL's, then the first."""
    return min(
        entries,
        key=lambda entry: (
            -metrics.score(metric, entry.val[metric]),
            entry.val.get("nll", np.inf),
        ),
    )
