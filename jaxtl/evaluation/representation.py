"""Metrics of features, of a run or a stored model: what they read, and their values."""

import functools
from typing import Any

import jax
import numpy as np

from jaxtl.core.types import Network, PyTree
from jaxtl.data import preprocess, streams
from jaxtl.data.augment import image
from jaxtl.data.dataset import TRAINING_SPLITS, Dataset
from jaxtl.evaluation import feature_cache, forward, model_selection
from jaxtl.evaluation.forward import Evaluable
from jaxtl.evaluation.metrics.base import collected_notes, note, undefined
from jaxtl.evaluation.metrics.experiment_metrics import of_features
from jaxtl.evaluation.metrics.representation import NOT_FINITE, FeatureEvidence


def measure(
    run: Evaluable, params: PyTree, stats: PyTree, split: str
) -> dict[str, float]:
    """Computes the experiment's metrics of features; {} where it has none.

    Those without labels read train rows alone, and are measured on "val" only.

    Args:
      run: whose metrics they are.
      params, stats: weights, which need not be the run's own.
      split: "train", "val" or "test".
    """
    wanted = {
        name: metric
        for name, metric in of_features(run.metrics).items()
        if split == "val" or not metric.label_free
    }
    if not wanted:
        return {}
    values, evidence = {}, _evidence(run, (params, stats), split)
    for name, metric in wanted.items():
        with collected_notes() as texts:
            values[name] = (
                metric.measure_features(evidence)
                if _is_finite(evidence)
                else undefined(NOT_FINITE)
            )
            if not metric.label_free and _has_weights(run.datasets["target"], split):
                note("it takes no weights, so every example counts once")
        run.notes.pop(f"{name} on {split}", None)
        if texts:
            run.notes[f"{name} on {split}"] = "; ".join(texts)
    return values


def _has_weights(dataset: Dataset, split: str) -> bool:
    """Whether the rows of a split count differently."""
    weights = dataset.weights
    return weights is not None and len(np.unique(weights[dataset.rows[split]])) > 1


def _is_finite(evidence: FeatureEvidence) -> bool:
    """Whether all features are finite: neighbors of NaN would be the first rows."""
    read = (evidence.features, evidence.bank, evidence.sample)
    return all(np.isfinite(x).all() for x in read if x is not None)


def _evidence(run: Evaluable, weights: tuple[PyTree, PyTree], split: str):
    dataset = run.datasets["target"]
    rows = streams.split_rows(dataset, split)
    labelled = dataset.rows.get("train", ())
    labelled = model_selection.subsample(np.asarray(labelled, np.int32))
    training = [dataset.rows[name] for name in TRAINING_SPLITS if name in dataset.rows]
    sample = model_selection.subsample(np.concatenate(training))
    if split == "train":
        labelled = labelled[:0]
    features = _features(run, weights, np.concatenate([rows, labelled, sample]))
    of_rows, bank, of_sample = np.split(features, np.cumsum([len(rows), len(labelled)]))
    labels = dataset.y if split == "train" else dataset.y_clean
    return FeatureEvidence(
        features=of_rows,
        labels=labels[rows],
        bank=bank if len(labelled) else None,
        bank_labels=dataset.y[labelled] if len(labelled) else None,
        sample=of_sample if len(sample) else None,
        views=functools.partial(_views, run, weights, sample) if len(sample) else None,
    )


def _features(
    run: Evaluable, weights: tuple[PyTree, PyTree], rows: np.ndarray
) -> np.ndarray:
    """Features that the head reads, (n, width) float64; each row is run once."""
    unique, places = np.unique(rows, return_inverse=True)
    _, features = feature_cache.predict(
        run,
        weights,
        "target",
        unique,
        model_selection.logits_and_features,
        power_of_two=True,
    )
    return np.asarray(features, np.float64)[places]


def _views(
    run: Evaluable,
    weights: tuple[PyTree, PyTree],
    rows: np.ndarray,
    operations: tuple,
    examples: int,
    copies: int,
) -> np.ndarray:
    """Features of random views, (examples, copies, width)."""
    model = run.evaluation_model()
    outputs = functools.partial(
        view_features, operations=operations, copies=copies, settings=model.preprocess
    )
    features = forward.predict(
        model, weights, run.datasets["target"], rows[:examples], outputs
    )
    return np.asarray(features, np.float64)


def view_features(
    network: Network,
    weights: tuple[PyTree, PyTree],
    x: PyTree,
    task: str,
    *,
    operations: tuple,
    copies: int,
    settings: Any,
) -> jax.Array:
    """Features of random views of a batch, (batch, copies, width).

    Args:
      network, weights, x, task: as for `forward.logits`.
      operations: of a view, on stored values.
      copies: number of views of each example; the same ones at every call.
      settings: the preprocessing that made x.
    """
    stored = preprocess.restore(settings, x)

    def of_copy(key: jax.Array) -> jax.Array:
        view = image.apply_augmentations(operations, key, stored)
        view = preprocess.normalize(settings, view)
        return model_selection.logits_and_features(network, weights, view, task)[1]

    keys = jax.random.split(jax.random.key(0), copies)
    return jax.lax.map(of_copy, keys).swapaxes(0, 1)
