"""Tables and results in several formats: terminal, Markdown, LaTeX, CSV."""

import csv
import io
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxtl.core import console
from jaxtl.results import findings
from jaxtl.results.labels import label_text, labels_key
from jaxtl.results.records import Collection
from jaxtl.results.statistics import Estimate
from jaxtl.results.summary import SettingSummary, Summary
from jaxtl.results.tables import TextTable

if TYPE_CHECKING:
    import rich.table


def rich_table(table: TextTable) -> "rich.table.Table":
    """Makes a rich table of all columns; it is cut off where it does not fit."""
    return console.table(
        table.title, table.columns, table.rows, left=len(table.text_columns)
    )


def fitted_rich_table(table: TextTable, width: int) -> "rich.table.Table":
    """Makes a rich table for a width, without the optional columns that don't fit."""
    from rich.text import Text

    columns = list(range(len(table.columns)))
    for name in table.optional:
        if _width(table, columns) <= width:
            break
        columns = [i for i in columns if table.columns[i] != name]
    result = console.table("", [""] * len(columns), ())
    result.title = Text(table.title)  # rich would read "[b]" in a string as a style
    crowded = _width(table, columns) > width
    for column, i in zip(result.columns, columns):
        column.header = Text(table.columns[i])
        column.justify = "left" if i in table.text_columns else "right"
        column.no_wrap, column.overflow = not crowded, "fold"
    for r, row in enumerate(table.rows):
        styles = ["bold" if (r, i) in table.bold else "" for i in columns]
        result.add_row(*(Text(row[i], style=s) for i, s in zip(columns, styles)))
    return result


def _width(table: TextTable, columns: Sequence[int]) -> int:
    """The width of some columns on a terminal, in characters."""
    widths = [
        max(len(text) for text in (table.columns[i], *(row[i] for row in table.rows)))
        for i in columns
    ]
    return sum(widths) + 3 * len(widths) + 2


def markdown(table: TextTable) -> str:
    """Writes a table in Markdown."""

    def escaped(text: str) -> str:
        return text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*")

    lines = [[escaped(name) for name in table.columns]]
    lines.append(
        ["---" if i in table.text_columns else "---:" for i in range(len(lines[0]))]
    )
    for r, row in enumerate(table.rows):
        lines.append(
            [
                f"**{escaped(text)}**" if (r, i) in table.bold else escaped(text)
                for i, text in enumerate(row)
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "<": "$<$",
    ">": "$>$",
    "θ": r"$\theta$",
    "₀": "$_0$",
    "–": "--",
    "→": r"$\to$",
}


def _escape_latex(text: str) -> str:
    """Replaces the characters that LaTeX does not print as they are."""
    return "".join(_LATEX.get(character, character) for character in text)


def latex(table: TextTable) -> str:
    """Writes a table in LaTeX, in the style of the package booktabs."""
    columns = range(len(table.columns))
    alignment = "".join("l" if i in table.text_columns else "r" for i in columns)
    body = []
    for r, row in enumerate(table.rows):
        cells = map(_escape_latex, row)
        cells = [
            rf"\textbf{{{text}}}" if (r, i) in table.bold else text
            for i, text in enumerate(cells)
        ]
        body.append(" & ".join(cells) + r" \\")
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escape_latex(table.title)}}}",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        " & ".join(map(_escape_latex, table.columns)) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def report_markdown(
    summary: Summary, tables: Sequence[TextTable], plots: Iterable[str] = ()
) -> str:
    """Writes the whole report in Markdown: conclusions, tables, plots, notes.

    Args:
      summary: of the results.
      tables: of the summary.
      plots: paths of the plots, relative to the report.
    """
    parts = [f"# {summary.title or 'Results'}\n"]
    parts.append("".join(f"- {text}\n" for text in findings.conclusions(summary)))
    parts += [f"## {table.title}\n\n{markdown(table)}" for table in tables]
    parts += [f"![{pathlib.PurePath(path).stem}]({path})\n" for path in plots]
    parts.append("## Notes\n")
    parts.append("".join(f"- {text}\n" for text in findings.notes(summary)))
    parts.append("Every setting: `settings.csv`; every cell: `cells.csv`.\n")
    return "\n".join(part for part in parts if part)


def report_latex(summary: Summary, tables: Sequence[TextTable]) -> str:
    """Writes the tables, to be \\input into a document; notes are comments."""
    head = ["% needs \\usepackage{booktabs}"]
    head += [f"% {text}" for text in findings.notes(summary)]
    return "\n".join(head) + "\n\n" + "\n".join(latex(table) for table in tables)


def settings_csv(summary: Summary) -> str:
    """Writes a line per setting; test results only of those that were chosen."""
    roles = summary.roles
    axes = [*roles.compared, *roles.tuned, *roles.fixed]
    # The rows of the main table are settings too, with their comparisons.
    rows = {labels_key(row.labels): row for row in summary.rows}
    settings = [rows.get(labels_key(s.labels), s) for s in summary.settings]
    return _csv(
        [
            {
                **{name: _plain(setting.labels.get(name)) for name in axes},
                "chosen": int(setting.selected),
                **_counts(setting),
                **_estimate("val", setting.val),
                **_estimate("test", setting.test),
                **_comparison(setting),
                "drift": setting.drift,
                "trainable_parameters": setting.trainable,
                "seconds": setting.seconds,
            }
            for setting in [*settings, *summary.pretraining]
        ]
    )


def _counts(setting: SettingSummary) -> dict[str, Any]:
    return {
        "seeds": len(setting.seeds),
        "failed": setting.failed,
        "stopped": setting.stopped,
        "interrupted": setting.interrupted,
        "unfinished": setting.unfinished,
        "candidates": setting.candidates if setting.selected else None,
    }


def _estimate(split: str, estimate: Estimate | None) -> dict[str, float | None]:
    mean, low, high = estimate[:3] if estimate else (None, None, None)
    return {f"{split}_mean": mean, f"{split}_low": low, f"{split}_high": high}


def _comparison(setting: SettingSummary) -> dict[str, Any]:
    comparison = setting.comparison
    difference = comparison.difference if comparison else None
    return {
        "baseline": comparison.against if comparison else None,
        "difference": difference.mean if difference else None,
        "difference_low": difference.low if difference else None,
        "difference_high": difference.high if difference else None,
        "p": difference.p if difference else None,
        "p_holm": comparison.adjusted if comparison else None,
        "verdict": comparison.verdict if comparison else None,
        "alarm": "; ".join(alarm.text for alarm in setting.alarms) or None,
    }


def cells_csv(collection: Collection) -> str:
    """Writes a line per record: labels, every metric, every number of its result."""
    rows = []
    for record in collection.records:
        row = {"key": record.key, "folder": str(record.folder), "status": record.status}
        row |= {name: _plain(record.labels.get(name)) for name in collection.axes}
        for name, value in record.result.items():
            if name in ("val", "test", "examples"):
                row |= {f"{name}.{k}": v for k, v in (value or {}).items()}
            elif not isinstance(value, dict | list) and name not in row:
                row[name] = value
        rows.append({**row, "error": record.error})
    return _csv(rows)


def _plain(value: Any) -> Any:
    # Numbers keep all digits: "%g" would round what a program reads back.
    if isinstance(value, int | float) or value is None:
        return value
    return label_text(value)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    names = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
