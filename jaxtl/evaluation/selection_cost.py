"""The cost of choosing a run's checkpoint without target labels."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtl.evaluation import metrics

_NONE: Mapping[str, bool] = {}


def cost_of_criteria(
    curve: Sequence[Mapping[str, float]],
    monitor: str | None,
    task: str,
    label_free: Mapping[str, bool] = _NONE,
) -> dict[str, Any]:
    """Computes what each criterion would have chosen among a run's evaluations.

    Args:
      curve: {"step": …, metric or criterion: …} of each evaluation on val, in order.
      monitor: the metric or criterion that did choose.
      task: of the target.
      label_free: metrics of the experiment that read no label -> whether larger values
        are better.

    Returns:
      {"metric", "monitor", "oracle": {"step", "value"}, "criteria": {name: {"step",
      "score" of the criterion, "value" of the metric on val, "cost"}}}; the cost is the
      difference between the value and the oracle's, at least 0. {} without criteria.
    """
    names = (*metrics.CRITERIA, *label_free)
    criteria = [name for name in names if any(name in row for row in curve)]
    if not criteria:
        return {}
    metric = metrics.main_metric(task)
    oracle = _best(curve, metric, label_free)
    if oracle is None:
        return {}
    costs = {}
    for name in criteria:
        row = _best(curve, name, label_free)
        if row is not None and metric in row:
            costs[name] = {
                "step": row["step"],
                "score": row[name],
                "value": row[metric],
                "cost": abs(oracle[metric] - row[metric]),
            }
    return {
        "metric": metric,
        "monitor": monitor,
        "oracle": {"step": oracle["step"], "value": oracle[metric]},
        "criteria": costs,
    }


def _best(
    curve: Sequence[Mapping[str, float]], name: str, directions: Mapping[str, bool]
) -> Mapping[str, float] | None:
    """The evaluation whose checkpoint a run would keep by a metric or criterion."""
    best = None
    for row in curve:
        if metrics.is_finite_number(row.get(name)) and (
            best is None or metrics.beats(name, row[name], best[name], directions)
        ):
            best = row
    return best
