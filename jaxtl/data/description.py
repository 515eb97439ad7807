"""What was read of a data set, in one line; and what was decided, in one more each."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

import numpy as np

from jaxtl.data.dataset import Dataset

_SHOWN = 12  # classes or columns that are listed
_SPLITS = ("train", "unlabelled", "val", "test")


def summarize(datasets: Mapping[str, Dataset]) -> dict[str, list[str]]:
    """{name: lines} of data sets; lines as those of `lines_of`."""
    return {name: lines_of(dataset) for name, dataset in datasets.items()}


def lines_of(dataset: Dataset) -> list[str]:
    """Describes a data set.

    Returns:
      Its source, task, outputs with counts, inputs and sizes of splits; then a line for
      each thing that was decided or left out.
    """
    files = [path.name for path in dataset.files]
    source = " ".join([dataset.name, _listed(files, 2)] if files else [dataset.name])
    splits = {name: dataset.rows[name] for name in _SPLITS if name in dataset.rows}
    sizes = ", ".join(f"{name} {len(rows):,}" for name, rows in splits.items())
    line = (
        f"{source}: {len(dataset.y):,} examples, {_outputs(dataset)}; "
        f"{_inputs(dataset)}; {sizes}"
    )
    return [line, *dataset.notes, *_unseen_classes(dataset)]


def _outputs(dataset: Dataset) -> str:
    """The task and its outputs: classes with counts, targets with their range."""
    y, names = dataset.y_clean, dataset.class_names
    if dataset.task == "classification":
        counts = np.bincount(y, minlength=len(names))
        return f"classification, {_counts(names, counts)}"
    if dataset.task == "multilabel":
        return f"multilabel, {_counts(names, y.sum(0).astype(np.int64))}"
    if dataset.task != "regression":
        return dataset.task
    values = y.reshape(len(y), -1).astype(np.float64)
    if dataset.preprocess.target_offset is not None:
        values = values + np.asarray(dataset.preprocess.target_offset)
    labels = dataset.target_names or [f"target {i}" for i in range(values.shape[1])]
    ranges = [
        f"{name} from {low:.10g} to {high:.10g}"
        for name, low, high in zip(labels, values.min(0), values.max(0))
    ]
    return f"regression, {_listed(ranges)}"


def _counts(names: Iterable[str], counts: np.ndarray) -> str:
    listed = _listed([f"{name} {count:,}" for name, count in zip(names, counts)])
    return f"{len(counts)} {'class' if len(counts) == 1 else 'classes'}: {listed}"


def _inputs(dataset: Dataset) -> str:
    """What one example is: columns with their kinds, or shapes and types."""
    shape, dtype = dataset.example_shape, dataset.dtype
    if isinstance(shape, dict):
        parts = [f"{k} {_sides(shape[k])} {dtype[k]}" for k in shape]
        return f"an example is {', '.join(parts)}"
    if not dataset.feature_names:
        return f"an example is {_sides(shape)} {dtype}"
    columns = []
    for name, group in itertools.groupby(
        dataset.feature_names, lambda feature: feature.partition("=")[0]
    ):
        features = list(group)
        is_number = features == [name]
        columns.append(name if is_number else f"{name} ({len(features)} categories)")
    kind = "column" if len(columns) == 1 else "columns"
    return f"{len(columns)} {kind}: {_listed(columns)}"


def _sides(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a number"


def _unseen_classes(dataset: Dataset) -> list[str]:
    """Says which classes have no example to train on, and if only one has any."""
    if dataset.task != "classification" or not len(dataset.rows["train"]):
        return []
    counts = np.bincount(
        dataset.y_clean[dataset.rows["train"]], minlength=len(dataset.class_names)
    )
    present = [name for name, n in zip(dataset.class_names, counts) if n]
    unseen = [name for name, n in zip(dataset.class_names, counts) if n == 0]
    lines = []
    if len(present) == 1:
        lines.append(
            f"all {counts.sum():,} labelled train examples have the class "
            f"{present[0]!r}: there is nothing to tell apart"
        )
    if unseen:
        lines.append(
            f"no labelled train example has the class {_listed(map(repr, unseen))}"
        )
    return lines


def _listed(parts: Iterable[str], limit: int = _SHOWN) -> str:
    parts = list(parts)
    more = f", … {len(parts) - limit} more" if len(parts) > limit else ""
    return ", ".join(parts[:limit]) + more
