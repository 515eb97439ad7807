"""The cost of choosing checkpoints and settings without target labels."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl.evaluation import metrics
from jaxtl.evaluation.model_selection import oracle_warning
from jaxtl.results import settings as settings_lib
from jaxtl.results.axis_roles import AxisRoles
from jaxtl.results.labels import labels_key
from jaxtl.results.records import Record
from jaxtl.results.settings import Setting

LISTED = 6  # with more compared combinations only their mean is listed


def describe(results: Sequence[Mapping[str, Any]]) -> str:
    """Describes in one line what was chosen without labels, and what that cost.

    Args:
      results: as in result.json. Of several, the means of those with the first one's
        monitor are described.

    Returns:
      the line, "" where no run has an unlabelled target.
    """
    choices = [r["choosing"] for r in results if r.get("choosing")]
    if not choices:
        return ""
    first = choices[0]
    metric, monitor = first["metric"], first["monitor"]
    choices = [choice for choice in choices if choice["monitor"] == monitor]
    names = [n for n in first["criteria"] if all(n in c["criteria"] for c in choices)]
    costs = {n: _mean(c["criteria"][n]["cost"] for c in choices) for n in names}
    means = f", means of {len(choices)} runs" if len(choices) > 1 else ""
    other_costs = ", ".join(
        f"{name} {_points(metric, cost)}"
        for name, cost in sorted(costs.items(), key=lambda pair: pair[1])
        if name != monitor
    )
    if monitor not in costs:
        if monitor in metrics.CRITERIA:
            return ""  # the criterion was never finite
        start = oracle_warning(monitor) if monitor else "The last checkpoint was kept"
        unit = ", in points:" if metric == "accuracy" else ""
        cost = f"{unit} {other_costs}{means}"
        return f"{start}. Choosing without labels would have cost{cost}."
    value = _mean(c["criteria"][monitor]["value"] for c in choices)
    best = _mean(c["oracle"]["value"] for c in choices)
    step = "" if means else f" (step {first['oracle']['step']})"
    return (
        f"{monitor} chose without target labels{means}: val {metric} "
        f"{_value(metric, value)}, best of all checkpoints {_value(metric, best)}"
        f"{step}; not knowing cost {_points(metric, costs[monitor])}"
        f"{' points' if metric == 'accuracy' else ''} "
        f"(other criteria: {other_costs})."
    )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _value(metric: str, value: float) -> str:
    return f"{100 * value:.1f} %" if metric == "accuracy" else f"{value:.4g}"


def _points(metric: str, value: float) -> str:
    return f"{100 * value:.1f}" if metric == "accuracy" else f"{value:.4g}"


class CriterionChoice(NamedTuple):
    """A criterion's choice among the settings of a sweep and their checkpoints.

    Attributes:
      compared: axis -> value, of the settings that it chooses from; {} for the mean
        over all combinations of compared values.
      criterion: its name.
      tuned: axis -> value, of the chosen setting; {} for the mean.
      metric: of the values.
      value: of the choice, on the target's val split, mean over seeds.
      oracle: of the best setting and the best checkpoints.
      cost: the difference between them.
      used: whether the runs' checkpoints were chosen by this criterion.
    """

    compared: Mapping[str, Any]
    criterion: str
    tuned: Mapping[str, Any]
    metric: str
    value: float
    oracle: float
    cost: float
    used: bool


def criterion_choices(
    settings: Sequence[Setting], roles: AxisRoles
) -> tuple[CriterionChoice, ...]:
    """Makes each criterion's choice for each combination of compared values.

    Candidates are the settings with the most finished seeds, as in `choose_settings`.

    Returns:
      the means over all combinations, where there are several, and the choices of each
      of up to LISTED combinations.
    """
    groups: dict[tuple, list[Setting]] = {}
    for setting in settings:
        key = labels_key(setting.labels, roles.compared)
        groups.setdefault(key, []).append(setting)
    directions = settings_lib.directions(
        record.result for setting in settings for record in setting.done
    )
    choices = [
        choice
        for members in groups.values()
        for choice in _choices(members, roles, directions)
    ]
    by_criterion: dict[str, list[CriterionChoice]] = {}
    for choice in choices:
        by_criterion.setdefault(choice.criterion, []).append(choice)
    count = max(map(len, by_criterion.values()), default=0)
    if count < 2:
        return tuple(choices)
    means = [_mean_choice(members) for members in by_criterion.values()]
    return (*means, *(choices if count <= LISTED else ()))


def _mean_choice(choices: Sequence[CriterionChoice]) -> CriterionChoice:
    means = {
        name: _mean(getattr(choice, name) for choice in choices)
        for name in ("value", "oracle", "cost")
    }
    return choices[0]._replace(compared={}, tuned={}, **means)


def _choosing(record: Record) -> Mapping[str, Any] | None:
    """The choices of the criteria in a run; None or {} for a labelled target."""
    return record.result.get("choosing")


def _choices(
    members: Sequence[Setting], roles: AxisRoles, directions: Mapping[str, bool]
) -> list[CriterionChoice]:
    """Makes each criterion's choice among settings of the same compared values."""
    runs = [
        (setting, [run for run in map(_choosing, setting.done) if run])
        for setting in members
    ]
    most = max((len(part) for _, part in runs), default=0)
    candidates = [(s, part) for s, part in runs if part and len(part) == most]
    if not candidates:
        return []
    first = candidates[0][1][0]
    pick = max if metrics.higher_is_better(first["metric"]) else min
    best = pick(_mean(run["oracle"]["value"] for run in part) for _, part in candidates)
    choices = (
        _choice(name, candidates, best, roles, directions) for name in first["criteria"]
    )
    return [choice for choice in choices if choice is not None]


def _choice(
    criterion: str,
    candidates: Sequence[tuple[Setting, list[Mapping[str, Any]]]],
    best: float,
    roles: AxisRoles,
    directions: Mapping[str, bool],
) -> CriterionChoice | None:
    """Makes a criterion's choice; None where no candidate has it in all runs.

    Args:
      criterion: its name.
      candidates: (setting, "choosing" of the results of its runs).
      best: mean metric of the best setting and the best checkpoints.
      roles: of the axes.
      directions: of the experiments' own metrics.
    """
    scored = [
        (_mean(run["criteria"][criterion]["score"] for run in runs), setting, runs)
        for setting, runs in candidates
        if all(criterion in run["criteria"] for run in runs)
    ]
    if not scored:
        return None
    pick = max if metrics.higher_is_better(criterion, directions) else min
    _, setting, runs = pick(scored, key=lambda candidate: candidate[0])
    value = _mean(run["criteria"][criterion]["value"] for run in runs)
    labels = setting.labels
    return CriterionChoice(
        compared={n: labels[n] for n in roles.compared if n in labels},
        criterion=criterion,
        tuned={n: labels[n] for n in roles.tuned if n in labels},
        metric=candidates[0][1][0]["metric"],
        value=value,
        oracle=best,
        cost=abs(best - value),
        used=runs[0]["monitor"] == criterion,
    )
