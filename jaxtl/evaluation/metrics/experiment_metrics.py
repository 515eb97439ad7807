"""The metrics that an experiment adds to its task's: checked, measured, with notes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.evaluation import thresholds
from jaxtl.evaluation.metrics import task_metrics
from jaxtl.evaluation.metrics.base import (
    Metric,
    Predictions,
    collected_notes,
    counted,
    example_weights,
)
from jaxtl.evaluation.metrics.direction import CRITERIA
from jaxtl.evaluation.metrics.function import Function

_TAKEN = ("step", "kind", "best", "loss", *CRITERIA)


class Measured(NamedTuple):
    """Values of metrics, and why some have none.

    Attributes:
      values: metric -> value; of a metric per class also "metric[class]".
      notes: metric -> a sentence part, for values that are NaN or a convention.
    """

    values: dict[str, float]
    notes: dict[str, str]


def as_metric(value: Any) -> Metric:
    """A metric of an experiment as a `Metric`; a plain function as `Function`."""
    if isinstance(value, Metric):
        return value
    return Function(f=value, higher_is_better=getattr(value, "higher_is_better", True))


def check_entries(metrics: Any) -> None:
    """Checks the names and the kinds of an experiment's metrics, before any data.

    Raises:
      UserError: no mapping, a name that is taken, or what is no metric.
    """
    if not isinstance(metrics, Mapping):
        raise UserError(
            f"metrics={metrics!r}: expected a mapping from names, such as "
            '{"mcc": tl.metrics.MatthewsCorrelation()}.'
        )
    for name, value in metrics.items():
        if not isinstance(name, str) or not name or set("/[]") & set(name):
            raise UserError(
                f"metrics: the name {name!r} is refused; expected a text without '/' "
                "and brackets."
            )
        if name in _TAKEN:
            raise UserError(
                f"metrics[{name!r}]: this name has a meaning of its own; choose "
                "another one."
            )
        if isinstance(value, type) or not callable(value):
            raise UserError(
                f"metrics[{name!r}]={value!r}: expected a metric such as "
                "tl.metrics.AUROC(), or a function f(outputs, labels[, weights])."
            )


def check(metrics: Mapping[str, Any], task: str, class_names: tuple[str, ...]) -> None:
    """Checks an experiment's metrics against its target data.

    Raises:
      UserError: a name of a metric that is measured anyway, or a metric that does not
        fit the task or its classes.
    """
    for name, value in metrics.items():
        if name in task_metrics.METRICS[task]:
            raise UserError(
                f"metrics[{name!r}]: every {task} task measures {name} anyway; leave "
                "it out, or choose another name."
            )
        as_metric(value).check(task, class_names, f"metrics[{name!r}]")


def of_features(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that read features, which a split's outputs do not hold."""
    return {n: v for n, v in metrics.items() if getattr(v, "reads_features", False)}


def of_outputs(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that a split's outputs and labels are enough for."""
    features = of_features(metrics)
    return {name: v for name, v in metrics.items() if name not in features}


def of_predictions(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that read no more of the outputs than the predicted class."""
    return {n: v for n, v in metrics.items() if not as_metric(v).reads_scores}


def directions(metrics: Mapping[str, Any]) -> dict[str, bool]:
    """Name of each metric -> whether larger values are better."""
    return {name: bool(as_metric(v).higher_is_better) for name, v in metrics.items()}


def names(metrics: Mapping[str, Any], class_names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of all values that `measure` gives."""
    values: list[str] = []
    for name, value in metrics.items():
        values.append(name)
        parts = as_metric(value).value_names(class_names)
        values += [f"{name}[{part}]" for part in parts]
    return tuple(values)


def check_named(name: str, known: tuple[str, ...]) -> None:
    """Raises UserError for a metric that an evaluation does not measure."""
    if name not in known:
        raise UserError(
            f"there is no metric {name!r}{nearest(name, known)} "
            f"(metrics: {', '.join(known)})."
        )


def measure_all(
    task: str,
    logits: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    metrics: Mapping[str, Any],
    class_names: tuple[str, ...] = (),
    chosen: np.ndarray | None = None,
) -> Measured:
    """Measures the task's metrics and the experiment's own of a split.

    Metrics of features are passed over; `evaluation.representation` measures them.

    Args:
      task, logits, labels, weights: as for `task_metrics.compute`.
      metrics, class_names: as for `measure`.
      chosen: thresholds of the run, by which the metrics of predicted classes or
        labels decide; None for ½.
    """
    arguments, metrics = (labels, weights), of_outputs(metrics)
    settings = {"class_names": class_names}
    values = task_metrics.compute(task, logits, *arguments, **settings)
    decided = of_predictions(metrics)
    scored = {name: metrics[name] for name in metrics if name not in decided}
    shifted = thresholds.shifted(task, logits, chosen)
    if chosen is not None:
        by_threshold = task_metrics.compute(task, shifted, *arguments, **settings)
        values |= {
            name: value
            for name, value in by_threshold.items()
            if name in task_metrics.OF_PREDICTIONS
        }
    parts = [
        measure(part, task, outputs, *arguments, class_names)
        for part, outputs in ((decided, shifted), (scored, logits))
    ]
    added = {name: value for part in parts for name, value in part.values.items()}
    notes = {name: text for part in parts for name, text in part.notes.items()}
    order = names(metrics, class_names)
    return Measured({**values, **{name: added[name] for name in order}}, notes)


def measure(
    metrics: Mapping[str, Any],
    task: str,
    logits: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None = None,
    class_names: tuple[str, ...] = (),
) -> Measured:
    """Measures an experiment's metrics of all predictions on a split.

    Metrics of features are passed over.

    Every value is NaN where an output of an example that counts is not finite.

    Args:
      metrics: name -> metric or function.
      task, logits, labels, weights: as for `task_metrics.compute`.
      class_names: in label order.
    """
    values: dict[str, float] = {}
    notes: dict[str, str] = {}
    metrics = of_outputs(metrics)
    if not metrics:
        return Measured(values, notes)
    outputs = np.asarray(logits, np.float64)
    weights = example_weights(weights, outputs)
    labels = np.asarray(labels)
    if task == "regression":
        labels = labels.reshape(outputs.shape)
    predictions = counted(Predictions(task, outputs, labels, weights, class_names))
    if not np.isfinite(predictions.outputs).all():
        return Measured(dict.fromkeys(names(metrics, class_names), np.nan), notes)
    for name, value in metrics.items():
        with collected_notes() as texts:
            result = as_metric(value).measure(predictions)
        if not isinstance(result, Mapping):
            result = {"": result}
        values.update({f"{name}[{k}]" if k else name: v for k, v in result.items()})
        if texts:
            notes[name] = "; ".join(texts)
    return Measured(values, notes)
