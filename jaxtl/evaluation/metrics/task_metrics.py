"""The metrics that every run measures, by task.

Their arguments, and what is NaN, are those of `output_metrics`.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.data import task_outputs
from jaxtl.data.dataset import CONTRASTIVE, MULTITASK, QUESTION_ANSWERING
from jaxtl.evaluation.metrics import answers, retrieval
from jaxtl.evaluation.metrics.output_metrics import (
    Array,
    Weights,
    accuracy,
    balanced_accuracy,
    ece,
    exact_match,
    label_accuracy,
    label_macro_f1,
    label_nll,
    macro_f1,
    mae,
    mse,
    nan_unless_finite,
    nll,
    r2,
    weights_or_ones,
)
from jaxtl.evaluation.metrics.token_metrics import (
    entity_metric,
    perplexity,
    tag_accuracy,
    tag_macro_f1,
    tag_nll,
    token_accuracy,
    token_nll,
)


def _recalls(
    embeddings: Array, images: Array, weights: Weights = None
) -> dict[str, float]:
    """`retrieval.recalls`, NaN each where an embedding that counts is not finite."""
    rows = weights_or_ones(weights, len(np.asarray(embeddings))) > 0
    values = np.asarray(embeddings, np.float64)[rows]
    if not np.isfinite(values).all():
        return dict.fromkeys(retrieval.RECALLS, float("nan"))
    weights = None if weights is None else np.asarray(weights)[rows]
    return retrieval.recalls(values, np.asarray(images)[rows], weights)


def _recall(
    embeddings: Array, images: Array, weights: Weights = None, *, name: str
) -> float:
    return _recalls(embeddings, images, weights)[name]


METRICS: dict[str, dict[str, Callable]] = {
    "classification": {
        "accuracy": accuracy,
        "balanced_accuracy": balanced_accuracy,
        "macro_f1": macro_f1,
        "nll": nll,
        "ece": ece,
    },
    "multilabel": {
        "accuracy": label_accuracy,
        "exact_match": exact_match,
        "macro_f1": label_macro_f1,
        "nll": label_nll,
    },
    "regression": {"mse": mse, "mae": mae, "r2": r2},
    "language": {
        "perplexity": perplexity,
        "nll": token_nll,
        "accuracy": token_accuracy,
    },
    "entities": {
        "entity_f1": entity_metric(2),
        "entity_precision": entity_metric(0),
        "entity_recall": entity_metric(1),
        "accuracy": tag_accuracy,
        "nll": tag_nll,
    },
    QUESTION_ANSWERING: {
        "answer_f1": nan_unless_finite(answers.mean_score(answers.F1)),
        "exact_match": nan_unless_finite(answers.mean_score(answers.EXACT)),
        "nll": nan_unless_finite(answers.span_nll),
    },
    "tags": {"accuracy": tag_accuracy, "macro_f1": tag_macro_f1, "nll": tag_nll},
    CONTRASTIVE: {
        name: functools.partial(_recall, name=name) for name in retrieval.RECALLS
    },
}
# The score of each kind of task, at most 1; `mean_score` of several is their mean.
_SCORES = {"classification": "accuracy", "multilabel": "accuracy", "regression": "r2"}


def _of_each_task(
    logits: Array,
    labels: Array,
    weights: Weights = None,
    class_names: Sequence[str] = (),
) -> dict[str, float]:
    """{"mean_score", "metric[task]"}: the metrics of each task on its labelled rows.

    Those of a task without any labelled row that counts are NaN, and "mean_score" is
    the mean over the others.
    """
    if not class_names:
        raise UserError(
            "metrics of several tasks need the names of all outputs, class_names=."
        )
    weights = weights_or_ones(weights, len(labels))
    values, scores = {}, []
    for name, task in task_outputs.tasks_of(class_names).items():
        y = labels[:, task.columns]
        y = y[:, 0] if task.kind == "classification" else y
        rows = ~np.isnan(y.reshape(len(y), -1)).any(1) & (weights > 0)
        measured = dict.fromkeys(METRICS[task.kind], float("nan"))
        if rows.any():
            y = y[rows].astype(np.int64) if task.kind == "classification" else y[rows]
            outputs = logits[rows][:, task.outputs]
            measured = compute(task.kind, outputs, y, weights[rows])
            scores.append(measured[_SCORES[task.kind]])
        values |= {f"{metric}[{name}]": value for metric, value in measured.items()}
    mean = float(np.mean(scores)) if scores else float("nan")
    return {"mean_score": mean, **values}


def _mean_score(
    logits: Array,
    labels: Array,
    weights: Weights = None,
    class_names: Sequence[str] = (),
) -> float:
    return _of_each_task(logits, labels, weights, class_names)["mean_score"]


METRICS[MULTITASK] = {"mean_score": _mean_score}
# Those that read the predicted class or labels alone, which a threshold decides.
OF_PREDICTIONS = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "exact_match",
    "answer_f1",
)


def compute(
    task: str,
    logits: Array,
    labels: Array,
    weights: Weights = None,
    *,
    class_names: Sequence[str] = (),
) -> dict[str, float]:
    """Computes every metric of a task.

    Args:
      task: a key of `METRICS`.
      logits: (N, outputs), before the output activation; for language the sums of
        `losses.metric_inputs`; for "entities" and "tags" (N, pieces, tags); for
        "question_answering" what `answer_outputs.per_example` gives; for "contrastive"
        (N, 2·width), the embeddings of image and text side by side.
      labels: (N,) classes, or (N, outputs) zeros and ones, or (N, outputs) targets, or
        (N, pieces) tags, below 0 on pieces that are not counted, or (N,) numbers of
        images; for "multitask" (N, columns), NaN without a label.
      weights: (N,), 0 for padding; all ones if left out.
      class_names: in label order, for "entities"; for "multitask" those of all outputs.

    Returns:
      {name: value}, the names of `metrics.names`; NaN where outputs are not finite.

    Raises:
      UserError: for an unknown task, or where no example has a weight above 0.
    """
    if task not in METRICS:
        raise UserError(
            f"task={task!r} is unknown{nearest(task, METRICS)} "
            f"(tasks: {', '.join(METRICS)})."
        )
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    weights = weights_or_ones(weights, len(logits))
    if not (weights > 0).any():
        raise UserError("metrics need at least one example with a weight above 0.")
    if task == "language" and not logits[weights > 0, 2].any():
        raise UserError(
            "metrics need at least one predicted token, and no text has two tokens."
        )
    if task == CONTRASTIVE:  # one comparison of all pairs gives all of them
        return _recalls(logits, labels, weights)
    if task == MULTITASK:
        return _of_each_task(logits, labels, weights, class_names)
    # Large logits overflow, and the likelihood of their labels is 0.
    with np.errstate(invalid="ignore", over="ignore"):
        return {
            name: metric(logits, labels, weights, class_names=class_names)
            if name.startswith("entity_")
            else metric(logits, labels, weights)
            for name, metric in METRICS[task].items()
        }


def names(task: str, class_names: Sequence[str] = ()) -> tuple[str, ...]:
    """Names all values that `compute` gives.

    Args:
      task: a key of `METRICS`.
      class_names: of all outputs; read for "multitask" alone, whose tasks they tell.

    Returns:
      The metrics in their order; of several tasks also "metric[task]" for each.
    """
    parts = [
        f"{metric}[{name}]"
        for name, part in task_outputs.tasks_of(class_names).items()
        for metric in METRICS[part.kind]
    ]
    return (*METRICS[task], *(parts if task == MULTITASK else ()))


def main_metric(task: str) -> str:
    """Names the metric that chooses among runs by default.

    Args:
      task: a key of `METRICS`.

    Returns:
      The first metric of the task, "accuracy" for classification.
    """
    return next(iter(METRICS[task]))
