"""Settings of a sweep: its records without the seed, and which are chosen on val."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxtl.core.errors import UserError, nearest
from jaxtl.evaluation.metrics import CRITERIA, is_finite_number
from jaxtl.results import database
from jaxtl.results.records import Collection, Record

SEED = "seed"
METHODS = ("method", "run", "variant")  # axes whose values are ways to train
TUNED = ("optim", "terms", "peft", "average")  # parts of an experiment that are tuned
BASELINE = "baseline:"  # how methods that train no network begin


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """The records of all axes' values but the seed's.

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
        found = {seed(r): r.value(split, metric) for r in self.done}
        return {s: float(v) for s, v in found.items() if is_finite_number(v)}

    def raw_values(self, split: str, metric: str) -> list[float]:
        """Returns the values of the finished runs that measured it, NaN included."""
        values = [r.value(split, metric) for r in self.done]
        return [v for v in values if v is not None]

    def mean(self, name: str) -> float | None:
        """Returns the mean of a number of result.json over the finished runs."""
        found = [r.result.get(name) for r in self.done]
        found = [v for v in found if is_finite_number(v)]
        return sum(found) / len(found) if found else None

    def count(self, *statuses: str) -> int:
        """Returns how many records are of one of some statuses."""
        return sum(r.status in statuses for r in self.records)


def metric_names(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the metrics that some results have on val or test."""
    splits = [r.get(split) or () for r in results for split in ("val", "test")]
    return list(dict.fromkeys(name for metrics in splits for name in metrics))


def main_metric(results: Sequence[Mapping[str, Any]]) -> str | None:
    """Returns the metric that runs were chosen by, else their first; None without any.

    A criterion that chooses without target labels is no result, so it is passed over.
    """
    names = metric_names(results)
    monitors = [r["monitor"].rsplit("/", 1)[-1] for r in results if r.get("monitor")]
    candidates = (*(m for m in monitors if m not in CRITERIA), *names)
    return next((m for m in candidates if m in names), None)


def seed(record: Record) -> Any:
    """Returns the seed of a record, None where it has none."""
    return record.labels.get(SEED, record.result.get(SEED))


def group(records: Iterable[Record]) -> list[Setting]:
    """Returns the settings in the order of their first record; damaged rows in none."""
    found: dict[tuple, list[Record]] = {}
    for record in records:
        if record.status != database.DAMAGED:
            found.setdefault(key(without_seed(record.labels)), []).append(record)
    return [
        Setting(labels=without_seed(group[0].labels), records=tuple(group))
        for group in found.values()
    ]


def without_seed(labels: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the labels of a setting."""
    return {name: value for name, value in labels.items() if name != SEED}


def key(labels: Mapping[str, Any], axes: Iterable[str] | None = None) -> tuple:
    """Returns what tells labels apart, on some axes or on all of them."""
    names = sorted(labels) if axes is None else axes
    return tuple((n, json.dumps(labels[n])) for n in names if n in labels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Division:
    """What the axes of a sweep are for.

    Attributes:
      compared: a line of the main table for each combination of their values.
      tuned: chosen on validation within such a line.
      fixed: axis -> its only value.
      method: the compared axis whose values are ways to train, None without.
    """

    compared: tuple[str, ...]
    tuned: tuple[str, ...]
    fixed: Mapping[str, Any]
    method: str | None


def divide(
    axes: Mapping[str, Sequence], compare: Sequence[str] | None = None
) -> Division:
    """Divides axes into compared ones and tuned ones.

    Numbers below optim, terms, peft and average are tuned, every other axis compared,
    unless `compare` names the axes to be compared; then the others are tuned.

    Args:
      axes: axis -> values; axes of one value belong to neither.
      compare: names, in full or from any dot on ("weight" for "terms.l2sp.weight").

    Raises:
      UserError: for an axis that does not exist.
    """
    axes = {name: values for name, values in axes.items() if name != SEED}
    varied = [name for name, values in axes.items() if len(values) > 1]
    if compare is None:
        tuned = [name for name in varied if is_tuned(name, axes[name])]
    else:
        chosen = [axis(name, axes) for name in compare]
        tuned = [name for name in varied if name not in chosen]
    compared = [name for name in varied if name not in tuned]
    fixed = {name: values[0] for name, values in axes.items() if name not in varied}
    if not compared:  # what is fixed names the only line
        compared = [name for name in METHODS if name in fixed][:1]
    named = [name for name in METHODS if name in compared]
    texts = [n for n in compared if any(isinstance(v, str) for v in axes[n])]
    return Division(
        compared=tuple(compared),
        tuned=tuple(tuned),
        fixed={n: v for n, v in fixed.items() if n not in compared},
        method=next(iter([*named, *texts]), None),
    )


def is_tuned(name: str, values: Iterable[Any]) -> bool:
    """Returns whether an axis is a numeric hyper-parameter."""
    numeric = all(
        value is None
        or (isinstance(value, int | float) and not isinstance(value, bool))
        for value in values
    )
    return numeric and any(part in TUNED for part in name.split("."))


def axis(name: str, axes: Iterable[str]) -> str:
    """Returns an axis by its name, or by its name from some dot on.

    Raises:
      UserError: for one that does not exist, or a name of several.
    """
    axes = list(axes)
    found = [a for a in axes if a == name] or [
        a for a in axes if a.endswith(f".{name}")
    ]
    if len(found) == 1:
        return found[0]
    known = ", ".join(found or axes)
    if found:
        raise UserError(f"the axis {name!r} is several: {known}; name it in full.")
    raise UserError(
        f"there is no axis {name!r}{nearest(name, axes)} (axes: {known or 'none'})."
    )


def matches(labels: Mapping[str, Any], selector: Mapping[str, str]) -> bool:
    """Returns whether labels have the values that texts stand for.

    "full" is the value "full" and, of runs named in folders, "mnist/full".
    """
    return all(
        name in labels and text in spellings(labels[name])
        for name, text in selector.items()
    )


def spellings(value: Any) -> tuple[str, ...]:
    """Returns the texts that a label's value is known by."""
    shown = text(value)
    return shown, shown.rsplit("/", 1)[-1].strip(), str(value)


def text(value: Any) -> str:
    """Returns a label's value as it is shown."""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def short(axis: str) -> str:
    """Returns an axis without its section: "l2sp.weight" of "terms.l2sp.weight"."""
    return axis.partition(".")[2] or axis


def listed(labels: Mapping[str, Any]) -> str:
    """Returns "lr=0.01, l2sp.weight=0.1"."""
    return ", ".join(f"{short(name)}={text(value)}" for name, value in labels.items())


def select(texts: Iterable[str], division: Division, axes: Mapping) -> dict[str, str]:
    """Parses "method=full" (or "full", of the method axis) into axis -> text.

    Raises:
      UserError: for an axis or a value that does not exist.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            name, value = division.method or "", text
        name = axis(name.strip(), division.compared + division.tuned)
        if name in division.tuned:
            raise UserError(
                f"{text!r} names an axis that is tuned on val; compare it instead: "
                f"--compare {' '.join((*division.compared, name))}"
            )
        value = value.strip()
        known = [spellings(v) for v in axes[name]]
        if not any(value in texts for texts in known):
            shown = [texts[0] for texts in known]
            raise UserError(
                f"{name} has no value {value!r}{nearest(value, shown)} "
                f"(values: {', '.join(shown[:20])})."
            )
        found[name] = value
    return found


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was chosen among the settings of one line.

    Attributes:
      setting: the chosen one.
      candidates: settings that it was chosen among, itself counted.
      partial: settings that were none since they have fewer finished seeds.
      rival: the best of those, where its mean is better than the chosen one's.
    """

    setting: Setting
    candidates: int = 1
    partial: int = 0
    rival: Setting | None = None


def choose(
    settings: Sequence[Setting],
    division: Division,
    metric: str,
    higher: bool,
    otherwise: tuple[str, bool] | None = None,
) -> list[Choice]:
    """Chooses the best setting by mean val metric for each compared combination.

    Candidates are those with the most finished seeds: a mean over the seeds that
    happened to end well is no fair rival. Without val all settings are kept. Where no
    setting of a combination has the metric, `otherwise` is (another, its direction).
    """
    groups: dict[tuple, list[Setting]] = {}
    for setting in settings:
        groups.setdefault(key(setting.labels, division.compared), []).append(setting)
    found = []
    for members in groups.values():
        means, partial = _candidates(members, metric)
        better = higher
        if not means and otherwise is not None:
            means, partial = _candidates(members, otherwise[0])
            better = otherwise[1]
        if not means:
            found += [Choice(s) for s in members if s.done or len(members) == 1]
            continue
        pick = max if better else min
        best, mean = pick(means, key=lambda pair: pair[1])
        rival = None
        if partial:
            other, value = pick(partial, key=lambda pair: pair[1])
            rival = other if pick(value, mean) != mean else None
        left = len(members) - len(means)
        found.append(Choice(best, len(means), left, rival))
    return found


def _candidates(members, metric: str) -> tuple[list, list]:
    """Returns (setting, mean val) of those with the most seeds, and of the others."""
    values = [(s, list(s.values("val", metric).values())) for s in members]
    most = max(len(v) for _, v in values)
    full = [(s, sum(v) / len(v)) for s, v in values if v and len(v) == most]
    partial = [(s, sum(v) / len(v)) for s, v in values if v and len(v) < most]
    return full, partial


def check_comparable(collection: Collection) -> None:
    """Sees to it that records of several folders may stand in one table.

    Raises:
      UserError: for two folders of which no records are of the same data and metrics.
    """
    kinds: dict[Any, dict[tuple, Record]] = {}
    for record in collection.records:
        if record.status == database.DONE:
            kinds.setdefault(record.folder, {}).setdefault(_kind(record), record)
    folders = list(kinds)
    for other in folders[1:]:
        apart = [
            difference(a, b)
            for a in kinds[folders[0]].values()
            for b in kinds[other].values()
        ]
        if all(apart):
            raise UserError(
                f"{folders[0]} and {other} can't stand in one table: {apart[0]}; "
                "report them one at a time."
            )


def _kind(record: Record) -> tuple:
    """Returns what a record was measured on and by."""
    metrics = record.result.get("test") or record.result.get("val") or {}
    examples = record.result.get("examples", {}).get("test")
    return record.data, tuple(sorted(metrics)), examples


def difference(ours: Record, theirs: Record) -> str:
    """Returns why two records can't be compared, "" where they can.

    What one of them does not say is taken to be the same.
    """
    (data, metrics, test), (data_, metrics_, test_) = _kind(ours), _kind(theirs)
    if metrics and metrics_ and not set(metrics) & set(metrics_):
        return f"their metrics are {', '.join(metrics)} and {', '.join(metrics_)}"
    if data and data_ and data != data_:
        return f"their data are {data} and {data_}"
    if test and test_ and test != test_:
        return f"they were tested on {test:,} and {test_:,} examples"
    return ""
