"""Ensembles of finished runs: each member evaluated once, combined in several ways.

What is chosen or fitted (a way to combine, votes' weights, a meta-learner, a
temperature) is chosen on validation; the test split is read once, at the end.
"""

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxtl.analysis.ensemble import combine
from jaxtl.analysis.ensemble import members as ensemble_members
from jaxtl.core.errors import UserError, nearest
from jaxtl.evaluation import metrics
from jaxtl.training.run import Run

SPLITS = ("test", "val")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """What one member or one way to combine them achieves.

    Attributes:
      name: the member's, or the method's.
      val: metrics on validation; of a meta-learner they are out-of-fold.
      test: metrics on the split that was asked for.
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
    """Members and combinations of them, side by side.

    Attributes:
      task: of the runs.
      split: that the lines' `test` is of.
      metric: what was chosen by, on validation.
      members, methods: a line each, in the order given and in that of `combine`.
      best_member: name of the best single member on validation.
      method: name of the chosen method: the one asked for, or the best on validation.
      examples: {split: count}.
      logits: (examples, outputs) of the chosen method on the split.
    """

    task: str
    split: str
    metric: str
    members: list[Line]
    methods: list[Line]
    best_member: str
    method: str
    examples: dict[str, int]
    logits: np.ndarray

    @property
    def chosen(self) -> Line:
        """The line of the chosen method."""
        return next(line for line in self.methods if line.name == self.method)

    def to_json(self) -> dict:
        """Returns everything but the logits, as JSON values."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del found["logits"]
        for kind in ("members", "methods"):
            found[kind] = [dataclasses.asdict(line) for line in found[kind]]
        return found


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
      method: one of `combine.methods(task)`, or "auto" to compare all of them and
        choose on validation.
      split: what to report on, "test" or "val".
      which: "best" or "last" checkpoint of each run.
      estimator: scikit-learn meta-learner of the method "stacking".

    Raises:
      UserError: fewer than two runs, runs of different data, classes or splits, no
        validation split, an unknown method or split.
    """
    if split not in SPLITS:
        raise UserError(
            f"split={split!r}{nearest(split, SPLITS)}: an ensemble reports on 'test', "
            "or on 'val' while the test split is to stay unseen."
        )
    known = {"auto", *(m for task in combine.METHODS for m in combine.methods(task))}
    if method not in known:
        raise UserError(
            f"method={method!r} is unknown{nearest(method, known)} "
            f"(known: {', '.join(sorted(known))})."
        )
    read = ensemble_members.read(runs, which)
    dataset = read[0].dataset
    task, names = dataset.task, _methods(dataset.task, method)
    splits = tuple(dict.fromkeys(("val", split)))
    _splits(dataset, splits)
    outputs = ensemble_members.evaluate(read, splits)
    labels = {name: dataset.y_clean[dataset.rows[name]] for name in splits}
    return _compare(task, split, read, names, outputs, labels, estimator)


def _methods(task: str, method: str) -> tuple[str, ...]:
    known = combine.methods(task)
    if not known:
        raise UserError(
            f"the runs' task is {task!r}, whose models are scored without keeping "
            "their outputs, so there is nothing to combine."
        )
    if method != "auto" and method not in known:
        raise UserError(
            f"method={method!r} is no way to combine models of the task {task!r} "
            f"(known: auto, {', '.join(known)})."
        )
    return known if method == "auto" else (method,)


def _splits(dataset, splits: Iterable[str]) -> None:
    for name in splits:
        if len(dataset.rows.get(name, ())) == 0:
            why = {"val": "choose a method and fit temperatures on", "test": "test on"}
            raise UserError(
                f"the runs' data ({dataset.name}) have no {name} split to {why[name]}; "
                f"train them with data.{name} above 0."
            )


def _compare(task, split, read, names, outputs, labels, estimator) -> Ensemble:
    metric = metrics.main(task)
    singles = [
        _line(m.name, task, outputs["val"][i], outputs[split][i], labels, split)
        for i, m in enumerate(read)
    ]
    weights = [line.val[metric] for line in singles]
    made, lines = {}, []
    for name in names:
        if name == combine.STACKING:
            pair = combine.stacking(
                outputs["val"],
                labels["val"],
                outputs[split],
                task=task,
                estimator=estimator,
            )
            # On val itself the meta-learner is scored by what it had not seen.
            made[name] = (pair[0], pair[0] if split == "val" else pair[1])
        else:
            fn = combine.METHODS[task][name]
            made[name] = fn(outputs["val"], weights), fn(outputs[split], weights)
        lines.append(_line(name, task, *made[name], labels, split))
    best = _best(lines, metric).name
    return Ensemble(
        task=task,
        split=split,
        metric=metric,
        members=singles,
        methods=lines,
        best_member=_best(singles, metric).name,
        method=best,
        examples={name: len(y) for name, y in labels.items()},
        logits=made[best][1],
    )


def _line(name, task, val, test, labels, split) -> Line:
    found = [_metrics(task, val, labels["val"]), _metrics(task, test, labels[split])]
    if task != "classification":
        return Line(name=name, val=found[0], test=found[1])
    if name in combine.VOTES:
        for one in found:
            del one["nll"]
        return Line(name=name, val=found[0], test=found[1])
    scale = combine.temperature(val, labels["val"])
    scaled = combine.calibration(test, labels[split], scale)
    return Line(
        name=name, val=found[0], test=found[1], temperature=scale, scaled=scaled
    )


def _metrics(task: str, logits, labels) -> dict[str, float]:
    found = metrics.compute(task, logits, labels)
    if task == "classification":
        found["brier"] = metrics.brier(logits, labels)
    return found


def _best(lines: list[Line], metric: str) -> Line:
    """Returns the best on validation; of equals the smaller NLL's, then the first."""
    sign = -1 if metrics.higher_is_better(metric) else 1
    return min(
        lines, key=lambda line: (sign * line.val[metric], line.val.get("nll", np.inf))
    )
