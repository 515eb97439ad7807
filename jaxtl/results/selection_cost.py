"""The cost of choosing among settings without target labels."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl.evaluation import metrics
from jaxtl.evaluation.model_selection import oracle_warning
from jaxtl.results import settings

LISTED = 6  # compared lines that a table lists one by one


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
        start = oracle_warning(monitor) if monitor else "The last checkpoint was kept"
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


class CriterionChoice(NamedTuple):
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


def of_settings(groups, division: settings.Division) -> tuple[CriterionChoice, ...]:
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


def _line(members, division) -> list[CriterionChoice]:
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
            CriterionChoice(
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
