"""Tables and the JSON file of a study's runs, grouped over their seeds.

Each setting has the label "run": the name of its variant, or its directory.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxtl.results import settings, statistics
from jaxtl.results.database import FAILED
from jaxtl.results.format_number import (
    format_estimate,
    metric_bounds,
    metric_unit,
)
from jaxtl.results.settings import Setting
from jaxtl.results.tables import TextTable


def metric_cell(setting: Setting, split: str, metric: str) -> str:
    """A metric over seeds as "mean ± half-width" of its 95 % interval.

    One value, two and equal ones read as `format_number.format_estimate` says. Where no
    run has the metric it is "failed" if a run failed, else "–".
    """
    values = setting.raw_values(split, metric)
    if not values:
        return "failed" if setting.count(FAILED) else "–"
    estimate = statistics.t_interval(values, bounds=metric_bounds(metric))
    return format_estimate(metric, estimate)


def default_metric(groups: Sequence[Setting]) -> str:
    """The metric that some settings are compared by, "accuracy" if none finished."""
    results = [record.result for group in groups for record in group.done]
    return settings.main_metric(results) or "accuracy"


def runs_table(
    groups: Sequence[Setting], metric: str | None = None, title: str = ""
) -> TextTable:
    """A row per setting: mean ± 95 % interval, seeds, parameters, speed.

    Args:
      groups: the settings, in the order of the rows.
      metric: default: `default_metric`.
      title: of the table.
    """
    metric = metric or default_metric(groups)
    unit = metric_unit(metric)
    columns = (
        "run",
        f"val {metric}{unit}",
        f"test {metric}{unit}",
        "seeds",
        "trainable",
        "steps/s",
    )
    rows = tuple(
        (
            group.labels["run"],
            metric_cell(group, "val", metric),
            metric_cell(group, "test", metric),
            str(len(group.done)),
            *_size_and_speed(group),
        )
        for group in groups
    )
    return TextTable(title=title, columns=columns, rows=rows)


def metrics_table(groups: Sequence[Setting], split: str, title: str) -> TextTable:
    """A row per setting with all metrics of a split: mean ± 95 % interval, seeds."""
    measured = [r.result.get(split, {}) for group in groups for r in group.done]
    names = list(dict.fromkeys(name for metrics in measured for name in metrics))
    rows = tuple(
        (
            group.labels["run"],
            *(metric_cell(group, split, name) for name in names),
            str(len(group.done)),
        )
        for group in groups
    )
    columns = ("run", *(f"{name}{metric_unit(name)}" for name in names), "seeds")
    return TextTable(title=title, columns=columns, rows=rows)


def _size_and_speed(group: Setting) -> tuple[str, str]:
    """The trainable parameters of the first run, and the median of steps per second."""
    results = [record.result for record in group.done]
    if not results:
        return "–", "–"
    count = results[0].get("trainable_parameters")
    size = "–" if count is None else f"{count:,}"
    speeds = sorted(filter(None, (r.get("steps_per_second") for r in results)))
    return size, f"{speeds[len(speeds) // 2]:,.0f}" if speeds else "–"


class NameGrid(NamedTuple):
    """Settings whose names are "column/row", as a grid.

    Attributes:
      rows: names of the rows.
      columns: names of the columns.
      settings: (row, column) -> setting.
    """

    rows: list[str]
    columns: list[str]
    settings: Mapping[tuple[str, str], Setting]


def name_grid(groups: Sequence[Setting]) -> NameGrid | None:
    """Arranges settings by their names; those without one slash are left out.

    Returns:
      the grid, None if it has fewer than two columns.
    """
    cells = {}
    for group in groups:
        column, slash, row = group.labels["run"].partition("/")
        if slash and "/" not in row:
            cells[row, column] = group
    rows = list(dict.fromkeys(row for row, _ in cells))
    columns = list(dict.fromkeys(column for _, column in cells))
    return NameGrid(rows, columns, cells) if len(columns) > 1 else None


def study_tables(groups: Sequence[Setting], title: str) -> list[TextTable]:
    """The tables of a study: a grid of the names that form one, and the others."""
    metric = default_metric(groups)
    grid = name_grid(groups)
    if grid is None:
        return [runs_table(groups, metric, title)]
    tables = [_grid_table(grid, title, metric, _split(groups, metric))]
    ungrouped = [group for group in groups if group not in grid.settings.values()]
    return [runs_table(ungrouped, metric), *tables] if ungrouped else tables


def _split(groups: Sequence[Setting], metric: str) -> str:
    return "test" if any(g.raw_values("test", metric) for g in groups) else "val"


def _grid_table(grid: NameGrid, title: str, metric: str, split: str) -> TextTable:
    rows = []
    for row in grid.rows:
        cells = [grid.settings.get((row, column)) for column in grid.columns]
        texts = [metric_cell(cell, split, metric) if cell else "" for cell in cells]
        seeds = max(len(cell.done) for cell in cells if cell)
        rows.append((row, *texts, str(seeds)))
    heading = f"{split} {metric}{metric_unit(metric)}"
    return TextTable(
        title=f"{title}\n{heading}, mean ± 95 % interval over seeds",
        columns=("", *grid.columns, "seeds"),
        rows=tuple(rows),
    )


def study_json(groups: Sequence[Setting]) -> list[dict[str, Any]]:
    """The content of summary.json: each setting's metrics over its seeds."""
    return [
        {
            "name": group.labels["run"],
            "n": len(group.done),
            "errors": [r.error for r in group.records if r.status == FAILED],
            **{split: _metrics_json(group, split) for split in ("val", "test")},
        }
        for group in groups
    ]


def _metrics_json(group: Setting, split: str) -> dict[str, Any]:
    names = {name for record in group.done for name in record.result.get(split, {})}
    metrics = {}
    for name in sorted(names):
        values = group.raw_values(split, name)
        estimate = statistics.t_interval(values)
        metrics[name] = {
            "mean": estimate.mean,
            "half_width_95": estimate.half,
            "n": estimate.n,
            "values": values,
        }
    return metrics
