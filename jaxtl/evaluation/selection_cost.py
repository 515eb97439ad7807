"""The cost of choosing one run without target labels."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtl.evaluation import metrics


def of_run(
    curve: Sequence[Mapping[str, float]], monitor: str | None, task: str
) -> dict[str, Any]:
    """Returns what each criterion would have chosen of one run's evaluations.

    Args:
      curve: {"step": …, metric or criterion: …} of each evaluation on val, in order.
      monitor: what did choose.
      task: of the target.

    Returns:
      {"metric", "monitor", "oracle": {"step", "value"}, "criteria": {name: {"step",
      "score" of the criterion, "value" of the metric on val, "cost"}}}; cost is what
      the value misses the oracle's by, at least 0. {} without criteria.
    """
    there = [name for name in metrics.CRITERIA if any(name in row for row in curve)]
    if not there:
        return {}
    metric = metrics.main(task)
    best = _best(curve, metric)
    if best is None:
        return {}
    found = {}
    for name in there:
        row = _best(curve, name)
        if row is not None and metric in row:
            cost = abs(best[metric] - row[metric])
            found[name] = {
                "step": row["step"],
                "score": row[name],
                "value": row[metric],
                "cost": cost,
            }
    return {
        "metric": metric,
        "monitor": monitor,
        "oracle": {"step": best["step"], "value": best[metric]},
        "criteria": found,
    }


def _best(curve, name: str) -> Mapping[str, float] | None:
    """Returns the row whose checkpoint a run would keep."""
    best = None
    for row in curve:
        if metrics.is_finite_number(row.get(name)) and (
            best is None or metrics.beats(name, row[name], best[name])
        ):
            best = row
    return best
