"""The data set and split that each stream reads, and passes over them in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxtl.core import progress
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import PyTree
from jaxtl.data import lazy_array, preprocess, sampler
from jaxtl.data.dataset import TRAINING_SPLITS, UNIFORM, Dataset


def dataset_and_split_of(
    datasets: Mapping[str, Dataset], stream: str
) -> tuple[str, str]:
    """The names of the data set and of the split that a stream reads.

    "unlabelled" reads the target's train rows that have no label, unless the
    experiment brings a data set of that name; all other streams read train rows.
    """
    if stream == "unlabelled" and stream not in datasets:
        return "target", "unlabelled"
    return stream, "train"


def has_labels(stream: str) -> bool:
    """Whether a stream's batches hold labels."""
    return stream != "unlabelled"


def number_of_outputs(datasets: Mapping[str, Dataset]) -> int:
    """Number of outputs that the target and its sources need.

    Larger than the target's number of classes where a source begins with the same
    classes and has more.
    """
    target = datasets["target"]
    names = target.class_names
    compatible = [d for d in datasets.values() if d.class_names[: len(names)] == names]
    return max([target.outputs, *(d.outputs for d in compatible)])


def output_names(datasets: Mapping[str, Dataset]) -> tuple[str, ...]:
    """Names of the outputs that the target and its sources need, in order.

    They are the target's, and behind them the further ones of a source that begins with
    the same.
    """
    names = datasets["target"].output_names
    known = [d.output_names for d in datasets.values()]
    return max((n for n in known if n[: len(names)] == names), key=len) if names else ()


def same_outputs(first: Dataset, second: Dataset) -> bool:
    """Whether labels of both name the same outputs, as far as both have them.

    The shorter list of names may be the beginning of the longer one; a single
    regression target may have any name.
    """
    ours, theirs = first.output_names, second.output_names
    if first.task == second.task == "regression" and len(ours) == len(theirs) == 1:
        return True
    common = min(len(ours), len(theirs))
    return ours[:common] == theirs[:common]


def split_rows(dataset: Dataset, split: str) -> np.ndarray:
    """The int32 row numbers of a split.

    Raises:
      UserError: the data set has no such split.
    """
    if split not in dataset.rows:
        raise UserError(
            f"{dataset.name} has no split {split!r}{nearest(split, dataset.rows)}; "
            f"it has {', '.join(sorted(dataset.rows))}."
        )
    return dataset.rows[split]


def sampled_rows(
    dataset: Dataset, split: str
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """The rows of a split in the order that batches are drawn from.

    Returns:
      (rows, None, None), or, for train rows of which `dataset.sampling` draws classes
      in other shares than theirs, (rows class by class, rows of each class, its places
      in an epoch), int32; of episodes (rows class by class, rows of each class that has
      any, None).
    """
    rows = split_rows(dataset, split)
    if dataset.sampling == UNIFORM or split != "train" or len(rows) == 0:
        return rows, None, None
    labels = dataset.y[rows]
    if dataset.episodes is not None:
        sizes = np.unique(labels, return_counts=True)[1].astype(np.int32)
        return rows[np.argsort(labels, kind="stable")], sizes, None
    sizes = np.bincount(labels, minlength=len(dataset.class_names)).astype(np.int32)
    seats = sampler.class_seats(sizes, dataset.sampling)
    return rows[np.argsort(labels, kind="stable")], sizes, seats


def example_batch(
    dataset: Dataset, pre: preprocess.Preprocess, count: int = 1
) -> PyTree:
    """The first `count` train rows, preprocessed, to initialize a model with.

    Unlabelled rows where no train row has a label, and held-out rows where there are
    none to train on; rows repeat where there are fewer.
    """
    present = (dataset.rows.get(name, ()) for name in (*TRAINING_SPLITS, "val", "test"))
    rows = np.resize(next(rows for rows in present if len(rows)), count)
    return preprocess.apply(pre, lazy_array.gather(dataset.x, rows))


def ordered_batches(
    datasets: Mapping[str, Dataset],
    preprocessing: Mapping[str, preprocess.Preprocess],
    batch: int,
    stream: str,
) -> Iterator[dict[str, PyTree]]:
    """Yields the train examples of a stream once, in order, preprocessed.

    Args:
      datasets: by name.
      preprocessing: of each data set.
      batch: examples per batch; the last one may be smaller.
      stream: name of the stream.

    Yields:
      {"x", "row"}, and "y" for a stream with labels, (batch, ...) each.
    """
    name, split = dataset_and_split_of(datasets, stream)
    dataset = datasets[name]
    rows = dataset.rows[split]
    starts = range(0, len(rows), batch)
    for start in progress.track(starts, f"passing over {stream}, in batches"):
        chunk = rows[start : start + batch]
        x = preprocess.apply(preprocessing[name], lazy_array.gather(dataset.x, chunk))
        examples = {"x": x, "row": jnp.asarray(chunk)}
        if has_labels(stream):
            examples["y"] = jnp.asarray(dataset.y[chunk])
        yield examples


def evaluation_batches(
    rows: np.ndarray | list[int], batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts rows into equal batches, the last one padded, so that all are counted once.

    Args:
      rows: (n,) row numbers, n ≥ 1.
      batch: rows per batch.

    Returns:
      int32 (⌈n/batch⌉, batch) rows, padded by the first row, and float32 weights of the
      same shape, 0 where padded: Σ weight·value / Σ weight is the mean over the split.

    Raises:
      UserError: batch below 1, or no rows.
    """
    if batch < 1:
        raise UserError(f"batch must be at least 1; got {batch}.")
    rows = np.asarray(rows, np.int32)
    if len(rows) == 0:
        raise UserError("there are no rows to evaluate: the split is empty.")
    steps = -(-len(rows) // batch)
    padded = np.full(steps * batch, rows[0], np.int32)
    padded[: len(rows)] = rows
    weights = np.zeros(steps * batch, np.float32)
    weights[: len(rows)] = 1.0
    return padded.reshape(steps, batch), weights.reshape(steps, batch)


def sample(
    dataset: Dataset, split: str = "train", per_class: int = 1
) -> dict[str, Any]:
    """The first few examples of each class, for a contact sheet.

    Args:
      dataset: the data.
      split: one of `dataset.rows`.
      per_class: examples of each class; fewer where a class has fewer.

    Returns:
      {"x", "y", "rows"} numpy, ordered by class; for other tasks than classification,
      the first `per_class` rows of the split.
    """
    rows = split_rows(dataset, split)
    if dataset.task == "classification":
        labels = dataset.y[rows]
        rows_of_classes = [
            rows[labels == label][:per_class]
            for label in range(len(dataset.class_names))
        ]
        rows = np.concatenate(rows_of_classes)
    else:
        rows = rows[:per_class]
    return {"x": lazy_array.gather(dataset.x, rows), "y": dataset.y[rows], "rows": rows}
