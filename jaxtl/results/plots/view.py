"""What a picture of a sweep shows: its lines, panels, and what is chosen on val.

The axes are divided as in the tables: one has a line per value (methods, runs), the
other compared ones are *conditions* and get a panel each, tuned ones are chosen on
validation within a line and a condition.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl.evaluation import metrics
from jaxtl.results import comparisons, database, format_number, settings
from jaxtl.results.records import Collection, Record
from jaxtl.results.statistics import t_interval

MANY = 10**6
_FEW = 3  # values that make a curve


class Point(NamedTuple):
    """A metric over seeds: mean, half-width of its 95 % interval (None for one), n."""

    mean: float
    half: float | None
    n: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """Finished records and what their axes are for.

    Attributes:
      records: those with a result.
      axes: axis -> values, without "seed"; numbers in their order, others as they came.
      metric: what is drawn and what settings are chosen by.
      split: "test" where chosen settings may be looked at on it, else "val".
      higher: whether larger values of it are better.
      line: the axis with a line per value, None for a single line.
      conditions: axes with a panel per value.
      tuned: axes that validation chooses over.
    """

    records: tuple[Record, ...]
    axes: Mapping[str, tuple]
    metric: str
    split: str = "val"
    higher: bool = True
    line: str | None = None
    conditions: tuple[str, ...] = ()
    tuned: tuple[str, ...] = ()

    @property
    def factor(self) -> float:
        """What values are shown in: 100 for shares."""
        return 100.0 if self.metric in format_number.SHARES else 1.0

    def label(self, split: str) -> str:
        """Returns "val accuracy (%)"."""
        unit = {"nll": " (nats)"}.get(self.metric, "")
        return f"{split} {self.metric}" + (" (%)" if self.factor == 100.0 else unit)

    def numeric(self, axis: str) -> bool:
        """Returns whether an axis has three numbers or more, and nothing else."""
        found = self.axes.get(axis, ())
        return len(found) >= _FEW and all(map(is_number, found))

    def lined(self, axis: str) -> "View":
        """Returns the view with a line per value of an axis."""
        without = lambda axes: tuple(a for a in axes if a != axis)  # noqa: E731
        return dataclasses.replace(
            self,
            line=axis,
            conditions=without(self.conditions),
            tuned=without(self.tuned),
        )

    def lines(self, records: Iterable[Record], most: int = MANY) -> dict[str, list]:
        """Returns name -> records of each line; of many, those that are best on val."""
        if self.line is None:
            return {"": list(records)}
        groups = split_by(records, [self.line])
        known = {key(v): i for i, v in enumerate(self.axes[self.line])}
        order = sorted(groups, key=lambda place: known.get(place[0], -1))
        found = {text(groups[p][0].labels.get(self.line)): groups[p] for p in order}
        if len(found) <= most:
            return found
        best = sorted(found, key=lambda name: -self._score(found[name]))[:most]
        return {name: group for name, group in found.items() if name in best}

    def _score(self, records) -> float:
        found = self.point(self.chosen(records), "val")
        if found is None:
            return -math.inf
        return found.mean if self.higher else -found.mean

    def chosen(self, records: Iterable[Record], axes=None) -> list[Record]:
        """Returns the records, over seeds, of the setting that is best on val.

        As in the tables, `settings.choose`; without val the first setting.

        Args:
          records: what is chosen from.
          axes: a setting is an assignment of these; all but the seed if left out.
        """
        axes = tuple(self.axes if axes is None else axes)
        division = settings.Division(compared=(), tuned=axes, fixed={}, method=None)
        found = settings.choose(
            settings.group(records), division, self.metric, self.higher
        )
        return list(found[0].setting.done) if found else []

    def point(self, records: Iterable[Record], split: str) -> Point | None:
        """Returns the metric over the seeds of one setting that have a finite one."""
        found = [r.value(split, self.metric) for r in records]
        found = [v for v in found if is_number(v)]
        if not found:
            return None
        mean, _, _, half, n = t_interval(found)
        return Point(mean, half, n)

    def panels(self, *, without: str = "", most: int = 4) -> list[dict]:
        """Returns the conditions that get a panel each: [{}] where there are none.

        Of more than `most`, evenly spaced ones, with the first and the last.
        """
        axes = [a for a in self.conditions if a != without]
        groups = split_by(self.records, axes)
        found = [{a: g[0].labels.get(a) for a in axes} for g in groups.values()]
        # Baselines may lack a condition; they join every panel instead.
        whole = [c for c in found if None not in c.values()] or found[:1] or [{}]
        rank = {a: {key(v): i for i, v in enumerate(self.axes[a])} for a in axes}
        whole.sort(key=lambda c: [rank[a].get(key(c[a]), 0) for a in axes])
        if len(whole) > most:
            picked = np.linspace(0, len(whole) - 1, most).round().astype(int)
            whole = [whole[i] for i in picked]
        return whole

    def within(self, condition: Mapping[str, Any]) -> list[Record]:
        """Returns the records of a condition, with those that don't know its axes."""
        records = self.records
        for axis, value in condition.items():
            wanted = (key(value), key(None))
            records = [r for r in records if key(r.labels.get(axis)) in wanted]
        return list(records)


def view(collection: Collection, summary: Any = None) -> View:
    """Returns the view of a collection, with the axes divided as in its summary.

    Lines that the summary compares with nothing, being of other data, are left out.
    """
    division = getattr(summary, "division", None) or settings.divide(collection.axes)
    odd = comparisons.elsewhere(summary.lines, summary) if summary else ()
    odd = {settings.key(line.labels, division.compared) for line in odd}
    records = tuple(
        r
        for r in collection.records
        if r.status == database.DONE
        and r.result
        and settings.key(r.labels, division.compared) not in odd
    )
    metric = getattr(summary, "metric", None)
    metric = metric or settings.main_metric([r.result for r in records]) or "accuracy"
    tested = any(r.value("test", metric) is not None for r in records)
    split = getattr(summary, "split", None) or ("test" if tested else "val")
    axes = {a: _ordered(v) for a, v in collection.axes.items() if a != settings.SEED}
    return View(
        records=records,
        axes=axes,
        metric=metric,
        split=split,
        higher=metrics.higher_is_better(metric),
        line=division.method,
        conditions=tuple(a for a in division.compared if a != division.method),
        tuned=tuple(division.tuned),
    )


def _ordered(values: Sequence[Any]) -> tuple:
    return tuple(sorted(values) if all(map(is_number, values)) else values)


def is_number(value: Any) -> bool:
    """Returns whether a value is a finite number (True is none)."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and math.isfinite(value)


def text(value: Any) -> str:
    """Returns a label as it is shown; "–" where a record has none."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def short(value: Any) -> str:
    """Returns a label for a tick: 0.003162 as "0.0032", 0.0003162 as "3.2e-4"."""
    if not isinstance(value, float) or not math.isfinite(value):
        return text(value)
    if value and abs(value) < 1e-3:
        digits, power = f"{value:.1e}".split("e")
        return f"{digits.removesuffix('.0')}e{int(power)}"
    return f"{value:.2g}" if abs(value) < 1 else f"{value:.4g}"


def key(value: Any) -> str:
    """Returns what labels that mean the same share: 1 and 1.0, though not True."""
    return json.dumps(float(value) if is_number(value) else value, sort_keys=True)


def split_by(records: Iterable[Record], axes: Sequence[str]) -> dict[tuple, list]:
    """Groups records by their labels on some axes, in the order of appearance."""
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        place = tuple(key(record.labels.get(axis)) for axis in axes)
        groups.setdefault(place, []).append(record)
    return groups


def name(axis: str) -> str:
    """Returns an axis in words, "optim.lr" as "learning rate"."""
    if axis.endswith("labels_per_class"):
        return "labels per class"
    if axis in ("optim.lr", "lr"):
        return "learning rate"
    weight = re.fullmatch(r"terms\.(.+)\.weight", axis)
    return f"weight λ of {weight.group(1)}" if weight else axis


def said(condition: Mapping[str, Any]) -> str:
    """Returns a condition in words: "labels per class: 5"."""
    return ", ".join(f"{name(axis)}: {text(v)}" for axis, v in condition.items())


def seeds(groups: Iterable[Sequence[Record]]) -> str:
    """Returns "n = 5 seeds", or their range where settings differ."""
    counts = sorted({len(g) for g in groups if g}) or [0]
    low, high = counts[0], counts[-1]
    if low == high:
        return f"n = {low} seed" + ("s" if low != 1 else "")
    return f"n = {low}–{high} seeds"
