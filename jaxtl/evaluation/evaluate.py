"""Evaluation of a run: its predictions on a split, and the task's metrics of them."""

from typing import Any

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.data import streams
from jaxtl.evaluation import feature_cache, forward, metrics, model_selection


def evaluate(run: Any, split: str = "val", *, which: str = "current") -> dict:
    """Computes the task's metrics on a split of the target data.

    On "val" of a target without labelled train rows the label-free criteria are
    included (see `model_selection`).

    Args:
      run: what `tl.setup` returned.
      split: "train", "val" or "test".
      which: "current" for the parameters as they are, "best" for those with the best
        monitored value so far.

    Returns:
      {metric: value}, floats.

    Raises:
      UserError: for an unknown or empty split.
    """
    values = metrics.compute(run.parts.program.task, *predict_split(run, split, which))
    return {**values, **_criteria(run, *run.weights(which), split)}


def evaluate_with_details(
    run: Any, split: str, which: str
) -> tuple[dict[str, float], dict]:
    """Computes (metrics, `metrics.details`) of a split; arguments as for `evaluate`."""
    task, names = run.parts.program.task, run.parts.datasets["target"].class_names
    logits, labels = predict_split(run, split, which)
    values = metrics.compute(task, logits, labels)
    values.update(_criteria(run, *run.weights(which), split))
    return values, metrics.details(task, logits, labels, names)


def evaluate_weights(
    run: Any, params: PyTree, stats: PyTree, split: str
) -> dict[str, float]:
    """Computes what `evaluate` does, of weights that need not be the run's own."""
    predictions = predict_with_weights(run, params, stats, split)
    values = metrics.compute(run.program.task, *predictions)
    return {**values, **_criteria(run, params, stats, split)}


def _criteria(run: Any, params: PyTree, stats: PyTree, split: str) -> dict[str, float]:
    return model_selection.measure(run, params, stats) if split == "val" else {}


def predict_split(
    run: Any, split: str, which: str = "current"
) -> tuple[np.ndarray, np.ndarray]:
    """Predicts a split of the target data; arguments as for `evaluate`.

    Frozen stages whose features are cached are run once for a split's rows.

    Returns:
      (logits (n, outputs) float32, labels (n, ...)), in the order of the split's rows.
      The logits of a language model are `losses.scores`: sums per example.
    """
    params, stats = run.weights(which)
    recent = which == "current" or run.best_is_recent
    # The scores of a language model need the inputs, not features of theirs.
    if run.cached is None or not recent or run.program.task == "language":
        return predict_with_weights(run, params, stats, split)
    logits = feature_cache.predict(run, (params, stats), "target", _rows(run, split))
    return np.asarray(logits, np.float32), _labels(run, split)


def predict_with_weights(
    run: Any, params: PyTree, stats: PyTree, split: str
) -> tuple[np.ndarray, np.ndarray]:
    """Predicts as `predict_split`, with weights that need not be the run's own."""
    dataset, rows = run.parts.datasets["target"], _rows(run, split)
    model = forward.predictor(run)
    logits = forward.predict(model, (params, stats), dataset, rows)
    return np.asarray(logits, np.float32), _labels(run, split)


def _rows(run: Any, split: str) -> np.ndarray:
    rows = streams.split_rows(run.parts.datasets["target"], split)
    if len(rows) == 0:
        raise UserError(f"the split {split!r} is empty; there is nothing to evaluate.")
    return rows


def _labels(run: Any, split: str) -> np.ndarray:
    """Labels of a split: on train those trained on, elsewhere those without noise."""
    dataset = run.parts.datasets["target"]
    labels = dataset.y if split == "train" else dataset.y_clean
    return labels[streams.split_rows(dataset, split)]
