"""What came out, as a small table: methods by settings, with a line of words each."""

from collections.abc import Mapping, Sequence

from jaxtl.results import comparisons
from jaxtl.results.format_number import format_estimate, metric_unit
from jaxtl.results.labels import label_text, labels_key, labels_text, short_axis_name
from jaxtl.results.summary import SettingSummary, Summary
from jaxtl.results.tables import TextTable

WORDS = "in words"  # heading of the last column
_MOST_COLUMNS = 12
_MIN_PAIRS = 2  # common seeds that a comparison needs


def outcome_table(summary: Summary) -> TextTable | None:
    """A row per method with its result in every setting, and what that says in words.

    Bold are the best mean of a setting and what can't be told from it.

    Returns:
      the table; None without an axis of methods, with a single method, or with more
      settings than a reader compares at a glance.
    """
    method = summary.roles.method
    if method is None:
        return None
    axes = [name for name in summary.roles.compared if name != method]
    complete = [row for row in summary.rows if set(axes) <= set(row.compared)]
    settings = {labels_key(row.compared, axes): row for row in complete}
    methods: dict[str, dict[tuple, SettingSummary]] = {}
    for row in summary.rows:
        # A row without the axes of settings, as of a baseline, has its own column.
        key = labels_key(row.compared, axes)
        settings.setdefault(key, row)
        methods.setdefault(label_text(row.compared.get(method)), {})[key] = row
    if len(methods) < 2 or len(settings) > _MOST_COLUMNS:
        return None
    headings = {key: _heading(row, axes) for key, row in settings.items()}
    standings = _standings(summary)
    rows, bold = [], set()
    for i, (name, members) in enumerate(methods.items()):
        cells = [_cell(summary, members.get(key)) for key in settings]
        words = {headings[key]: standings[id(row)] for key, row in members.items()}
        rows.append((name, *cells, _sentence(words)))
        for j, key in enumerate(settings, start=1):
            if key in members and members[key].top:
                bold.add((i, j))
    title = f"{summary.split} {summary.metric}{metric_unit(summary.metric)}"
    return TextTable(
        title=f"{title}; bold: the best, and what is not significantly different",
        columns=(short_axis_name(method), *headings.values(), WORDS),
        rows=tuple(rows),
        text_columns=frozenset({0, len(headings) + 1}),
        bold=frozenset(bold),
    )


def _heading(row: SettingSummary, axes: Sequence[str]) -> str:
    """The setting of a row in words: "10 per class", "labels_per_class=10"."""
    labels = {name: row.compared[name] for name in axes if name in row.compared}
    if len(labels) == 1 and all(isinstance(value, str) for value in labels.values()):
        return label_text(*labels.values())
    return labels_text(labels) or "result"


def _cell(summary: Summary, row: SettingSummary | None) -> str:
    if row is None:
        return ""
    return format_estimate(
        summary.metric, row.estimate(summary.split), summary.interval
    )


def _standings(summary: Summary) -> dict[int, str]:
    """id of a row -> how it stands in its setting, in words."""
    words = {id(row): "no result" for row in summary.rows}
    for column in comparisons.columns(summary.rows, summary).values():
        rows = [summary.rows[i] for i in column]
        best = summary.rows[comparisons.best_row(summary.rows, column, summary)]
        tied = any(row.top for row in rows if row is not best)
        for row in rows:
            words[id(row)] = _standing(summary, row, best, tied)
    return words


def _standing(
    summary: Summary, row: SettingSummary, best: SettingSummary, tied: bool
) -> str:
    """How a row stands: against the references, or else against the best of all.

    Args:
      summary: of the results.
      row: a row of a setting.
      best: the row of that setting with the best mean.
      tied: whether others can't be told from the best.
    """
    alarms = [alarm for alarm in row.alarms if alarm.significant]
    if alarms:
        return f"negative transfer: {' and '.join(alarm.text for alarm in alarms)}"
    if row is best:
        return "best mean, tied" if tied else "best"
    weak = f"; {row.alarms[0].text}" if row.alarms else ""
    if row.top:
        return f"tied with the best{weak}"
    ours, theirs = row.values[summary.split], best.values[summary.split]
    if len(set(ours) & set(theirs)) < _MIN_PAIRS:
        better = summary.rank(row) > summary.rank(best)
        return f"too few seeds to tell{', though better' * better}{weak}"
    return f"worse than the best{weak}"


def _sentence(words: Mapping[str, str]) -> str:
    """Joins the words of all settings: equal ones are said once."""
    settings_of: dict[str, list[str]] = {}
    for setting, text in words.items():
        settings_of.setdefault(text, []).append(setting)
    if len(settings_of) == 1:
        [(text, settings)] = settings_of.items()
        return f"in all settings: {text}" if len(settings) > 1 else text
    return "; ".join(
        f"{', '.join(settings)}: {text}" for text, settings in settings_of.items()
    )
