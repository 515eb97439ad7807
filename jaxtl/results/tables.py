"""The tables of a summary, as texts that formats.py writes in several ways."""

import dataclasses

from jaxtl.evaluation import metrics
from jaxtl.results import settings
from jaxtl.results.format_number import (
    format_difference,
    format_estimate,
    format_metric,
    format_p_value,
    metric_unit,
)
from jaxtl.results.settings import short
from jaxtl.results.summary import Line, Summary


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table of texts.

    Attributes:
      title: one line.
      columns: their headings.
      rows: a text per column.
      left: places of the columns that are text and not numbers.
      bold: (row, column) of what stands out.
      optional: headings of columns that a narrow terminal leaves out, in this order.
      ranks: of the rows, the best the largest; () where rows are not ranked.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: frozenset[int] = frozenset({0})
    bold: frozenset[tuple[int, int]] = frozenset()
    optional: tuple[str, ...] = ()
    ranks: tuple[float, ...] = ()


def sheets(summary: Summary) -> list[Sheet]:
    """Returns the main table, its grid where it has one, and all settings by val."""
    found = [main(summary)]
    made = grid(summary)
    if made:
        found.append(made)
    if len(summary.settings) > len(summary.lines):
        found.append(every(summary))
    if summary.choosing:
        found.append(blind(summary))
    return found


def main(summary: Summary) -> Sheet:
    """Returns a line per combination of compared values."""
    axes, metric = summary.division.compared, summary.metric
    heads = [short(name) for name in axes] or ["runs"]
    facts = [_facts(summary, line) for line in summary.lines]
    used = [name for name in facts[0] if any(f[name] for f in facts)]
    rows = []
    for line, fact in zip(summary.lines, facts):
        names = [
            settings.text(line.compared[a]) if a in line.compared else "" for a in axes
        ]
        rows.append((*(names or [line.name]), *(fact[name] for name in used)))
    columns = (*heads, *used)
    place = columns.index(f"{summary.split} {metric}{metric_unit(metric)}")
    texts = {i for i, name in enumerate(columns) if name in _TEXTS}
    return Sheet(
        title=f"{summary.split} {metric}{metric_unit(metric)}",
        columns=columns,
        rows=tuple(rows),
        left=frozenset({*range(len(heads)), *texts}),
        bold=frozenset((i, place) for i, line in enumerate(summary.lines) if line.top),
        optional=("s/run", "trainable", "drift", "p", "seeds"),
        ranks=tuple(summary.rank(line) for line in summary.lines),
    )


_TEXTS = ("chosen on val", "verdict", "remarks")


def _facts(summary: Summary, line: Line) -> dict[str, str]:
    """Returns heading -> text, "" where there is nothing to tell."""
    metric, kind = summary.metric, summary.interval
    unit, pair = metric_unit(metric), line.comparison
    return {
        "chosen on val": settings.listed(line.tuned),
        **{
            f"{split} {metric}{unit}": (
                format_estimate(metric, line.estimate(split), kind)
                if line.estimate(split)
                else ""
            )
            for split in ("val", "test")
        },
        "seeds": seeds(line),
        f"− {_baseline(summary)}": (
            format_difference(metric, pair.difference, kind) if pair else ""
        ),
        "p": format_p_value(pair.adjusted) if pair else "",
        "verdict": pair.verdict if pair else "",
        "drift": _number(line.drift),
        "trainable": f"{line.trainable:,.0f}" if line.trainable is not None else "",
        "s/run": _number(line.seconds),
        "remarks": "; ".join(alarm.text for alarm in line.alarms),
    }


def _baseline(summary: Summary) -> str:
    return ", ".join(summary.baseline.values()) or "baseline"


def seeds(line: Line) -> str:
    """Returns "5", or "3 (1 failed, 1 left)"."""
    others = {"failed": line.failed, "stopped": line.stopped, "left": line.unfinished}
    told = ", ".join(f"{n} {word}" for word, n in others.items() if n)
    return f"{len(line.seeds)} ({told})" if told else str(len(line.seeds))


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def grid(summary: Summary) -> Sheet | None:
    """Returns methods by the values of the only other compared axis, None without."""
    division = summary.division
    others = [name for name in division.compared if name != division.method]
    if division.method is None or len(others) != 1:
        return None
    [other] = others
    heads = list(dict.fromkeys(_value(x, other) for x in summary.lines))
    names = list(dict.fromkeys(_value(x, division.method) for x in summary.lines))
    cells, bold = {}, set()
    for line in summary.lines:
        place = (
            names.index(_value(line, division.method)),
            heads.index(_value(line, other)),
        )
        found = line.estimate(summary.split)
        cells[place] = format_estimate(summary.metric, found, summary.interval)
        if line.top:
            bold.add((place[0], place[1] + 1))
    rows = [
        (name, *(cells.get((i, j), "") for j in range(len(heads))))
        for i, name in enumerate(names)
    ]
    unit = metric_unit(summary.metric)
    return Sheet(
        title=f"{summary.split} {summary.metric}{unit} by {short(other)}",
        columns=(short(division.method), *heads),
        rows=tuple(rows),
        bold=frozenset(bold),
    )


def _value(line: Line, axis: str) -> str:
    return settings.text(line.compared[axis]) if axis in line.compared else "–"


def every(summary: Summary) -> Sheet:
    """Returns all settings by val; those that were chosen stand out."""
    axes = (*summary.division.compared, *summary.division.tuned)
    metric = summary.metric
    moved = any(line.drift is not None for line in summary.settings)
    scores = [_score(summary, line) for line in summary.settings]
    judged = (f"val {summary.by}",) if summary.by else ()
    rows, bold = [], set()
    for i, line in enumerate(summary.settings):
        labels = [
            settings.text(line.labels[a]) if a in line.labels else "" for a in axes
        ]
        value = format_estimate(metric, line.val, summary.interval)
        drift = (_number(line.drift),) if moved else ()
        score = (_number(scores[i]),) if judged else ()
        rows.append((*labels, *score, value, seeds(line), *drift))
        if line.chosen:
            bold.add((i, len(axes)))
    return Sheet(
        title="all settings, on val; bold: chosen",
        columns=(
            *(short(a) for a in axes),
            *judged,
            f"val {metric}{metric_unit(metric)}",
            "seeds",
            *(("drift",) if moved else ()),
        ),
        rows=tuple(rows),
        left=frozenset(range(len(summary.division.compared))),
        bold=frozenset(bold),
        optional=("drift",),
        ranks=tuple(
            summary.rank(line, "val") if not judged else _signed(summary, score)
            for line, score in zip(summary.settings, scores)
        ),
    )


def _score(summary: Summary, line: Line) -> float | None:
    """Returns a setting's mean of the criterion that chooses, None without one."""
    values = line.setting.values("val", summary.by) if summary.by else {}
    return sum(values.values()) / len(values) if values else None


def _signed(summary: Summary, score: float | None) -> float:
    if score is None:
        return float("-inf")
    return score if metrics.higher_is_better(summary.by) else -score


def blind(summary: Summary) -> Sheet:
    """Returns what each criterion chooses without the target's labels, and its cost."""
    axes, rows = summary.division.compared, summary.choosing
    tuned, unit = (
        any(row.tuned for row in rows),
        metric_unit(rows[0].metric),
    )
    several = any(not row.compared for row in rows) and any(x.compared for x in rows)
    lines = several or any(row.compared for row in rows)

    def cells(row) -> tuple[str, ...]:
        named = [settings.text(row.compared.get(a, "")) for a in axes]
        if not row.compared:
            named = ["mean of all", *[""] * (len(axes) - 1)]
        numbers = (row.value, row.oracle, row.cost)
        return (
            *(named if lines else ()),
            row.criterion,
            *((settings.listed(row.tuned),) if tuned else ()),
            *(format_metric(row.metric, value, None) for value in numbers),
        )

    heads = [short(name) for name in axes] if lines else []
    heads += ["criterion", *(["chosen"] if tuned else [])]
    metric = rows[0].metric
    title = f"choosing without target labels: val {metric}{unit} of what is chosen"
    return Sheet(
        title=title if lines or tuned else f"{title}, mean of all lines",
        columns=(*heads, f"val {metric}{unit}", "oracle", "cost"),
        rows=tuple(cells(row) for row in rows),
        left=frozenset(range(len(heads))),
        bold=frozenset(
            (i, len(heads) - 1 - tuned) for i, row in enumerate(rows) if row.used
        ),
    )


def shortened(sheet: Sheet, most: int) -> Sheet:
    """Returns the best rows of a sheet, best first; the first where none is ranked."""
    ranks = sheet.ranks or tuple(-i for i in range(len(sheet.rows)))
    order = sorted(range(len(ranks)), key=lambda i: -ranks[i])[:most]
    place = {row: i for i, row in enumerate(order)}
    return dataclasses.replace(
        sheet,
        title=f"{sheet.title} (the best {len(order)} of {len(sheet.rows)} rows)",
        rows=tuple(sheet.rows[i] for i in order),
        bold=frozenset((place[i], j) for i, j in sheet.bold if i in place),
        ranks=tuple(ranks[i] for i in order),
    )
