"""A view of a sweep for its plots: lines, panels, and the settings chosen on val.

The axes have the roles that they have in the tables: one has a line per value (methods,
runs), the other compared ones are *conditions* with a panel per value, and tuned ones
are chosen on val within a line and a condition.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.evaluation.metrics import higher_is_better, is_finite_number
from jaxtl.results import comparisons, database, settings
from jaxtl.results.axis_roles import SEED, AxisRoles, assign_roles
from jaxtl.results.format_number import metric_factor
from jaxtl.results.labels import labels_key, plot_label, value_key
from jaxtl.results.plots import style
from jaxtl.results.pretraining import pretraining_records
from jaxtl.results.records import Collection, Record
from jaxtl.results.statistics import Estimate, t_interval
from jaxtl.results.summary import Summary

_CURVE = 3  # values that make a curve
_UNLIMITED = 10**6


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepView:
    """Finished records with the roles of their axes.

    Attributes:
      records: those with a result.
      axes: axis -> values, without "seed"; numbers are sorted, others in the order of
        their appearance.
      metric: the metric that is drawn.
      criterion: what settings are chosen by on val where that is another than the
        metric, as for an unlabelled target; else "".
      split: "test" where chosen settings may be shown on it, else "val".
      higher: whether larger values of the metric are better.
      line: the axis with a line per value, None for a single line.
      conditions: axes with a panel per value.
      tuned: axes that are chosen on val.
    """

    records: tuple[Record, ...]
    axes: Mapping[str, tuple]
    metric: str
    criterion: str = ""
    split: str = "val"
    higher: bool = True
    line: str | None = None
    conditions: tuple[str, ...] = ()
    tuned: tuple[str, ...] = ()

    @property
    def factor(self) -> float:
        """The factor that values are multiplied by to be shown: 100 for shares."""
        return metric_factor(self.metric)

    def label(self, split: str) -> str:
        """The metric with its unit: "val accuracy (%)"."""
        unit = {"nll": " (nats)"}.get(self.metric, "")
        return f"{split} {self.metric}" + (" (%)" if self.factor == 100.0 else unit)

    def is_numeric(self, axis: str) -> bool:
        """Whether an axis has at least three values, all of them numbers."""
        values = self.axes.get(axis, ())
        return len(values) >= _CURVE and all(map(is_finite_number, values))

    def with_line(self, axis: str) -> "SweepView":
        """The same view with a line per value of another axis."""
        return dataclasses.replace(
            self,
            line=axis,
            conditions=tuple(name for name in self.conditions if name != axis),
            tuned=tuple(name for name in self.tuned if name != axis),
        )

    def lines(
        self, records: Iterable[Record], most: int = _UNLIMITED
    ) -> dict[str, list[Record]]:
        """Groups records by line.

        Args:
          records: to group.
          most: number of lines; of more, those that are best on val are kept.

        Returns:
          name of the line -> its records, in the order of the axis.
        """
        if self.line is None:
            return {"": list(records)}
        groups = split_by(records, [self.line])
        order = {value_key(v): i for i, v in enumerate(self.axes[self.line])}
        keys = sorted(groups, key=lambda key: order.get(key[0], -1))
        lines = {
            plot_label(groups[k][0].labels.get(self.line)): groups[k] for k in keys
        }
        if len(lines) <= most:
            return lines
        best = sorted(lines, key=lambda name: -self._score(lines[name]))[:most]
        return {name: group for name, group in lines.items() if name in best}

    def line_styles(self) -> dict[str, dict[str, Any]]:
        """Name of a line -> its color, marker and dashes, the same in every plot."""
        return style.line_styles(self.lines(self.records))

    def _score(self, records: Iterable[Record]) -> float:
        """The best setting's mean on val, negated where smaller values are better."""
        estimate = self.estimate(self.best_setting(records), "val")
        if estimate is None:
            return -math.inf
        return estimate.mean if self.higher else -estimate.mean

    def best_setting(self, records: Iterable[Record]) -> list[Record]:
        """Returns the records of the setting that is best on val, one per seed.

        Settings are chosen as in the tables; without results on val it is the first.
        """
        groups = settings.group_by_setting(records)
        roles = AxisRoles(compared=(), tuned=tuple(self.axes), fixed={}, method=None)
        selected_by = self.criterion or self.metric
        directions = settings.directions(record.result for record in self.records)
        choices = settings.choose_settings(
            groups,
            roles,
            selected_by,
            higher_is_better(selected_by, directions),
            (self.metric, self.higher),
        )
        return list(choices[0].setting.done) if choices else []

    def arms(self, estimate: Estimate) -> tuple[float, float] | None:
        """Returns the interval that is drawn; see `style.interval_arms`."""
        return style.interval_arms(estimate, self.metric)

    def estimate(self, records: Iterable[Record], split: str) -> Estimate | None:
        """Returns the mean and interval over the records that have a finite value."""
        values = [r.value(split, self.metric) for r in records]
        values = [v for v in values if is_finite_number(v)]
        return t_interval(values) if values else None

    def panels(self, *, without: str = "", most: int = 4) -> list[dict[str, Any]]:
        """Returns the conditions that get a panel, [{}] where there are no conditions.

        Args:
          without: an axis that is drawn in another way.
          most: number of panels; of more, evenly spaced ones are kept, with the first
            and the last.
        """
        axes = [axis for axis in self.conditions if axis != without]
        groups = split_by(self.records, axes)
        conditions = [
            {axis: group[0].labels.get(axis) for axis in axes}
            for group in groups.values()
        ]
        # Records without a condition, such as baselines, are drawn in every panel.
        complete = [c for c in conditions if None not in c.values()]
        panels = complete or conditions[:1] or [{}]
        order = {
            axis: {value_key(v): i for i, v in enumerate(self.axes[axis])}
            for axis in axes
        }
        panels.sort(key=lambda c: [order[a].get(value_key(c[a]), 0) for a in axes])
        if len(panels) > most:
            indices = np.linspace(0, len(panels) - 1, most).round().astype(int)
            panels = [panels[i] for i in indices]
        return panels

    def within(self, condition: Mapping[str, Any]) -> list[Record]:
        """Returns the records of a condition, and those that lack its axes."""
        records = self.records
        for axis, value in condition.items():
            keys = (value_key(value), value_key(None))
            records = [r for r in records if value_key(r.labels.get(axis)) in keys]
        return list(records)


def build_view(collection: Collection, summary: Summary | None = None) -> SweepView:
    """Builds the view of a collection.

    Args:
      collection: the records.
      summary: of the same records. The view takes the roles of the axes, the metric and
        the split from it, and leaves out rows that were measured on other data; None
        takes the defaults.
    """
    collection = collection.without(pretraining_records(collection.records))
    roles = summary.roles if summary else assign_roles(collection.axes)
    odd = comparisons.on_other_data(summary.rows, summary) if summary else ()
    odd = {labels_key(row.labels, roles.compared) for row in odd}
    records = tuple(
        r
        for r in collection.records
        if r.status == database.DONE
        and r.result
        and labels_key(r.labels, roles.compared) not in odd
    )
    if summary:
        metric, split = summary.metric, summary.split
    else:
        metric = settings.main_metric([r.result for r in records]) or "accuracy"
        tested = any(r.value("test", metric) is not None for r in records)
        split = "test" if tested else "val"
    axes = {a: _ordered(v) for a, v in collection.axes.items() if a != SEED}
    return SweepView(
        records=records,
        axes=axes,
        metric=metric,
        criterion=summary.criterion if summary else "",
        split=split,
        higher=higher_is_better(metric, settings.directions(r.result for r in records)),
        line=roles.method,
        conditions=tuple(a for a in roles.compared if a != roles.method),
        tuned=tuple(roles.tuned),
    )


def _ordered(values: Sequence[Any]) -> tuple:
    return tuple(sorted(values) if all(map(is_finite_number, values)) else values)


def split_by(
    records: Iterable[Record], axes: Sequence[str]
) -> dict[tuple[str, ...], list[Record]]:
    """Groups records by the keys of their labels on some axes, as they appear."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        key = tuple(value_key(record.labels.get(axis)) for axis in axes)
        groups.setdefault(key, []).append(record)
    return groups


def seeds_text(settings: Iterable[Sequence[Record]]) -> str:
    """The number of seeds of some settings: "n = 5 seeds", or its range."""
    counts = sorted({len(records) for records in settings if records}) or [0]
    low, high = counts[0], counts[-1]
    if low == high:
        return f"n = {low} seed" + ("s" if low != 1 else "")
    return f"n = {low}–{high} seeds"
