"""Tables and results as files: terminal, Markdown, LaTeX, CSV."""

import csv
import io
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxtl.core import console
from jaxtl.results import findings, settings
from jaxtl.results.records import Collection
from jaxtl.results.statistics import Estimate
from jaxtl.results.summary import Line, Summary
from jaxtl.results.tables import Sheet


def plain(sheet: Sheet):
    """Returns a rich table of all columns, cut off where it does not fit."""
    left = len(sheet.left)
    return console.table(sheet.title, sheet.columns, sheet.rows, left=left)


def terminal(sheet: Sheet, width: int = 160):
    """Returns a rich table; optional columns are left out where they don't fit."""
    from rich.text import Text

    kept = list(range(len(sheet.columns)))
    for name in sheet.optional:
        if _width(sheet, kept) <= width:
            break
        kept = [i for i in kept if sheet.columns[i] != name]
    made = console.table("", [""] * len(kept), ())
    made.title = Text(sheet.title)  # as it is: rich would read "[b]" as a style
    crowded = _width(sheet, kept) > width
    for column, i in zip(made.columns, kept):
        column.header = Text(sheet.columns[i])
        column.justify = "left" if i in sheet.left else "right"
        column.no_wrap, column.overflow = not crowded, "fold"
    for r, row in enumerate(sheet.rows):
        made.add_row(
            *(Text(row[i], style="bold" if (r, i) in sheet.bold else "") for i in kept)
        )
    return made


def _width(sheet: Sheet, kept: Sequence[int]) -> int:
    widths = [
        max(len(text) for text in (sheet.columns[i], *(row[i] for row in sheet.rows)))
        for i in kept
    ]
    return sum(widths) + 3 * len(widths) + 2


def markdown(sheet: Sheet) -> str:
    """Returns a Markdown table."""

    def escaped(text: str) -> str:
        return text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*")

    lines = [[escaped(c) for c in sheet.columns]]
    lines.append(["---" if i in sheet.left else "---:" for i in range(len(lines[0]))])
    for r, row in enumerate(sheet.rows):
        lines.append(
            [
                f"**{escaped(t)}**" if (r, i) in sheet.bold else escaped(t)
                for i, t in enumerate(row)
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


def escape(text: str) -> str:
    """Returns text as LaTeX prints it."""
    return "".join(_LATEX.get(character, character) for character in text)


def latex(sheet: Sheet) -> str:
    """Returns a LaTeX table in the style of the package booktabs."""
    form = "".join("l" if i in sheet.left else "r" for i in range(len(sheet.columns)))
    body = []
    for r, row in enumerate(sheet.rows):
        cells = [
            rf"\textbf{{{escape(text)}}}" if (r, i) in sheet.bold else escape(text)
            for i, text in enumerate(row)
        ]
        body.append(" & ".join(cells) + r" \\")
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(sheet.title)}}}",
        rf"\begin{{tabular}}{{{form}}}",
        r"\toprule",
        " & ".join(escape(name) for name in sheet.columns) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def report_markdown(
    summary: Summary, sheets: Sequence[Sheet], pictures: Iterable[str] = ()
) -> str:
    """Returns the whole report: conclusions, tables, pictures, notes.

    Args:
      summary: of the results.
      sheets: its tables.
      pictures: paths as they are seen from the report.
    """
    parts = [f"# {summary.title or 'Results'}\n"]
    parts.append("".join(f"- {text}\n" for text in findings.conclusions(summary)))
    parts += [f"## {sheet.title}\n\n{markdown(sheet)}" for sheet in sheets]
    parts += [f"![{pathlib.PurePath(path).stem}]({path})\n" for path in pictures]
    parts.append("## Notes\n")
    parts.append("".join(f"- {text}\n" for text in findings.notes(summary)))
    parts.append("Every setting: `settings.csv`; every cell: `cells.csv`.\n")
    return "\n".join(part for part in parts if part)


def report_latex(summary: Summary, sheets: Sequence[Sheet]) -> str:
    """Returns the tables, to be \\input into a document; notes as comments."""
    head = ["% needs \\usepackage{booktabs}"]
    head += [f"% {text}" for text in findings.notes(summary)]
    return "\n".join(head) + "\n\n" + "\n".join(latex(sheet) for sheet in sheets)


def settings_csv(summary: Summary) -> str:
    """Returns a line per setting; test only for those that were chosen."""
    division = summary.division
    axes = [*division.compared, *division.tuned, *division.fixed]
    rows = [
        {
            **{name: _plain(line.labels.get(name)) for name in axes},
            "chosen": int(line.chosen),
            **_counts(line),
            **_estimate("val", line.val),
            **_estimate("test", line.test),
            **_comparison(line),
            "drift": line.drift,
            "trainable_parameters": line.trainable,
            "seconds": line.seconds,
        }
        for line in _judged(summary)
    ]
    return _csv(rows)


def _judged(summary: Summary) -> list[Line]:
    """Returns all settings; those of the main table with their comparisons."""
    judged = {settings.key(line.labels): line for line in summary.lines}
    return [judged.get(settings.key(x.labels), x) for x in summary.settings]


def _counts(line: Line) -> dict[str, Any]:
    return {
        "seeds": len(line.seeds),
        "failed": line.failed,
        "stopped": line.stopped,
        "unfinished": line.unfinished,
        "candidates": line.candidates if line.chosen else None,
    }


def _estimate(split: str, found: Estimate | None) -> dict[str, float | None]:
    mean, low, high = found[:3] if found else (None, None, None)
    return {f"{split}_mean": mean, f"{split}_low": low, f"{split}_high": high}


def _comparison(line: Line) -> dict[str, Any]:
    pair = line.comparison
    gap = pair.difference if pair else None
    return {
        "baseline": pair.against if pair else None,
        "difference": gap.mean if gap else None,
        "difference_low": gap.low if gap else None,
        "difference_high": gap.high if gap else None,
        "p": gap.p if gap else None,
        "p_holm": pair.adjusted if pair else None,
        "verdict": pair.verdict if pair else None,
        "alarm": "; ".join(alarm.text for alarm in line.alarms) or None,
    }


def cells_csv(collection: Collection) -> str:
    """Returns a line per record: labels, every metric, every number of its result."""
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
    # Numbers as they are: "%g" would round what a program reads back.
    return (
        value
        if isinstance(value, int | float) or value is None
        else settings.text(value)
    )


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    names = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
