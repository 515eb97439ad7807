"""Which values of a metric are better, and the order that follows."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.evaluation.metrics.retrieval import RECALLS

Directions = Mapping[str, bool]  # metric -> whether larger values are better
_NONE: Directions = {}


def is_finite_number(value: Any) -> bool:
    """Whether a value of result.json is a finite number; a bool is not.

    Args:
      value: of parsed JSON, of any type.

    Returns:
      False for NaN, infinities, bools, None and texts.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


# What metrics are called elsewhere -> their names here, the first that a task has.
_ABBREVIATIONS = {
    **dict.fromkeys(("acc", "top1", "acc1", "error"), ("accuracy",)),
    **dict.fromkeys(("bacc", "balanced", "uar"), ("balanced_accuracy",)),
    **dict.fromkeys(
        ("f1", "f1_macro", "f1_score", "fscore", "overall_f1"),
        ("macro_f1", "entity_f1", "answer_f1"),
    ),
    **dict.fromkeys(
        ("ce", "xent", "cross_entropy", "crossentropy", "log_loss", "logloss", "loss"),
        ("nll", "mse"),
    ),
    **dict.fromkeys(("calibration", "calibration_error"), ("ece",)),
    **dict.fromkeys(("rmse", "l2", "squared_error"), ("mse",)),
    **dict.fromkeys(("l1", "absolute_error"), ("mae",)),
    **dict.fromkeys(("r_squared", "rsquared", "r^2", "r²"), ("r2",)),
    **dict.fromkeys(("em", "exact", "subset_accuracy"), ("exact_match",)),
    **dict.fromkeys(("ppl",), ("perplexity",)),
    **dict.fromkeys(("recall", "mr", "rsum", "r@1", "recall@1"), ("mean_recall",)),
    **dict.fromkeys(("i2t", "i2t_r1", "i2t_r@1"), ("image_to_text_recall_at_1",)),
    **dict.fromkeys(("t2i", "t2i_r1", "t2i_r@1"), ("text_to_image_recall_at_1",)),
}
# Criteria that choose without labels of the target (see `validators`), and whether
# larger values are better.
CRITERIA = {
    "source_accuracy": True,
    "source_mse": False,
    "iwv": False,
    "dev": False,
    "entropy": False,
    "snd": True,
    "bnm": True,
}
_HIGHER_IS_BETTER = {
    **dict.fromkeys(("accuracy", "balanced_accuracy", "macro_f1"), True),
    **dict.fromkeys(("exact_match", "answer_f1", "r2", "mean_score"), True),
    **dict.fromkeys(("entity_f1", "entity_precision", "entity_recall"), True),
    **dict.fromkeys(("nll", "ece", "mse", "mae", "loss", "perplexity"), False),
    "brier": False,
    **dict.fromkeys(RECALLS, True),
    **CRITERIA,
}


def nearest_metric(name: str, options: Iterable[str]) -> str:
    """Suggests the metric that a misspelled name means, for an error message.

    Args:
      name: as the user wrote it; names that other libraries use ("f1", "log_loss") and
        abbreviations count.
      options: the metrics that there are.

    Returns:
      "; did you mean 'x'?", or "" where none is close; as of `errors.nearest`.
    """
    names = list(options)
    for meant in _ABBREVIATIONS.get(name.lower().replace("-", "_"), ()):
        if meant in names:
            return nearest(meant, names)
    return nearest(name, names)


def higher_is_better(name: str, directions: Directions = _NONE) -> bool:
    """Whether larger values of a metric are better.

    Args:
      name: of the metric or criterion; "val/nll" is read as "nll", and "f1[cat]", the
        value of one class, as "f1".
      directions: of the experiment's own metrics.

    Returns:
      False for losses, errors and label-free criteria that are minimized.

    Raises:
      UserError: for an unknown metric.
    """
    known = {**_HIGHER_IS_BETTER, **directions}
    for base in (name, name.split("[")[0], name.split("[")[0].rsplit("/", 1)[-1]):
        if base in known:
            return known[base]
    raise UserError(
        f"the metric {name!r} is unknown"
        f"{nearest_metric(name.rsplit('/', 1)[-1], known)} "
        f"(metrics: {', '.join(known)})."
    )


def beats(
    name: str, value: float, best: float | None, directions: Directions = _NONE
) -> bool:
    """Whether a later value of a metric replaces the best so far.

    A NaN replaces nothing, and everything replaces a NaN. Of equal values the first is
    kept, but the last of a label-free criterion: on a few rows of the source, accuracy
    soon is at its maximum, and the model learns of the target after that.

    Args:
      name: of the metric or criterion.
      value: the later value.
      best: the best value so far, None without one.
      directions: of the experiment's own metrics.

    Returns:
      True where `value` is to be kept.
    """
    if best is None or np.isnan(best):
        return True
    if name in CRITERIA and value == best:
        return True
    return score(name, value, directions) > score(name, best, directions)


def score(name: str, value: float, directions: Directions = _NONE) -> float:
    """Gives a metric a sign by which larger is better, to rank by.

    Args:
      name: of the metric or criterion.
      value: its value, may be NaN.
      directions: of the experiment's own metrics.

    Returns:
      `value` or −`value`; −∞ for NaN, so that it comes last.

    Raises:
      UserError: for an unknown metric.
    """
    if np.isnan(value):
        return -math.inf
    return value if higher_is_better(name, directions) else -value


def monitored_value(values: Mapping[str, float], name: str) -> float:
    """Reads the value of the monitored metric.

    Args:
      values: metric -> value, of an evaluation.
      name: the metric, as in `Experiment.monitor`.

    Returns:
      The value, which may be NaN.

    Raises:
      UserError: `values` hold no metric of that name.
    """
    if name not in values:
        raise UserError(
            f"monitor={name!r} is not a metric of this task"
            f"{nearest_metric(name, values)} "
            f"(metrics: {', '.join(values)})."
        )
    return values[name]


def delta_m(
    several: Mapping[str, float],
    single: Mapping[str, float],
    directions: Directions = _NONE,
) -> float:
    """Δm, the mean change of several tasks against runs of each task alone, in %.

    The mean of (−1)^l (m − b) / |b| over the metrics, where l is 1 for a metric of
    which smaller values are better; above 0 the model of several tasks is better, also
    where b is negative, as an R² may be.

    Args:
      several: metric -> its value m in one model of all tasks, "accuracy[left]" say.
      single: the same metrics -> the value b of a model of one task.
      directions: of the experiment's own metrics.

    Returns:
      Δm in percent: −2 means 2 % worse on average than models of one task each.

    Raises:
      UserError: other metrics in both, none, or a value of 0 to divide by.

    References:
      Maninis, Radosavovic & Kokkinos, Attentive Single-Tasking of Multiple Tasks, CVPR
      2019, eq. 4.
    """
    if not several or set(several) != set(single):
        raise UserError(
            "delta_m compares the same metrics; got "
            f"{', '.join(several) or 'none'} and {', '.join(single) or 'none'}."
        )
    changes = []
    for name, base in single.items():
        if base == 0 or not math.isfinite(base):
            raise UserError(
                f"delta_m divides by the single task's {name}, which is {base}."
            )
        sign = 1 if higher_is_better(name, directions) else -1
        changes.append(100 * sign * (several[name] - base) / abs(base))
    return float(np.mean(changes))
