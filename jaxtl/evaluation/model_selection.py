"""Model selection: the metric, or the label-free criterion, that chooses a checkpoint.

Where the target has no labels, criteria choose. They read the source's validation rows
with their labels, some of its train rows and the target's inputs ("unlabelled" and
"val"), never a label of the target: at most 2,000 rows of each kind, the same ones at
every evaluation. `validators` computes them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, PyTree, vectors
from jaxtl.data import streams
from jaxtl.data.dataset import CONTRASTIVE, Dataset
from jaxtl.evaluation import feature_cache, forward, metrics, validators
from jaxtl.evaluation.metrics.experiment_metrics import of_features

MAX_ROWS = 2000  # of each kind
# Tasks whose labels are in the examples themselves.
_OWN_LABELS = ("language", CONTRASTIVE)
# Musgrave et al. (arXiv:2208.07360) compared eight criteria on a million checkpoints; a
# simple baseline was the best in many cases. In experiments/office_caltech.py and
# cross_domain_sentiment.py source accuracy cost 1.5 to 2.3 points of a run's best
# checkpoint. BNM cost less, 0.5 to 1.9, but it is what some terms maximize by
# themselves, so it is left for targets whose source has no validation rows.
PREFERRED_CRITERIA = ("source_accuracy", "source_mse", "bnm")


@dataclasses.dataclass(frozen=True, eq=False)
class CriteriaRows:
    """The rows that a run's criteria read.

    Attributes:
      source_val, source_train: source stream -> int32 rows of its data set.
      target: int32 rows of the target's data set.
    """

    source_val: Mapping[str, np.ndarray]
    source_train: Mapping[str, np.ndarray]
    target: np.ndarray


def is_label_free(datasets: Mapping[str, Dataset]) -> bool:
    """Whether the target has inputs to train on, no label, and criteria instead."""
    has_criteria = datasets["target"].task not in validators.WITHOUT_CRITERIA
    return has_criteria and _has_no_labels(datasets["target"])


def _has_no_labels(target: Dataset) -> bool:
    unlabelled = len(target.rows.get("unlabelled", ()))
    return len(target.rows["train"]) == 0 and unlabelled > 0


def source_names(datasets: Mapping[str, Dataset]) -> tuple[str, ...]:
    """The labelled streams of a run with the target's classes, in their order.

    Labels of other classes, or in another order, say nothing about the outputs.
    """
    target = datasets["target"]
    return tuple(
        name
        for name, dataset in datasets.items()
        if name not in ("target", "unlabelled")
        and streams.same_outputs(dataset, target)
    )


def criteria_rows(datasets: Mapping[str, Dataset]) -> CriteriaRows:
    """The rows that the criteria of an unlabelled target read."""
    names = source_names(datasets)
    rows_per_source = max(1, MAX_ROWS // max(1, len(names)))
    source_rows = {
        split: {
            name: subsample(datasets[name].rows[split], rows_per_source)
            for name in names
            if len(datasets[name].rows.get(split, ()))
        }
        for split in ("val", "train")
    }
    rows = datasets["target"].rows
    inputs = [rows[split] for split in ("unlabelled", "val") if split in rows]
    target = subsample(np.concatenate(inputs), MAX_ROWS)
    return CriteriaRows(source_rows["val"], source_rows["train"], target)


def subsample(rows: np.ndarray, count: int = MAX_ROWS) -> np.ndarray:
    """At most `count` rows in increasing order, the same at every call."""
    rows = np.sort(rows).astype(np.int32)
    if len(rows) <= count:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, count, replace=False))


def available_criteria(datasets: Mapping[str, Dataset]) -> tuple[str, ...]:
    """The criteria that a run can measure; () where its target has labels."""
    if not is_label_free(datasets):
        return ()
    has_rows = {
        split: any(
            len(datasets[name].rows.get(split, ())) for name in source_names(datasets)
        )
        for split in ("val", "train")
    }
    task = datasets["target"].task
    return validators.names(task, source=has_rows["val"], train=has_rows["train"])


def resolve_monitor(
    datasets: Mapping[str, Dataset],
    monitor: str | None,
    added: Mapping[str, Any] | None = None,
    trains_head: bool = True,
) -> str | None:
    """The metric or criterion that chooses a run's best checkpoint.

    Args:
      datasets: of the run.
      monitor: `Experiment.monitor`; "auto" is the task's main metric on val and, for an
        unlabelled target, the first available one of `PREFERRED_CRITERIA`; nothing
        chooses where there are no val rows.
      added: the experiment's own metrics. Where no term trains the head, "auto" is the
        first one that reads features, and no label that the target lacks.
      trains_head: whether a term does.
    """
    if monitor != "auto":
        return monitor
    if not _has_val(datasets):
        return None
    if not trains_head:
        allowed = [
            name
            for name, metric in of_features(added or {}).items()
            if metric.label_free or not is_label_free(datasets)
        ]
        return allowed[0] if allowed else None
    available = available_criteria(datasets)
    criteria = [name for name in PREFERRED_CRITERIA if name in available]
    return criteria[0] if criteria else metrics.main_metric(datasets["target"].task)


def check_monitor(
    datasets: Mapping[str, Dataset], monitor: str | None, added: Sequence[str] = ()
) -> None:
    """Checks that a monitor exists and has rows to be measured on.

    Args:
      datasets: of the run.
      monitor: `Experiment.monitor`.
      added: names of the metrics that the experiment adds to the task's.

    Raises:
      UserError: if it does not.
    """
    if monitor is None:
        return
    target, available = datasets["target"], available_criteria(datasets)
    if monitor in metrics.CRITERIA and monitor not in available:
        raise UserError(f"monitor={monitor!r} {_why_unavailable(datasets, monitor)}.")
    measured = metrics.names(target.task, target.class_names)
    names = (*measured, *added, *available)
    if monitor != "auto" and monitor not in names:
        raise UserError(
            f"monitor={monitor!r} is not a metric of this task"
            f"{metrics.nearest_metric(monitor, names)} (metrics: {', '.join(names)})."
        )
    if monitor != "auto" and not _has_val(datasets):
        raise UserError(
            f"monitor={monitor!r} needs a val split, but the data's is empty; raise "
            "data.val, or set monitor=None to keep the last checkpoint."
        )


def _has_val(datasets: Mapping[str, Dataset]) -> bool:
    return len(datasets["target"].rows.get("val", ())) > 0


def _why_unavailable(datasets: Mapping[str, Dataset], criterion: str) -> str:
    task = datasets["target"].task
    if not is_label_free(datasets):
        names = ", ".join(metrics.METRICS[task])
        return (
            f"chooses without labels, but this target has some; expected one of {names}"
        )
    if criterion not in validators.names(task, source=True, train=True):
        return f"is not a criterion of a {task} task"
    if not source_names(datasets):
        available = ", ".join(available_criteria(datasets)) or "none"
        return (
            "reads a labelled source, but the experiment has no stream of one that has "
            "the target's classes in their order; give it streams="
            f'{{"source": …}}, or choose another (available: {available})'
        )
    names = ", ".join(map(repr, source_names(datasets)))
    return (
        "needs validation rows of the source, but its val split is empty; raise the "
        f"val of streams[{names}]"
    )


def monitor_note(
    datasets: Mapping[str, Dataset],
    monitor: str | None,
    added: Mapping[str, Any] | None = None,
    trains_head: bool = True,
) -> str:
    """A sentence on how a checkpoint is chosen without val rows or labels, else "".

    Args:
      datasets, monitor, added, trains_head: as for `resolve_monitor`.
    """
    name = resolve_monitor(datasets, monitor, added, trains_head)
    if monitor == "auto" and name is None and datasets["target"].has_training_rows:
        if _has_val(datasets):
            return (
                "no term trains the head, whose metrics say nothing, so the last "
                "checkpoint is kept; metrics={'rankme': tl.metrics.RankMe()} chooses "
                "one without labels"
            )
        return "no val rows: nothing chooses a checkpoint, the last one is kept"
    target = datasets["target"]
    if not _has_no_labels(target) or name is None or target.task in _OWN_LABELS:
        return ""
    reads_none = getattr((added or {}).get(name), "label_free", False)
    if name in metrics.CRITERIA or reads_none:
        return f"{name} chooses, without labels of the target"
    return oracle_warning(name)


def oracle_warning(name: str) -> str:
    """The warning of a metric that chooses by labels an unlabelled target lacks."""
    return (
        f"ORACLE: {name} on val reads labels of the target, which has none to train "
        "on; its choice is an upper bound, no result without target labels"
    )


def logits_and_features(
    network: Network,
    weights: tuple[PyTree, PyTree],
    x: PyTree,
    task: str,
    **settings: Any,
) -> tuple[jax.Array, jax.Array]:
    """The logits, and the features (batch, width) that the head computes them from.

    Args:
      network: the model.
      weights: (parameters, statistics).
      x: its inputs; with `start=`, features of a cached stage.
      task: what its outputs mean.
      **settings: of `Network.apply`.
    """
    del task  # criteria read the logits themselves
    output = network.apply(*weights, x, **settings)
    if len(network.stages) < 2:
        return output.logits, vectors(output.logits)
    before_head = network.stages[-2]
    if before_head not in output.features:  # x is that stage's output, reduced
        return output.logits, vectors(x)
    features = output.features[before_head]
    if network.reduce is not None:
        features = network.reduce(features)
    return output.logits, vectors(features)


def rows_by_dataset(rows: CriteriaRows) -> dict[str, np.ndarray]:
    """Data set -> the rows to predict: of a source val's, then train's."""
    source_rows = {
        name: np.concatenate(
            [
                split[name]
                for split in (rows.source_val, rows.source_train)
                if name in split
            ]
        )
        for name in dict.fromkeys((*rows.source_val, *rows.source_train))
    }
    return {**source_rows, "target": rows.target}


def evidence(
    datasets: Mapping[str, Dataset],
    outputs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    rows: CriteriaRows,
) -> validators.Evidence:
    """What the criteria read, from the outputs of `rows_by_dataset(rows)`.

    Args:
      datasets: of the run.
      outputs: data set -> (logits, features) of those rows.
      rows: of the criteria.
    """
    logits, labels, features, train_features, weights = [], [], [], [], []
    for name, val_rows in rows.source_val.items():
        count = len(val_rows)
        logits.append(outputs[name][0][:count])
        features.append(outputs[name][1][:count])
        labels.append(datasets[name].y_clean[val_rows])
        of_all = datasets[name].weights
        weights.append(np.ones(count) if of_all is None else of_all[val_rows])
    for name in rows.source_train:
        count = len(rows.source_val.get(name, ()))
        train_features.append(outputs[name][1][count:])

    def joined(values: list[np.ndarray]) -> np.ndarray | None:
        return np.concatenate(values) if values else None

    return validators.Evidence(
        joined(logits),
        joined(labels),
        joined(features),
        joined(train_features) if logits else None,
        *outputs["target"],
        joined(weights),
    )


def measure_criteria(
    run: forward.Evaluable, params: PyTree, stats: PyTree
) -> dict[str, float]:
    """Computes the criteria of some weights; {} where the target has labels."""
    datasets = run.datasets
    if not is_label_free(datasets):
        return {}
    rows, outputs = criteria_rows(datasets), {}
    for name, dataset_rows in rows_by_dataset(rows).items():
        values = feature_cache.predict(
            run,
            (params, stats),
            name,
            dataset_rows,
            logits_and_features,
            power_of_two=True,
        )
        outputs[name] = jax.tree.map(lambda x: np.asarray(x, np.float32), values)
    task = datasets["target"].task
    return validators.measure(task, evidence(datasets, outputs, rows))
