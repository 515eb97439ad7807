"""The tables of a summary, as texts; `writers` writes them in several formats."""

import dataclasses
from collections.abc import Mapping

from jaxtl.evaluation import metrics
from jaxtl.results import settings
from jaxtl.results.format_number import (
    format_difference,
    format_estimate,
    format_metric,
    format_p_value,
    metric_unit,
)
from jaxtl.results.labels import label_text, labels_text, short_axis_name
from jaxtl.results.selection_cost import CriterionChoice
from jaxtl.results.summary import SettingSummary, Summary

_TEXT_COLUMNS = ("chosen on val", "verdict", "remarks")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextTable:
    """A table of texts.

    Attributes:
      title: one line.
      columns: their headings.
      rows: a text per column.
      text_columns: indices of the columns that hold text rather than numbers.
      bold: (row, column) of the cells that stand out.
      optional: headings of columns that a narrow terminal leaves out, in this order.
      ranks: of the rows, the larger the better; () where rows are not ranked.
      result: index of the column that readers look for first; None without one.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: frozenset[int] = frozenset({0})
    bold: frozenset[tuple[int, int]] = frozenset()
    optional: tuple[str, ...] = ()
    ranks: tuple[float, ...] = ()
    result: int | None = None


def summary_tables(summary: Summary) -> list[TextTable]:
    """The main table, and those of the others that have something to show."""
    tables = [main_table(summary)]
    grid = method_grid(summary)
    if grid:
        tables.append(grid)
    if len(summary.settings) > len(summary.rows):
        tables.append(settings_table(summary))
    if summary.criterion_choices:
        tables.append(criteria_table(summary))
    return tables


def main_table(summary: Summary) -> TextTable:
    """A row for each combination of compared values."""
    method = summary.roles.method
    axes = sorted(summary.roles.compared, key=lambda name: name != method)
    heads = [short_axis_name(name) for name in axes] or ["runs"]
    columns = [_columns(summary, row) for row in summary.rows]
    used = [name for name in columns[0] if any(texts[name] for texts in columns)]
    rows = []
    for row, texts in zip(summary.rows, columns):
        labels = [
            label_text(row.compared[axis]) if axis in row.compared else ""
            for axis in axes
        ]
        rows.append((*(labels or [row.name]), *(texts[name] for name in used)))
    result = f"{summary.split} {summary.metric}{metric_unit(summary.metric)}"
    headings = (*heads, *used)
    column = headings.index(result)
    texts = {i for i, name in enumerate(headings) if name in _TEXT_COLUMNS}
    return TextTable(
        title=result,
        columns=headings,
        rows=tuple(rows),
        text_columns=frozenset({*range(len(heads)), *texts}),
        bold=frozenset((i, column) for i, row in enumerate(summary.rows) if row.top),
        optional=("s/run", "trainable", "drift", "p", "seeds"),
        ranks=tuple(summary.rank(row) for row in summary.rows),
        result=column,
    )


def _columns(summary: Summary, row: SettingSummary) -> dict[str, str]:
    """Heading -> text of a row, "" where there is no value."""
    metric, interval = summary.metric, summary.interval
    comparison = row.comparison
    baseline = ", ".join(summary.baseline.values()) or "baseline"
    results, difference, p = {}, "", ""
    for split in dict.fromkeys((summary.split, "test", "val")):
        estimate = row.estimate(split)
        text = format_estimate(metric, estimate, interval) if estimate else ""
        results[f"{split} {metric}{metric_unit(metric)}"] = text
    if comparison:
        difference = format_difference(metric, comparison.difference, interval)
        p = format_p_value(comparison.adjusted)
    return {
        **results,
        "chosen on val": labels_text(row.tuned),
        "seeds": _seeds(row),
        f"− {baseline}": difference,
        "p": p,
        "verdict": comparison.verdict if comparison else "",
        "drift": _number(row.drift),
        "trainable": f"{row.trainable:,.0f}" if row.trainable is not None else "",
        "s/run": _number(row.seconds),
        "remarks": "; ".join(alarm.text for alarm in row.alarms),
    }


def _seeds(row: SettingSummary) -> str:
    """The number of finished seeds: "5", or "3 (1 failed, 1 left)"."""
    counts = {
        "failed": row.failed,
        "stopped": row.stopped,
        "interrupted": row.interrupted,
        "left": row.unfinished,
    }
    text = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
    return f"{len(row.seeds)} ({text})" if text else str(len(row.seeds))


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def method_grid(summary: Summary) -> TextTable | None:
    """Methods by the values of the only other compared axis; None without such one."""
    method, metric = summary.roles.method, summary.metric
    axes = [name for name in summary.roles.compared if name != method]
    if method is None or len(axes) != 1:
        return None
    [axis] = axes
    heads = list(dict.fromkeys(_value(row, axis) for row in summary.rows))
    names = list(dict.fromkeys(_value(row, method) for row in summary.rows))
    cells, bold = {}, set()
    for row in summary.rows:
        i, j = names.index(_value(row, method)), heads.index(_value(row, axis))
        estimate = row.estimate(summary.split)
        cells[i, j] = format_estimate(metric, estimate, summary.interval)
        if row.top:
            bold.add((i, j + 1))
    rows = [
        (name, *(cells.get((i, j), "") for j in range(len(heads))))
        for i, name in enumerate(names)
    ]
    title = f"{summary.split} {metric}{metric_unit(metric)}"
    return TextTable(
        title=f"{title} by {short_axis_name(axis)}",
        columns=(short_axis_name(method), *heads),
        rows=tuple(rows),
        bold=frozenset(bold),
    )


def _value(row: SettingSummary, axis: str) -> str:
    return label_text(row.compared[axis]) if axis in row.compared else "–"


def settings_table(summary: Summary) -> TextTable:
    """All settings with their result on val; the chosen ones are bold."""
    axes = (*summary.roles.compared, *summary.roles.tuned)
    metric, criterion = summary.metric, summary.criterion
    drifts = any(setting.drift is not None for setting in summary.settings)
    scores = [_criterion_score(summary, setting) for setting in summary.settings]
    directions = settings.directions(
        record.result for row in summary.settings for record in row.setting.done
    )
    rows, bold = [], set()
    for i, setting in enumerate(summary.settings):
        labels = [
            label_text(setting.labels[axis]) if axis in setting.labels else ""
            for axis in axes
        ]
        score = (_number(scores[i]),) if criterion else ()
        value = format_estimate(metric, setting.val, summary.interval)
        drift = (_number(setting.drift),) if drifts else ()
        rows.append((*labels, *score, value, _seeds(setting), *drift))
        if setting.selected:
            bold.add((i, len(axes)))
    return TextTable(
        title="all settings, on val; bold: chosen",
        columns=(
            *(short_axis_name(axis) for axis in axes),
            *((f"val {criterion}",) if criterion else ()),
            f"val {metric}{metric_unit(metric)}",
            "seeds",
            *(("drift",) if drifts else ()),
        ),
        rows=tuple(rows),
        text_columns=frozenset(range(len(summary.roles.compared))),
        bold=frozenset(bold),
        result=len(axes) + bool(criterion),
        optional=("drift",),
        ranks=tuple(
            _criterion_rank(criterion, score, directions)
            if criterion
            else summary.rank(setting, "val")
            for setting, score in zip(summary.settings, scores)
        ),
    )


def _criterion_score(summary: Summary, setting: SettingSummary) -> float | None:
    """A setting's mean of the criterion that chooses, None without one."""
    if not summary.criterion:
        return None
    values = setting.setting.values("val", summary.criterion)
    return sum(values.values()) / len(values) if values else None


def _criterion_rank(
    criterion: str, score: float | None, directions: Mapping[str, bool]
) -> float:
    if score is None:
        return float("-inf")
    return metrics.score(criterion, score, directions)


def criteria_table(summary: Summary) -> TextTable:
    """The choice of each criterion without the target's labels, and its cost."""
    axes, choices = summary.roles.compared, summary.criterion_choices
    metric = choices[0].metric
    unit = metric_unit(metric)
    tuned = any(choice.tuned for choice in choices)
    has_labels = any(choice.compared for choice in choices)

    def cells(choice: CriterionChoice) -> tuple[str, ...]:
        labels = [label_text(choice.compared.get(axis, "")) for axis in axes]
        if not choice.compared:
            labels = ["mean of all", *[""] * (len(axes) - 1)]
        values = (choice.value, choice.oracle, choice.cost)
        return (
            *(labels if has_labels else ()),
            choice.criterion,
            *((labels_text(choice.tuned),) if tuned else ()),
            *(format_metric(choice.metric, value) for value in values),
        )

    heads = [short_axis_name(axis) for axis in axes] if has_labels else []
    heads += ["criterion", *(["chosen"] if tuned else [])]
    title = f"choosing without target labels: val {metric}{unit} of what is chosen"
    return TextTable(
        title=title if has_labels or tuned else f"{title}, mean of all lines",
        columns=(*heads, f"val {metric}{unit}", "oracle", "cost"),
        rows=tuple(map(cells, choices)),
        text_columns=frozenset(range(len(heads))),
        bold=frozenset(
            (i, len(heads) - 1 - tuned)
            for i, choice in enumerate(choices)
            if choice.used
        ),
    )


def shortened(table: TextTable, most: int) -> TextTable:
    """The best rows of a table, best first; its first rows where none is ranked."""
    ranks = table.ranks or tuple(-i for i in range(len(table.rows)))
    order = sorted(range(len(ranks)), key=lambda i: -ranks[i])[:most]
    positions = {row: i for i, row in enumerate(order)}
    return dataclasses.replace(
        table,
        title=f"{table.title} (the best {len(order)} of {len(table.rows)} rows)",
        rows=tuple(table.rows[i] for i in order),
        bold=frozenset((positions[i], j) for i, j in table.bold if i in positions),
        ranks=tuple(ranks[i] for i in order),
    )
