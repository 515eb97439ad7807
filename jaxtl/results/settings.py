"""Settings: the records that differ by their seed only, and the choice among them."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxtl.core.errors import UserError
from jaxtl.evaluation.metrics import CRITERIA, is_finite_number, nearest_metric
from jaxtl.results import database
from jaxtl.results.axis_roles import SEED, AxisRoles
from jaxtl.results.labels import labels_key
from jaxtl.results.records import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """The records that agree on all axes but the seed.

    Attributes:
      labels: axis -> value, without "seed".
      records: one per seed, finished or not.
    """

    labels: Mapping[str, Any]
    records: tuple[Record, ...]

    @property
    def done(self) -> tuple[Record, ...]:
        """The records of finished runs."""
        return tuple(r for r in self.records if r.status == database.DONE)

    def values(self, split: str, metric: str) -> dict[Any, float]:
        """Returns seed -> value of the finished runs that have a finite one."""
        values = {seed_of(r): r.value(split, metric) for r in self.done}
        return {s: float(v) for s, v in values.items() if is_finite_number(v)}

    def raw_values(self, split: str, metric: str) -> list[float]:
        """Returns the values of the finished runs that measured it, NaN included."""
        values = [r.value(split, metric) for r in self.done]
        return [v for v in values if v is not None]

    def mean(self, name: str) -> float | None:
        """Returns the mean of a number of result.json over the finished runs."""
        values = [r.result.get(name) for r in self.done]
        values = [v for v in values if is_finite_number(v)]
        return sum(values) / len(values) if values else None

    def count(self, *statuses: str) -> int:
        """Returns how many records have one of some statuses."""
        return sum(r.status in statuses for r in self.records)


def seed_of(record: Record) -> Any:
    """The seed of a record, None where it has none."""
    return record.labels.get(SEED, record.result.get(SEED))


def without_seed(labels: Mapping[str, Any]) -> dict[str, Any]:
    """The labels of a cell without its seed."""
    return {name: value for name, value in labels.items() if name != SEED}


def group_by_setting(records: Iterable[Record]) -> list[Setting]:
    """Groups records over their seeds, in the order of the first record of each.

    Damaged records are left out.
    """
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        if record.status != database.DAMAGED:
            key = labels_key(without_seed(record.labels))
            groups.setdefault(key, []).append(record)
    return [
        Setting(labels=without_seed(group[0].labels), records=tuple(group))
        for group in groups.values()
    ]


def metric_names(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """The metrics that some results have on val or test."""
    splits = [r.get(split) or () for r in results for split in ("val", "test")]
    return list(dict.fromkeys(name for metrics in splits for name in metrics))


def check_metric(results: Iterable[Mapping[str, Any]], name: str) -> None:
    """Raises UserError for a metric that none of some results has on val or test."""
    names = metric_names(results)
    if name not in names:
        raise UserError(
            f"no run has the metric {name!r}{nearest_metric(name, names)} "
            f"(metrics: {', '.join(names) or 'none'})."
        )


def directions(results: Iterable[Mapping[str, Any]]) -> dict[str, bool]:
    """Metrics that experiments added -> whether larger values are better.

    Raises:
      UserError: two results disagree.
    """
    merged: dict[str, bool] = {}
    for result in results:
        for name, higher in (result.get("higher_is_better") or {}).items():
            if merged.setdefault(name, higher) != higher:
                raise UserError(
                    f"larger values of the metric {name!r} are better in some of the "
                    "runs and worse in others, so they can't stand in one table; "
                    "report them one at a time."
                )
    return merged


def criteria_names(results: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Names of what chooses without target labels: also metrics of the experiments."""
    added = ((r.get("choosing") or {}).get("criteria", ()) for r in results)
    return frozenset(CRITERIA).union(*added)


def main_metric(results: Sequence[Mapping[str, Any]]) -> str | None:
    """The metric that runs were chosen by, else their first; None without any.

    A criterion that chooses without target labels is no result, so it is passed over.
    """
    names, criteria = metric_names(results), criteria_names(results)
    monitors = [r["monitor"].rsplit("/", 1)[-1] for r in results if r.get("monitor")]
    candidates = (*(m for m in monitors if m not in criteria), *names)
    return next((m for m in candidates if m in names), None)


@dataclasses.dataclass(frozen=True)
class SettingChoice:
    """The setting that was chosen on val among those that share the compared values.

    Attributes:
      setting: the chosen one.
      candidates: number of settings that it was chosen from, itself included.
      partial: number of settings that were no candidates, as they have fewer finished
        seeds.
      rival: the best of the partial ones, where its mean is better than the chosen
        one's.
    """

    setting: Setting
    candidates: int = 1
    partial: int = 0
    rival: Setting | None = None


def choose_settings(
    settings: Sequence[Setting],
    roles: AxisRoles,
    metric: str,
    higher: bool,
    fallback: tuple[str, bool] | None = None,
) -> list[SettingChoice]:
    """Chooses the setting of the best mean val metric for each compared combination.

    Candidates are the settings with the most finished seeds: a mean over the seeds that
    happened to finish is not comparable. Where no setting has the metric on val, all
    settings are kept.

    Args:
      settings: all settings.
      roles: of the axes.
      metric: what to choose by.
      higher: whether larger values of it are better.
      fallback: another metric and its direction, for combinations of which no setting
        has the first.
    """
    groups: dict[tuple, list[Setting]] = {}
    for setting in settings:
        key = labels_key(setting.labels, roles.compared)
        groups.setdefault(key, []).append(setting)
    choices = []
    for members in groups.values():
        choice = _best(members, metric, higher)
        if choice is None and fallback is not None:
            choice = _best(members, *fallback)
        if choice is None:
            usable = [s for s in members if s.done or len(members) == 1]
            choices += [SettingChoice(setting) for setting in usable]
        else:
            choices.append(choice)
    return choices


def _best(
    members: Sequence[Setting], metric: str, higher: bool
) -> SettingChoice | None:
    """Chooses among settings; None where none of them has the metric on val."""
    values = [(s, list(s.values("val", metric).values())) for s in members]
    most = max(len(v) for _, v in values)
    means = [(s, sum(v) / len(v)) for s, v in values if v and len(v) == most]
    partial = [(s, sum(v) / len(v)) for s, v in values if v and len(v) < most]
    if not means:
        return None
    pick = max if higher else min
    best, mean = pick(means, key=lambda pair: pair[1])
    rival = None
    if partial:
        candidate, value = pick(partial, key=lambda pair: pair[1])
        rival = candidate if pick(value, mean) != mean else None
    return SettingChoice(best, len(means), len(members) - len(means), rival)
