"""A summary in sentences: its conclusions, and notes on how to read the tables."""

from collections.abc import Iterable, Sequence
from typing import Any

from jaxtl.evaluation import metrics, model_selection
from jaxtl.results import comparisons, database, selection_cost, statistics
from jaxtl.results.format_number import (
    SHARES,
    format_difference,
    format_estimate,
    format_p_value,
    metric_unit,
)
from jaxtl.results.labels import label_text, labels_text
from jaxtl.results.summary import BETTER, TIE, WORSE, SettingSummary, Summary

_LISTED = 8  # names in a list, after which the others are only counted
_COLUMNS = 6  # columns whose best row gets a sentence


def conclusions(summary: Summary) -> list[str]:
    """The results in sentences: best rows, the baseline, negative transfer."""
    return [
        *_best_rows(summary),
        *_comparisons_with_baseline(summary),
        *alarms(summary),
        *choosing_without_labels(summary),
    ]


def notes(summary: Summary) -> list[str]:
    """How the tables were made, and what is missing in them."""
    return [
        *progress(summary),
        *pretraining(summary),
        *_tuning(summary),
        *_statistics(summary),
        *_missing(summary),
    ]


def pretraining(summary: Summary) -> list[str]:
    """The results of the runs that others start from, which are no rows."""
    return [
        f"Pre-training, on other data and so compared with nothing: {row.name}, "
        f"{summary.split} {summary.metric} {_value(summary, row)}."
        for row in summary.pretraining
    ]


def progress(summary: Summary) -> list[str]:
    """How many cells have each status, where not all are done."""
    counts, sentences = summary.counts, []
    done = counts.get(database.DONE, 0)
    if done < summary.total:
        sentences.append(f"{done:,} of {summary.total:,} cells are done.")
    failed = counts.get(database.FAILED, 0)
    if failed:
        reasons: dict[str, str] = {}
        for setting in summary.settings:
            for reason in setting.reasons:
                reasons.setdefault(reason, setting.name)
        texts = [f"{name}: {reason}" for reason, name in reasons.items()]
        sentences.append(f"{_cells(failed)} failed: {_list(texts, 3, '; ')}")
    stopped = counts.get(database.STOPPED, 0)
    if stopped:
        sentences.append(f"{_cells(stopped)} stopped early by successive halving.")
    interrupted = counts.get(database.INTERRUPTED, 0)
    if interrupted:
        names = [setting.name for setting in summary.settings if setting.interrupted]
        sentences.append(
            f"{_cells(interrupted)} interrupted, in no mean, and gone on with by "
            f"`jaxtl resume`: {_list(names, _LISTED)}."
        )
    damaged = counts.get(database.DAMAGED, 0)
    if damaged:
        sentences.append(
            f"{_cells(damaged)} damaged and left out: run the same command to run "
            f"{'it' if damaged == 1 else 'them'} again."
        )
    return sentences


def _best_rows(summary: Summary) -> list[str]:
    """A sentence for the best row of each column, or for the only row."""
    columns = [
        column
        for column in comparisons.columns(summary.rows, summary).values()
        if len(column) > 1
    ]
    sentences = []
    if len(summary.rows) == 1 and summary.tuned:
        [row] = summary.rows
        sentences.append(
            f"With {labels_text(row.tuned)}, the best of {row.candidates} "
            f"settings on val: {summary.split} {summary.metric} {_value(summary, row)}."
        )
    sentences += [_best_of_column(summary, column) for column in columns[:_COLUMNS]]
    if len(columns) > _COLUMNS:
        sentences.append(f"{len(columns) - _COLUMNS} more columns are in the table.")
    return sentences


def _best_of_column(summary: Summary, column: Sequence[int]) -> str:
    rows = [summary.rows[i] for i in column]
    best = summary.rows[comparisons.best_row(summary.rows, column, summary)]
    ties = [row.name for row in rows if row.top and row is not best]
    word = "Highest" if summary.higher else "Lowest"
    return (
        f"{word} mean {summary.split} {summary.metric}: {best.name}, "
        f"{_value(summary, best)}"
        + (f"; not significantly different: {_list(ties)}." if ties else ".")
    )


def _value(summary: Summary, row: SettingSummary) -> str:
    """A row's result with its seeds: "84.0 ± 1.2 % (5 seeds)"."""
    estimate = row.estimate(summary.split)
    text = format_estimate(summary.metric, estimate, summary.interval)
    text = text.removesuffix(" (n=2)")  # the number of seeds follows
    seeds = f"{len(row.seeds)} seed{'s' if len(row.seeds) != 1 else ''}"
    return f"{text}{metric_unit(summary.metric)} ({seeds})"


def _comparisons_with_baseline(summary: Summary) -> list[str]:
    rows = [row for row in summary.rows if row.comparison]
    if not rows:
        return []
    parts = []
    for verdict, words in ((BETTER, "better"), (WORSE, "worse"), (TIE, "a tie")):
        names = [row.name for row in rows if row.comparison.verdict == verdict]
        if names:
            parts.append(f"{words}: {_list(names)}")
    untested = sum(not row.comparison.verdict for row in rows)
    if untested:
        parts.append(f"too few common seeds to tell: {untested}")
    baseline = ", ".join(summary.baseline.values())
    return [f"Against {baseline}, paired by seed, {part}." for part in parts]


def alarms(summary: Summary) -> list[str]:
    """The rows that are below from-scratch or the untouched source."""
    pairs = [(row, alarm) for row in summary.rows for alarm in row.alarms]
    sentences = []
    for row, alarm in pairs:
        if alarm.significant:
            difference = format_difference(
                summary.metric, alarm.comparison.difference, summary.interval
            )
            p = format_p_value(alarm.comparison.adjusted)
            points = " points" if summary.metric in SHARES else ""
            sentences.append(
                f"Negative transfer: {row.name} {alarm.text}, {difference}{points} "
                f"({'p ' if p[0] == '<' else 'p = '}{p})."
            )
    for reference in dict.fromkeys(alarm.reference for _, alarm in pairs):
        names = [
            row.name
            for row, alarm in pairs
            if alarm.reference == reference and not alarm.significant
        ]
        if names:
            sentences.append(f"Below {reference}, not significantly: {_list(names)}.")
    if summary.references and not pairs:
        sentences.append(f"No line is below {' or '.join(summary.references)}.")
    return sentences


def choosing_without_labels(summary: Summary) -> list[str]:
    """The cost of choosing without target labels, and what was chosen with them."""
    results = [r.result for s in summary.settings for r in s.setting.done]
    cost = selection_cost.describe(results)
    choices = [r["choosing"] for r in results if r.get("choosing")]
    oracles = sorted(
        {
            choice["monitor"]
            for choice in choices
            if choice["monitor"]
            and choice["monitor"] not in (*metrics.CRITERIA, *choice["criteria"])
        }
    )
    return [cost] * bool(cost) + [
        f"{model_selection.oracle_warning(name)}."
        for name in oracles
        if name not in cost
    ]


def _cells(count: int) -> str:
    return f"{count:,} cell{'s' if count != 1 else ''}"


def _tuning(summary: Summary) -> list[str]:
    """How the tuned axes were chosen."""
    tuned = summary.roles.tuned
    if not tuned:
        return []
    axes = ", ".join(tuned)
    if not summary.tuned:
        return [
            f"No run has a val {summary.selection_metric}: nothing was tuned over "
            f"{axes}."
        ]
    chosen_by = f"val {summary.metric}"
    if summary.criterion:
        chosen_by = f"{summary.criterion} (which sees no label of the target)"
    sentences = [
        f"{axes} {'was' if len(tuned) == 1 else 'were'} chosen for each line by the "
        f"best mean {chosen_by} over its seeds; only the chosen settings were looked "
        "at on test."
    ]
    partial = sum(row.partial for row in summary.rows)
    if partial:
        sentences.append(
            f"{partial} settings were no candidates: they have fewer finished seeds "
            "than others of their line."
        )
    rivals = [f"{row.name}: {row.rival}" for row in summary.rows if row.rival]
    if rivals:
        sentences.append(
            f"Of these, better on val so far: {_list(rivals, separator='; ')}."
        )
    return sentences


def _statistics(summary: Summary) -> list[str]:
    """The meaning of the intervals, the p-values and the bold type."""
    sentences = []
    estimates = [x for row in summary.rows for x in (row.val, row.test) if x]
    if any(estimate.n > 1 for estimate in estimates):
        sentences.append(
            "±: half of the 95 % Student-t interval of the mean over seeds, "
            "[low, high] where 0 or 100 % cuts it; (n=2): of two seeds, which tell "
            "little; without ±: one seed, or no spread."
            if summary.interval == "t"
            else "[low, high]: 95 % percentile bootstrap interval of the mean over "
            f"seeds, {statistics.RESAMPLES:,} resamples."
        )
    family = [row.comparison for row in summary.rows if row.comparison]
    tested = sum(c.adjusted is not None for c in family)
    name = "Student's t-test" if summary.test == "t" else "Wilcoxon's signed-rank test"
    if tested:
        sentences.append(
            f"Differences are paired by seed; p by {name}, adjusted by Holm over "
            f"{tested} comparison{'s' if tested > 1 else ''}; a tie is p ≥ 0.05. "
            "The intervals are those of single differences."
        )
    most = max((c.difference.n for c in family), default=0)
    if summary.test == "wilcoxon" and tested and tested * 2.0 ** (1 - most) >= 0.05:
        sentences.append(
            f"With {most} seeds and {tested} comparisons Wilcoxon's test can't find a "
            "difference, however large."
        )
    if any(row.top for row in summary.rows):
        sentences.append("Bold: the best mean of its column, and what ties with it.")
    return sentences


def _missing(summary: Summary) -> list[str]:
    """Missing seeds and values, rows that are compared with nothing, fixed axes."""
    rows, sentences = summary.rows, []
    lacking = [f"{row.name} lacks {_list(row.missing)}" for row in rows if row.missing]
    if lacking:
        sentences.append(f"Seeds are missing: {_list(lacking, separator='; ')}.")
    single = [row.name for row in rows if len(row.seeds) == 1]
    if single:
        sentences.append(f"One seed only, so no interval: {_list(single)}.")
    for row in comparisons.on_other_data(rows, summary):
        data = row.setting.done[0].data
        sentences.append(
            f"{row.name} was measured on other data{f' ({data})' if data else ''} and "
            "is compared with nothing."
        )
    incomplete = [r.name for r in rows if len(r.values[summary.split]) < len(r.seeds)]
    if incomplete:
        sentences.append(
            f"Finished runs without a finite {summary.split} {summary.metric} are left "
            f"out of the means of {_list(incomplete)}."
        )
    fixed = [f"{k}={label_text(v)}" for k, v in summary.roles.fixed.items()]
    if fixed:
        sentences.append(f"The same in all runs: {', '.join(fixed)}.")
    return sentences


def _list(items: Iterable[Any], most: int = _LISTED, separator: str = ", ") -> str:
    """Lists items: "a, b and 5 more"."""
    texts = [str(item) for item in items]
    if any(separator in text for text in texts):
        separator = "; "
    if len(texts) <= most:
        return separator.join(texts)
    return f"{separator.join(texts[:most])} and {len(texts) - most} more"
