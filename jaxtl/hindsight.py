"""What not knowing the target's labels costs: each criterion's choice and the oracle's.

Looked at afterwards, when nothing can be chosen any more: what the best checkpoint, or
setting, by each criterion reaches on the labels of the target's val split, and what the
best of all reaches there. Labels of test are not used.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl import metrics, settings
from jaxtl.choosing import oracle

LISTED = 6  # compared lines that a table lists one by one


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
        if settings.finite(row.get(name)) and (
            best is None or metrics.beats(name, row[name], best[name])
        ):
            best = row
    return best


def sentence(results: Sequence[Mapping[str, Any]]) -> str:
    """Returns one line on what was chosen without labels and what that cost.

    Of several runs, the means of those with the first one's monitor; "" where none has
    an unlabelled target.
    """
    known = [r["choosing"] for r in results if r.get("choosing")]
    if not known:
        return ""
    first, metric = known[0], known[0]["metric"]
    known = [k for k in known if k["monitor"] == first["monitor"]]
    best = _mean(k["oracle"]["value"] for k in known)
    names = [n for n in first["criteria"] if all(n in k["criteria"] for k in known)]
    costs = {n: _mean(k["criteria"][n]["cost"] for k in known) for n in names}
    monitor = first["monitor"]
    many = f", means of {len(known)} runs" if len(known) > 1 else ""
    told = ", ".join(
        f"{name} {_plain(metric, cost)}"
        for name, cost in sorted(costs.items(), key=lambda pair: pair[1])
        if name != monitor
    )
    if monitor in metrics.CRITERIA and monitor not in costs:
        return ""  # it was never a number
    if monitor not in costs:
        start = oracle(monitor) if monitor else "The last checkpoint was kept"
        cost = f"{_unit(metric)} {told}{many}"
        return f"{start}. Choosing without labels would have cost{cost}."
    value = _mean(k["criteria"][monitor]["value"] for k in known)
    where = "" if many else f" (step {first['oracle']['step']})"
    return (
        f"{monitor} chose without target labels{many}: val {metric} "
        f"{_value(metric, value)}, best of all checkpoints {_value(metric, best)}"
        f"{where}; not knowing cost {_plain(metric, costs[monitor])}"
        f"{' points' if metric == 'accuracy' else ''} "
        f"(other criteria: {told})."
    )


def _mean(values) -> float:
    return float(np.mean(list(values)))


def _value(metric: str, value: float) -> str:
    return f"{100 * value:.1f} %" if metric == "accuracy" else f"{value:.4g}"


def _plain(metric: str, value: float) -> str:
    return f"{100 * value:.1f}" if metric == "accuracy" else f"{value:.4g}"


def _unit(metric: str) -> str:
    return ", in points:" if metric == "accuracy" else ""


class Choice(NamedTuple):
    """What a criterion chooses among a sweep's settings, checkpoints included.

    Attributes:
      compared: axis -> value, of the line within which is chosen; {} for the mean of
        all lines.
      criterion: its name.
      tuned: axis -> value, of the chosen setting; {} where that is several.
      metric: of the values.
      value: on the target's val split, mean over seeds.
      oracle: of the best setting and the best checkpoints.
      cost: what the value misses it by.
      used: whether this criterion chose the runs' checkpoints.
    """

    compared: Mapping[str, Any]
    criterion: str
    tuned: Mapping[str, Any]
    metric: str
    value: float
    oracle: float
    cost: float
    used: bool


def of_settings(groups, division: settings.Division) -> tuple[Choice, ...]:
    """Returns each criterion's choice among the settings of each line, and the means.

    As everywhere, candidates are the settings with the most finished seeds.
    """
    lines: dict[tuple, list] = {}
    for group in groups:
        lines.setdefault(settings.key(group.labels, division.compared), []).append(
            group
        )
    found = [row for members in lines.values() for row in _line(members, division)]
    each = {row.criterion: [] for row in found}
    for row in found:
        each[row.criterion].append(row)
    count = max(map(len, each.values()), default=0)
    if count < 2:
        return tuple(found)
    means = [
        rows[0]._replace(
            compared={},
            tuned={},
            **{
                k: _mean(getattr(r, k) for r in rows)
                for k in ("value", "oracle", "cost")
            },
        )
        for rows in each.values()
    ]
    return (*means, *(found if count <= LISTED else ()))


def _line(members, division) -> list[Choice]:
    known = [
        (g, [r.result["choosing"] for r in g.done if r.result.get("choosing")])
        for g in members
    ]
    most = max((len(runs) for _, runs in known), default=0)
    known = [(group, runs) for group, runs in known if runs and len(runs) == most]
    if not known:
        return []
    metric = known[0][1][0]["metric"]
    best = (max if metrics.higher_is_better(metric) else min)(
        _mean(run["oracle"]["value"] for run in runs) for _, runs in known
    )
    found = []
    for name in known[0][1][0]["criteria"]:
        scored = [
            (_mean(run["criteria"][name]["score"] for run in runs), group, runs)
            for group, runs in known
            if all(name in run["criteria"] for run in runs)
        ]
        if not scored:
            continue
        pick = max if metrics.higher_is_better(name) else min
        _, group, runs = pick(scored, key=lambda one: one[0])
        value = _mean(run["criteria"][name]["value"] for run in runs)
        labels = group.labels
        found.append(
            Choice(
                compared={n: labels[n] for n in division.compared if n in labels},
                criterion=name,
                tuned={n: labels[n] for n in division.tuned if n in labels},
                metric=metric,
                value=value,
                oracle=best,
                cost=abs(best - value),
                used=runs[0]["monitor"] == name,
            )
        )
    return found
