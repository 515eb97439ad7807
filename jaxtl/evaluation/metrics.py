"""Settings of a sweep: its records without the seed, and which are chosen on val."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from jaxtl.core.errors import UserError, nearest


def is_finite_number(value: Any) -> bool:
    """Whether a value of result.json is a finite number; a bool is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


BINS = 15


def _weights(weights, rows: int) -> np.ndarray:
    if weights is None:
        return np.ones(rows)
    return np.asarray(weights, np.float64)


def _mean(values: np.ndarray, weights) -> float:
    return float(np.average(values, weights=_weights(weights, len(values))))


def accuracy(logits, labels, weights=None) -> float:
    """Share of examples whose largest logit is the label's; (N, K) and (N,)."""
    return _mean(np.argmax(logits, -1) == np.asarray(labels), weights)


def confusion(logits, labels, weights=None) -> np.ndarray:
    """Returns counts[label, prediction], (K, K)."""
    classes = np.shape(logits)[-1]
    cell = np.asarray(labels).astype(int) * classes + np.argmax(logits, -1)
    weights = _weights(weights, len(cell))
    counts = np.bincount(cell, weights, minlength=classes * classes)
    return counts.reshape(classes, classes)


def balanced_accuracy(logits, labels, weights=None) -> float:
    """Mean recall over the classes that the labels hold (chance level 1 / K)."""
    counts = confusion(logits, labels, weights)
    total = counts.sum(1)
    return float(np.mean(np.diag(counts)[total > 0] / total[total > 0]))


def macro_f1(logits, labels, weights=None) -> float:
    """Mean F1 over the classes that occur as a label or as a prediction."""
    counts = confusion(logits, labels, weights)
    both = counts.sum(0) + counts.sum(1)
    return float(np.mean(2 * np.diag(counts)[both > 0] / both[both > 0]))


def nll(logits, labels, weights=None) -> float:
    """Negative log-likelihood of the labels in nats, mean over examples."""
    log_p = special.log_softmax(np.asarray(logits, np.float64), axis=-1)
    labels = np.asarray(labels).astype(int)
    return _mean(-np.take_along_axis(log_p, labels[:, None], -1)[:, 0], weights)


def ece(logits, labels, weights=None, bins: int = BINS) -> float:
    """Expected calibration error: Σ_b |B_b| / N · |accuracy(B_b) − confidence(B_b)|.

    Confidence is the largest softmax probability; B_b are `bins` intervals of equal
    width (0, 1/bins], (1/bins, 2/bins], … NaN where a logit is not finite.

    References:
      Guo, Pleiss, Sun, Weinberger, On Calibration of Modern Neural Networks, ICML
      2017, eq. 3 (15 bins).
    """
    p = special.softmax(np.asarray(logits, np.float64), axis=-1)
    if not np.isfinite(p).all():
        return float("nan")
    confidence = p.max(-1)
    gap = (p.argmax(-1) == np.asarray(labels)) - confidence
    weights = _weights(weights, len(gap))
    gaps = np.bincount(_bins(confidence, bins), weights * gap, minlength=bins)
    return float(np.abs(gaps).sum() / weights.sum())


def _bins(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Returns which of the intervals (0, 1/bins], (1/bins, 2/bins], … holds each."""
    return np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)


def brier(logits, labels, weights=None) -> float:
    """Brier score: Σ_c (p_c − [c is the label])², the sum over classes, in [0, 2].

    References:
      Brier, Verification of Forecasts Expressed in Terms of Probability, 1950, eq. 2.
    """
    p = special.softmax(np.asarray(logits, np.float64), axis=-1)
    truth = np.eye(p.shape[-1])[np.asarray(labels).astype(int)]
    return _mean(np.square(p - truth).sum(-1), weights)


def _outputs(logits, labels) -> tuple[np.ndarray, np.ndarray]:
    """Returns both as (N, outputs) in float64; (N,) is one output."""
    pair = [np.asarray(a, np.float64) for a in (logits, labels)]
    a, b = (x.reshape(len(x), -1) for x in pair)
    if a.shape != b.shape:
        raise UserError(
            f"labels have the shape {np.shape(labels)}, and the model's outputs "
            f"{np.shape(logits)}; they must agree."
        )
    return a, b


def label_accuracy(logits, labels, weights=None) -> float:
    """Share of right yes/no answers over all labels (1 − Hamming loss); (N, L) each."""
    logits, labels = _outputs(logits, labels)
    return _mean(((logits > 0) == (labels > 0.5)).mean(-1), weights)


def exact_match(logits, labels, weights=None) -> float:
    """Share of examples with every label right ("subset accuracy")."""
    logits, labels = _outputs(logits, labels)
    return _mean(((logits > 0) == (labels > 0.5)).all(-1), weights)


def label_macro_f1(logits, labels, weights=None) -> float:
    """Mean over labels of F1; 0 for a label neither present nor predicted."""
    logits, labels = _outputs(logits, labels)
    yes, true = logits > 0, labels > 0.5
    weights = _weights(weights, len(yes))[:, None]
    both = (weights * yes).sum(0) + (weights * true).sum(0)
    hits = 2 * (weights * (yes & true)).sum(0)
    return float(np.mean(np.where(both > 0, hits / np.where(both > 0, both, 1), 0.0)))


def label_nll(logits, labels, weights=None) -> float:
    """Binary cross-entropy in nats, mean over examples and labels."""
    logits, labels = _outputs(logits, labels)
    return _mean((np.logaddexp(0, logits) - labels * logits).mean(-1), weights)


def mse(outputs, targets, weights=None) -> float:
    """Squared error, mean over examples and outputs, without ½."""
    outputs, targets = _outputs(outputs, targets)
    return _mean(np.square(outputs - targets).mean(-1), weights)


def mae(outputs, targets, weights=None) -> float:
    """Absolute error, mean over examples and outputs."""
    outputs, targets = _outputs(outputs, targets)
    return _mean(np.abs(outputs - targets).mean(-1), weights)


def r2(outputs, targets, weights=None) -> float:
    """Coefficient of determination 1 − SS_res / SS_tot, mean over outputs.

    For an output whose target never changes it is 1 if the residuals are 0, else 0.
    """
    outputs, targets = _outputs(outputs, targets)
    weights = _weights(weights, len(targets))[:, None]
    centre = (weights * targets).sum(0) / weights.sum()
    residual = (weights * np.square(outputs - targets)).sum(0)
    total = (weights * np.square(targets - centre)).sum(0)
    # By extremes: rounding leaves a constant with a variance of about 1e-33.
    varies = np.ptp(targets[weights[:, 0] > 0], axis=0) > 0
    share = residual / np.where(varies, total, 1.0)
    flat = np.where(residual > 0, 0.0, 1.0)
    return float(np.mean(np.where(varies, 1.0 - share, flat)))


def token_nll(sums, labels=None, weights=None) -> float:
    """Mean negative log-likelihood per predicted token in nats.

    Args:
      sums: (N, 3) per example: −Σ log p, hits, predicted tokens (losses.next_token).
      labels: not used.
      weights: (N,), as everywhere.
    """
    total = _weights(weights, len(sums)) @ np.asarray(sums, np.float64)
    return float(total[0] / total[2])


def perplexity(sums, labels=None, weights=None) -> float:
    """exp of `token_nll`: per token of the model's own vocabulary."""
    return float(np.exp(token_nll(sums, labels, weights)))


def token_accuracy(sums, labels=None, weights=None) -> float:
    """Share of predicted tokens that the most likely prediction gets right."""
    total = _weights(weights, len(sums)) @ np.asarray(sums, np.float64)
    return float(total[1] / total[2])


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
}
# What chooses without the target's labels (criteria.py), and whether more is better.
CRITERIA = {
    "source_accuracy": True,
    "source_mse": False,
    "iwv": False,
    "dev": False,
    "entropy": False,
    "snd": True,
    "bnm": True,
}
_HIGHER = {
    **dict.fromkeys(("accuracy", "balanced_accuracy", "macro_f1"), True),
    **dict.fromkeys(("exact_match", "r2"), True),
    **dict.fromkeys(("nll", "ece", "mse", "mae", "loss", "perplexity"), False),
    "brier": False,
    **CRITERIA,
}


def compute(task: str, logits, labels, weights=None) -> dict[str, float]:
    """Returns every metric of the task by name.

    Args:
      task: "classification", "multilabel" or "regression".
      logits: (N, outputs), before the output activation; for language the sums of
        `losses.metric_inputs`.
      labels: (N,) classes, or (N, outputs) zeros and ones, or (N, outputs) targets.
      weights: (N,), 0 for padding; all ones if left out.

    Raises:
      UserError: for an unknown task, or where no example has a weight above 0.
    """
    if task not in METRICS:
        raise UserError(
            f"task={task!r} is unknown{nearest(task, METRICS)} "
            f"(known: {', '.join(METRICS)})."
        )
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    weights = _weights(weights, len(logits))
    # Padding goes first: a padded row may hold anything, NaN or a label of -1.
    rows = weights > 0
    if not rows.any():
        raise UserError("metrics need at least one example with a weight above 0.")
    logits, labels, weights = logits[rows], labels[rows], weights[rows]
    # A model that blows up gives infinities; the metrics then say NaN, which is enough.
    with np.errstate(invalid="ignore", over="ignore"):
        return {n: fn(logits, labels, weights) for n, fn in METRICS[task].items()}


def details(task: str, logits, labels, names=(), most: int = 100) -> dict:
    """Returns what plots show of a classifier, as JSON; {} for other tasks.

    Args:
      task: as for `compute`.
      logits: (N, outputs).
      labels: (N,).
      names: of the classes.
      most: classes; {} for more.

    Returns:
      {"classes", "confusion": counts, rows true and columns predicted, "reliability":
      {"count", "confidence", "accuracy"} of equally wide bins of the confidence, means
      None where a bin is empty}.
    """
    logits = np.asarray(logits, np.float64)
    finite = np.isfinite(logits).all()
    if task != "classification" or logits.shape[1] > most or not finite:
        return {}
    correct = logits.argmax(-1) == labels
    confidence = special.softmax(logits, -1).max(-1)
    at = _bins(confidence, BINS)
    count = np.bincount(at, minlength=BINS)

    def means(values):
        sums = np.bincount(at, values, minlength=BINS)
        return [float(a / n) if n else None for a, n in zip(sums, count)]

    classes = [str(name) for name in names] or list(map(str, range(logits.shape[1])))
    return {
        "classes": classes,
        "confusion": confusion(logits, labels).astype(int).tolist(),
        "reliability": {
            "count": count.tolist(),
            "confidence": means(confidence),
            "accuracy": means(correct),
        },
    }


def higher_is_better(name: str) -> bool:
    """Returns whether larger values of a metric are better ("val/nll" is "nll")."""
    base = name.rsplit("/", 1)[-1]
    if base not in _HIGHER:
        raise UserError(
            f"the metric {name!r} is unknown{nearest(base, _HIGHER)} "
            f"(known: {', '.join(_HIGHER)})."
        )
    return _HIGHER[base]


def beats(name: str, value: float, known: float | None) -> bool:
    """Returns whether a later value of a metric takes the place of the best so far.

    A NaN beats nothing, and everything beats a NaN. Of equal values the first stays;
    but the last of a criterion that sees no target label: on a few rows of the source,
    accuracy soon stands at its top, and what is learnt of the target comes after.
    """
    if known is None or np.isnan(known):
        return True
    sign = 1 if higher_is_better(name) else -1
    if name in CRITERIA and value == known:
        return True
    return sign * value > sign * known


def main(task: str) -> str:
    """Returns the metric that runs of a task are chosen by unless told otherwise."""
    return next(iter(METRICS[task]))


def monitored(found: dict[str, float], name: str) -> float:
    """Returns a metric by name; UserError with the nearest where there is none."""
    if name not in found:
        raise UserError(
            f"monitor={name!r} is not a metric of this task{nearest(name, found)} "
            f"(metrics: {', '.join(found)})."
        )
    return found[name]
