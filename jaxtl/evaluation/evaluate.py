"""Evaluation of a run: its predictions on a split, and the task's metrics of them."""

from typing import Literal

import numpy as np

from jaxtl.core import process_group
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.data import streams
from jaxtl.evaluation import (
    answer_outputs,
    episodes,
    feature_cache,
    forward,
    metrics,
    model_selection,
    representation,
)
from jaxtl.evaluation.details import classification_details
from jaxtl.evaluation.forward import Evaluable
from jaxtl.evaluation.metrics import experiment_metrics


def evaluate(run: Evaluable, split: str = "val", *, which: str = "current") -> dict:
    """Computes the task's metrics and the experiment's own on a split of the target.

    On "val" of a target without labelled train rows the label-free criteria are
    included (see `model_selection`).

    Args:
      run: what `tl.setup` or `tl.load_model` returned.
      split: "train", "val" or "test".
      which: "current" for the parameters as they are, "best" for those with the best
        monitored value so far; a stored model has one set of weights for both.

    Returns:
      {metric: value}, floats.

    Raises:
      UserError: for an unknown or empty split.
    """
    values = measure(run, split, *predict_split(run, split, which))
    return {**values, **_of_weights(run, *run.packed_weights(which), split)}


def evaluate_with_details(
    run: Evaluable, split: str, which: str
) -> tuple[dict[str, float], dict]:
    """(Metrics, `classification_details`) of a split; arguments as for `evaluate`."""
    task, names = _task(run), run.datasets["target"].label_names
    logits, labels = predict_split(run, split, which)
    values = measure(run, split, logits, labels)
    values.update(_of_weights(run, *run.packed_weights(which), split))
    details = classification_details(task, logits, labels, names, run.thresholds)
    return values, details


def evaluate_weights(
    run: Evaluable, params: PyTree, stats: PyTree, split: str
) -> dict[str, float]:
    """Computes what `evaluate` does, of weights that need not be the run's own."""
    predictions = predict_with_weights(run, params, stats, split)
    values = measure(run, split, *predictions)
    return {**values, **_of_weights(run, params, stats, split)}


def measure(
    run: Evaluable, split: str, logits: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """The metrics of predictions on a split; notes of them are added to the run's.

    Args:
      run: whose experiment names further metrics than its task's.
      split: name of the split.
      logits, labels: of its examples, as `predict_split` returns them.
    """
    measured = experiment_metrics.measure_all(
        _task(run),
        logits,
        labels,
        example_weights(run, split),
        metrics=run.metrics,
        class_names=run.datasets["target"].label_names,
        chosen=run.thresholds,
    )
    for name in experiment_metrics.of_outputs(run.metrics):
        run.notes.pop(f"{name} on {split}", None)
    for name, text in measured.notes.items():
        run.notes[f"{name} on {split}"] = text
    # All processes of a job go on from the same numbers.
    return process_group.first_value(measured.values)


def bootstrap(
    run: Evaluable,
    split: str,
    resamples: int = 1000,
    method: Literal["percentile", "bca"] = "percentile",
    seed: int = 0,
    *,
    which: str = "current",
) -> dict[str, metrics.Interval]:
    """Intervals of all metrics on a split; see `metrics.bootstrap_intervals`.

    Args:
      run, split, which: as for `evaluate`.
      resamples, method, seed: as for `metrics.bootstrap_intervals`.
    """
    predictions = predict_split(run, split, which)
    return intervals(run, split, *predictions, resamples, method, seed)


def intervals(
    run: Evaluable,
    split: str,
    logits: np.ndarray,
    labels: np.ndarray,
    resamples: int = 1000,
    method: Literal["percentile", "bca"] = "percentile",
    seed: int = 0,
) -> dict[str, metrics.Interval]:
    """Intervals of all metrics of predictions on a split.

    Args:
      run, split, logits, labels: as for `measure`.
      resamples, method, seed: as for `bootstrap`.
    """
    if run.datasets["target"].episodes is not None:
        raise UserError(
            "queries of one episode are no independent examples, so intervals are not "
            "drawn from them; the evaluation says the interval over episodes."
        )
    return metrics.bootstrap_intervals(
        _task(run),
        logits,
        labels,
        example_weights(run, split),
        metrics=run.metrics,
        class_names=run.datasets["target"].label_names,
        thresholds=run.thresholds,
        resamples=resamples,
        method=method,
        seed=seed,
    )


def example_weights(run: Evaluable, split: str) -> np.ndarray | None:
    """The weights of a split's examples (questions), None where each counts once."""
    dataset = run.datasets["target"]
    if dataset.weights is None:
        return None
    rows = answer_outputs.first_rows(dataset, streams.split_rows(dataset, split))
    return dataset.weights[rows]


def _task(run: Evaluable) -> str:
    return run.datasets["target"].task


def _of_weights(
    run: Evaluable, params: PyTree, stats: PyTree, split: str
) -> dict[str, float]:
    """What is measured of more than the split's outputs: criteria, and of features."""
    values = representation.measure(run, params, stats, split)
    if split == "val":
        values |= model_selection.measure_criteria(run, params, stats)
    return process_group.first_value(values)


def predict_split(
    run: Evaluable, split: str, which: str = "current"
) -> tuple[np.ndarray, np.ndarray]:
    """Predicts a split of the target data; arguments as for `evaluate`.

    Frozen stages whose features are cached are run once for a split's rows.

    Returns:
      (logits (n, outputs) float32, labels (n, ...)), in the order of the split's rows.
      The logits of a language model are `losses.metric_inputs`: sums per example; of
      questions both are those of `answer_outputs.per_example`.
    """
    params, stats = run.packed_weights(which)
    if run.datasets["target"].episodes is not None:
        _rows(run, split)
        return episodes.predict(run, params, stats, split, which)
    # Features are cached for the current phase. The scores of a language model need
    # the inputs themselves, and two towers have no stage to start from.
    use_cache = run.cached is not None and _task(run) not in ("language", "contrastive")
    if not use_cache or not (which == "current" or run.best_is_recent):
        return predict_with_weights(run, params, stats, split)
    logits = feature_cache.predict(run, (params, stats), "target", _rows(run, split))
    return _per_example(run, split, logits)


def predict_with_weights(
    run: Evaluable, params: PyTree, stats: PyTree, split: str
) -> tuple[np.ndarray, np.ndarray]:
    """Predicts as `predict_split`, with weights that need not be the run's own."""
    dataset, rows = run.datasets["target"], _rows(run, split)
    if dataset.episodes is not None:
        return episodes.predict(run, params, stats, split)
    model = run.evaluation_model()
    logits = forward.predict(model, (params, stats), dataset, rows)
    return _per_example(run, split, logits)


def _per_example(
    run: Evaluable, split: str, logits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(Outputs, labels) of a split's examples, from the logits of its rows."""
    logits, labels = np.asarray(logits, np.float32), _labels(run, split)
    rows = _rows(run, split)
    return answer_outputs.per_example(run.datasets["target"], rows, logits, labels)


def _rows(run: Evaluable, split: str) -> np.ndarray:
    rows = streams.split_rows(run.datasets["target"], split)
    if len(rows) == 0:
        raise UserError(f"the split {split!r} is empty; there is nothing to evaluate.")
    return rows


def _labels(run: Evaluable, split: str) -> np.ndarray:
    """Labels of a split: on train those trained on, elsewhere those without noise."""
    dataset = run.datasets["target"]
    labels = dataset.y if split == "train" else dataset.y_clean
    return labels[streams.split_rows(dataset, split)]
