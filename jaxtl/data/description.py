"""What was read of a data set, in one line; and what was decided, in one more each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from jaxtl.data import duplicates, task_outputs
from jaxtl.data.dataset import MULTITASK, QUESTION_ANSWERING, TAG_TASKS, Dataset

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
    rows = dataset.example_rows
    splits = {name: rows[name] for name in _SPLITS if name in rows}
    sizes = ", ".join(f"{name} {len(rows):,}" for name, rows in splits.items())
    line = (
        f"{source}: {dataset.examples:,} examples, {_outputs(dataset)}; "
        f"{_inputs(dataset)}; {sizes}"
    )
    alone = [] if dataset.has_training_rows else ["no training rows: evaluation only"]
    return [
        line,
        *alone,
        *dataset.notes,
        *_odd_outputs(dataset),
        *_shared_examples(dataset),
    ]


def _outputs(dataset: Dataset) -> str:
    """The task and its outputs: classes with counts, targets with their range."""
    y, names = dataset.y_clean, dataset.class_names
    if dataset.task == "classification":
        counts = np.bincount(y, minlength=len(names))
        return f"classification, {_counts(names, counts)}"
    if dataset.task == "multilabel":
        return f"multilabel, {_counts(names, y.sum(0).astype(np.int64))}"
    if dataset.task in TAG_TASKS:
        counts = np.bincount(y[y >= 0], minlength=len(names))
        return f"{dataset.task}, {counts.sum():,} words, {_counts(names, counts)}"
    if dataset.task == QUESTION_ANSWERING and dataset.questions is not None:
        lacking = sum(not texts for texts in dataset.questions.answers)
        return f"{dataset.task}, {lacking:,} questions without an answer"
    if dataset.task == MULTITASK:
        return _tasks(dataset)
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


def _tasks(dataset: Dataset) -> str:
    """Each of several tasks: its kind and outputs, and how many rows have a label."""
    labelled = task_outputs.labelled_rows(dataset.y_clean, dataset.class_names)
    what = {"classification": "classes", "multilabel": "labels"}
    parts = [
        f"{name} ({task.kind}, {len(task.names)} {what.get(task.kind, 'targets')}, "
        f"{labelled[name]:,} labelled)"
        for name, task in task_outputs.tasks_of(dataset.class_names).items()
    ]
    return f"{len(parts)} tasks: {_listed(parts)}"


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
    columns = list(dataset.feature_names)
    if dataset.encoding is not None:
        columns = [
            f"{name} ({len(categories)} categories)" if categories else name
            for name, categories in dataset.encoding.columns
        ]
    kind = "column" if len(columns) == 1 else "columns"
    return f"{len(columns)} {kind}: {_listed(columns)}"


def _sides(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a number"


def _odd_outputs(dataset: Dataset) -> list[str]:
    """Says which classes a split lacks, and which outputs do not vary in train."""
    numbers = {name: rows for name, rows in dataset.rows.items() if len(rows)}
    if "train" not in numbers or dataset.episodes is not None:
        return []  # every class of episodes is in one split alone
    values = {name: dataset.y_clean[rows] for name, rows in numbers.items()}
    if dataset.task == "classification":
        return _absent_classes(values, dataset.class_names)
    if dataset.task in TAG_TASKS:
        words = {name: y[y >= 0] for name, y in values.items()}
        return _absent_classes(words, dataset.class_names, "words")
    if dataset.task == "multilabel":
        return _constant_labels(values["train"], dataset.class_names)
    if dataset.task == MULTITASK:
        return _absent_tasks(values, dataset.class_names)
    if dataset.task != "regression":
        return []
    targets = values["train"].reshape(len(values["train"]), -1)
    is_constant = (targets == targets[0]).all(0) & (len(targets) > 1)
    names = dataset.target_names or [f"target {i}" for i in range(targets.shape[1])]
    return [
        f"{name} is the same in all {len(targets):,} labelled train examples: there is "
        "nothing to predict"
        for name, constant in zip(names, is_constant)
        if constant
    ]


def _absent_tasks(
    labels: Mapping[str, np.ndarray], names: tuple[str, ...]
) -> list[str]:
    """A line for each held-out split that has no label of some tasks."""
    lines = []
    for split in ("val", "test"):
        if split in labels:
            counts = task_outputs.labelled_rows(labels[split], names)
            absent = [repr(task) for task, count in counts.items() if not count]
            if absent:
                lines.append(f"no {split} example has a label of {_listed(absent)}")
    return lines


def _absent_classes(
    labels: Mapping[str, np.ndarray], names: tuple[str, ...], what: str = "examples"
) -> list[str]:
    """A line for each split that has no example of some classes.

    Args:
      labels: split -> (n,) of its examples; the unlabelled rows are left out.
      names: of the classes.
      what: are labelled.
    """
    counts = {
        split: np.bincount(labels[split], minlength=len(names))
        for split in ("train", "val", "test")
        if split in labels
    }
    train, lines = counts.pop("train"), []
    if np.count_nonzero(train) == 1:
        lines.append(
            f"all {train.sum():,} labelled train {what} have the class "
            f"{names[train.argmax()]!r}: there is nothing to tell apart"
        )
    if not train.all():
        absent = [
            f"{name!r}{_held_out_counts(counts, i)}"
            for i, name in enumerate(names)
            if not train[i]
        ]
        one = what.removesuffix("s")
        lines.append(f"no labelled train {one} has the class {_listed(absent)}")
    for split, count in counts.items():
        absent = [
            f"{name!r} (train {train[i]:,})"
            for i, name in enumerate(names)
            if train[i] and not count[i]
        ]
        if absent:
            lines.append(f"no {split} {what[:-1]} has the class {_listed(absent)}")
    return lines


def _held_out_counts(counts: Mapping[str, np.ndarray], i: int) -> str:
    """The examples of a class in the held-out splits, such as " (val 10)"."""
    parts = [f"{split} {count[i]:,}" for split, count in counts.items() if count[i]]
    return f" ({', '.join(parts)})" if parts else ""


def _constant_labels(labels: np.ndarray, names: tuple[str, ...]) -> list[str]:
    """A line for the labels that all, and that no, train examples have."""
    lines = []
    for value, words in ((0, "no labelled train example has"), (1, "all {} have")):
        constant = [
            repr(name)
            for name, column in zip(names, labels.T)
            if (column == value).all()
        ]
        if constant:
            words = words.format(f"{len(labels):,} labelled train examples")
            lines.append(f"{words} the label {_listed(constant)}")
    return lines


def _shared_examples(dataset: Dataset) -> list[str]:
    """Says how many held-out examples have the inputs of a train example."""
    counts = duplicates.count_shared(dataset.x, dataset.rows)
    if not counts:
        return []
    what = "examples" if dataset.questions is None else "windows"
    parts = [
        f"{count:,} of {len(dataset.rows[split]):,} {split} {what}"
        for split, count in sorted(counts.items(), key=lambda item: item[0] == "test")
    ]
    return [f"in train as well, by their inputs: {', '.join(parts)}"]


def _listed(parts: Iterable[str], limit: int = _SHOWN) -> str:
    parts = list(parts)
    more = f", … {len(parts) - limit} more" if len(parts) > limit else ""
    return ", ".join(parts[:limit]) + more
