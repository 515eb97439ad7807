"""A summary in sentences: what came out, and how it has to be read."""

from collections.abc import Iterable
from typing import Any

from jaxtl.evaluation import metrics, model_selection
from jaxtl.results import (
    comparisons,
    database,
    selection_cost,
    settings,
    statistics,
)
from jaxtl.results.format_number import (
    SHARES,
    format_difference,
    format_estimate,
    format_p_value,
    metric_unit,
)
from jaxtl.results.summary import BETTER, TIE, WORSE, Line, Summary

NAMED = 8  # names in a list before the rest is only counted
COLUMNS = 6  # columns whose best line gets a sentence


def conclusions(summary: Summary) -> list[str]:
    """Returns what came out: the best lines, the baseline, negative transfer."""
    return [*_best(summary), *_baseline(summary), *_alarms(summary), *_blind(summary)]


def notes(summary: Summary) -> list[str]:
    """Returns how the tables were made, and what is missing in them."""
    return [
        *progress(summary),
        *_chosen(summary),
        *_statistics(summary),
        *_missing(summary),
    ]


def _best(summary: Summary) -> list[str]:
    metric, told = summary.metric, []
    unit = metric_unit(metric)
    columns = [c for c in comparisons.columns(summary.lines, summary).values() if c[1:]]
    word = "Highest" if summary.higher else "Lowest"
    if len(summary.lines) == 1 and summary.tuned:
        [line] = summary.lines
        value = format_estimate(metric, line.estimate(summary.split), summary.interval)
        told.append(
            f"With {settings.listed(line.tuned)}, the best of {line.candidates} "
            f"settings on val: {summary.split} {metric} {value}{unit} "
            f"({_seeds(line)})."
        )
    for column in columns[:COLUMNS]:
        lines = [summary.lines[i] for i in column]
        best = max(lines, key=summary.rank)
        ties = [line.name for line in lines if line.top and line is not best]
        value = format_estimate(metric, best.estimate(summary.split), summary.interval)
        told.append(
            f"{word} mean {summary.split} {metric}: {best.name}, {value}{unit} "
            f"({_seeds(best)})"
            + (f"; not significantly different: {_list(ties)}." if ties else ".")
        )
    if len(columns) > COLUMNS:
        told.append(f"{len(columns) - COLUMNS} more columns are in the table.")
    return told


def _seeds(line: Line) -> str:
    return f"{len(line.seeds)} seed{'s' if len(line.seeds) != 1 else ''}"


def _baseline(summary: Summary) -> list[str]:
    compared = [line for line in summary.lines if line.comparison]
    if not compared:
        return []
    parts = []
    for verdict in (BETTER, WORSE, TIE):
        names = [line.name for line in compared if line.comparison.verdict == verdict]
        if names:
            word = {BETTER: "better", WORSE: "worse", TIE: "a tie"}[verdict]
            parts.append(f"{word}: {_list(names)}")
    unknown = sum(not line.comparison.verdict for line in compared)
    if unknown:
        parts.append(f"too few common seeds to tell: {unknown}")
    base = ", ".join(summary.baseline.values())
    return [f"Against {base}, paired by seed, {part}." for part in parts]


def _alarms(summary: Summary) -> list[str]:
    found = [(line, alarm) for line in summary.lines for alarm in line.alarms]
    told = []
    for line, alarm in found:
        if alarm.significant:
            gap = format_difference(
                summary.metric, alarm.comparison.difference, summary.interval
            )
            p = format_p_value(alarm.comparison.adjusted)
            points = " points" if summary.metric in SHARES else ""
            told.append(
                f"Negative transfer: {line.name} {alarm.text}, {gap}{points} "
                f"({'p ' if p[0] == '<' else 'p = '}{p})."
            )
    for reference in dict.fromkeys(alarm.reference for _, alarm in found):
        names = [
            line.name
            for line, alarm in found
            if alarm.reference == reference and not alarm.significant
        ]
        if names:
            told.append(f"Below {reference}, not significantly: {_list(names)}.")
    if summary.references and not found:
        told.append(f"No line is below {' or '.join(summary.references)}.")
    return told


def progress(summary: Summary) -> list[str]:
    """Returns what became of the cells, where not all are done."""
    counts, told = summary.counts, []
    done = counts.get(database.DONE, 0)
    if done < summary.total:
        told.append(f"{done} of {summary.total} cells are done.")
    failed = counts.get(database.FAILED, 0)
    if failed:
        reasons = {}
        for line in summary.settings:
            for reason in line.reasons:
                reasons.setdefault(reason, line.name)
        told.append(
            f"{_cells(failed)} failed: "
            + _list([f"{line}: {reason}" for reason, line in reasons.items()], 3, "; ")
        )
    stopped = counts.get(database.STOPPED, 0)
    if stopped:
        told.append(f"{_cells(stopped)} stopped early by successive halving.")
    damaged = counts.get(database.DAMAGED, 0)
    if damaged:
        told.append(
            f"{_cells(damaged)} damaged and left out: run the same command to run "
            f"{'it' if damaged == 1 else 'them'} again."
        )
    return told


def _cells(n: int) -> str:
    return f"{n} cell{'s' if n != 1 else ''}"


def _chosen(summary: Summary) -> list[str]:
    axes = ", ".join(summary.division.tuned)
    if not axes:
        return []
    if not summary.tuned:
        return [f"No run has a val {summary.chooser}: nothing was tuned over {axes}."]
    told = [
        f"{axes} {'was' if len(summary.division.tuned) == 1 else 'were'} chosen for "
        f"each line by the best mean {_judge(summary)} over its seeds; only the "
        "chosen settings were looked at on test."
    ]
    partial = sum(line.partial for line in summary.lines)
    if partial:
        told.append(
            f"{partial} settings were no candidates: they have fewer finished seeds "
            "than others of their line."
        )
    rivals = [f"{line.name}: {line.rival}" for line in summary.lines if line.rival]
    if rivals:
        told.append(f"Of these, better on val so far: {_list(rivals, comma='; ')}.")
    return told


def _judge(summary: Summary) -> str:
    if not summary.by:
        return f"val {summary.metric}"
    return f"{summary.by} (which sees no label of the target)"


def _blind(summary: Summary) -> list[str]:
    """Says what choosing without the target's labels cost, and where they chose."""
    done = [r.result for line in summary.settings for r in line.setting.done]
    told = selection_cost.sentence(done)
    names = {(r.get("choosing") or {}).get("monitor", "") for r in done}
    oracles = sorted(n for n in names if n and n not in metrics.CRITERIA)
    return [told] * bool(told) + [
        f"{model_selection.oracle_warning(name)}."
        for name in oracles
        if name not in told
    ]


def _statistics(summary: Summary) -> list[str]:
    told = []
    if any(line.val and line.val.n > 1 for line in summary.lines) or any(
        line.test and line.test.n > 1 for line in summary.lines
    ):
        told.append(
            "±: half of the 95 % Student-t interval of the mean over seeds."
            if summary.interval == "t"
            else "[low, high]: 95 % percentile bootstrap interval of the mean over "
            f"seeds, {statistics.RESAMPLES:,} resamples."
        )
    family = [x.comparison for x in summary.lines if x.comparison]
    tested = sum(c.adjusted is not None for c in family)
    name = "Student's t-test" if summary.test == "t" else "Wilcoxon's signed-rank test"
    if tested:
        told.append(
            f"Differences are paired by seed; p by {name}, adjusted by Holm over "
            f"{tested} comparison{'s' if tested > 1 else ''}; a tie is p ≥ 0.05. "
            "The intervals are those of single differences."
        )
    most = max((c.difference.n for c in family), default=0)
    if summary.test == "wilcoxon" and tested and tested * 2.0 ** (1 - most) >= 0.05:
        told.append(
            f"With {most} seeds and {tested} comparisons Wilcoxon's test can't find a "
            "difference, however large."
        )
    if any(line.top for line in summary.lines):
        told.append("Bold: the best mean of its column, and what ties with it.")
    return told


def _missing(summary: Summary) -> list[str]:
    told = []
    lacking = [
        f"{line.name} lacks {_list(line.missing, NAMED)}"
        for line in summary.lines
        if line.missing
    ]
    if lacking:
        told.append(f"Seeds are missing: {_list(lacking, NAMED, '; ')}.")
    single = [x.name for x in summary.lines if len(x.seeds) == 1]
    if single:
        told.append(f"One seed only, so no interval: {_list(single)}.")
    for line in comparisons.elsewhere(summary.lines, summary):
        data = line.setting.done[0].data
        told.append(
            f"{line.name} was measured on other data{f' ({data})' if data else ''} and "
            "is compared with nothing."
        )
    odd = [x.name for x in summary.lines if len(x.values[summary.split]) < len(x.seeds)]
    if odd:
        told.append(
            f"Finished runs without a finite {summary.split} {summary.metric} are left "
            f"out of the means of {_list(odd)}."
        )
    fixed = [f"{k}={settings.text(v)}" for k, v in summary.division.fixed.items()]
    return [*told, f"The same in all runs: {', '.join(fixed)}."] if fixed else told


def _list(items: Iterable[Any], most: int = NAMED, comma=", ") -> str:
    """Returns "a, b and 5 more"."""
    texts = [str(item) for item in items]
    if any(comma in text for text in texts):
        comma = "; "
    if len(texts) <= most:
        return comma.join(texts)
    return f"{comma.join(texts[:most])} and {len(texts) - most} more"
