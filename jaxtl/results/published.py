"""Published tables that are run again: rows, verdicts, and the report's files."""

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jaxtl.core import atomic
from jaxtl.training import run_dir

REPRODUCED, WITHIN = "reproduced", "in our 95 % interval"
ABOVE, BELOW = "missed, above", "missed, below"
INCOMPARABLE, UNPUBLISHED = "not comparable", "no published figure"
VERDICTS = (REPRODUCED, WITHIN, ABOVE, BELOW, INCOMPARABLE, UNPUBLISHED)
COLUMNS = ("method", "setting", "published", "ours", "difference", "verdict")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """A published figure.

    Attributes:
      value: in the table's unit.
      source: paper and table that it was read from.
      tolerance: how far ours may differ from it, in the same unit; fixed before the
        run.
      incomparable: why ours can't be compared with it, "" where it can.
    """

    value: float
    source: str
    tolerance: float
    incomparable: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One row of a reproduced table.

    Attributes:
      method: the method that was run.
      setting: the data or conditions that it was run on ("C→A", "40 % noise").
      ours: our figure, in the table's unit.
      interval: half the width of its 95 % interval, None for a single run.
      published: the published figure, None where there is none.
      note: why it misses, or another remark.
    """

    method: str
    setting: str
    ours: float
    interval: float | None = None
    published: Published | None = None
    note: str = ""

    @property
    def difference(self) -> float | None:
        """Ours − published; None where nothing is published."""
        return None if self.published is None else self.ours - self.published.value

    @property
    def verdict(self) -> str:
        """One of VERDICTS.

        WITHIN is a figure beyond the tolerance that lies in our interval. It says less
        than REPRODUCED: a wide interval, of few seeds, has many figures in it.
        """
        if self.published is None:
            return UNPUBLISHED
        if self.published.incomparable:
            return INCOMPARABLE
        # 1e-9 allows for rounding in float64.
        if abs(self.difference) <= self.published.tolerance + 1e-9:
            return REPRODUCED
        if self.interval is not None and abs(self.difference) <= self.interval:
            return WITHIN
        return ABOVE if self.difference > 0 else BELOW


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """A published table and how to run it again.

    Attributes:
      name: of the file, and of the table on the command line.
      title: one line.
      protocol: the procedure in Markdown, exact enough for others to repeat it.
      run: `run(fast) -> rows`; fast runs a part that takes seconds, and its rows are
        rows of the full table wherever nothing random shrinks with it.
      findings: the results and why rows miss, in Markdown, written after the full run.
      unit: of all figures.
      digits: after the decimal point.
      needs: files under $JAXTL_DATA_DIR that the report names.
    """

    name: str
    title: str
    protocol: str
    run: Callable[[bool], list[PublishedRow]]
    findings: str = ""
    unit: str = "accuracy %"
    digits: int = 2
    needs: tuple[str, ...] = ()


def _counts(rows: Iterable[PublishedRow]) -> dict[str, int]:
    """Verdict -> number of rows, without the verdicts that no row has."""
    counts = collections.Counter(row.verdict for row in rows)
    return {verdict: counts[verdict] for verdict in VERDICTS if counts[verdict]}


def row_texts(study: Study, row: PublishedRow) -> tuple[str, ...]:
    """A row as texts, one per heading of COLUMNS."""
    digits = study.digits
    ours = f"{row.ours:.{digits}f}"
    if row.interval is not None:
        ours += f" ± {row.interval:.{digits}f}"
    published, difference = "–", "–"
    if row.published is not None:
        published = f"{row.published.value:.{digits}f}"
        difference = f"{row.difference:+.{digits}f}"
    return row.method, row.setting, published, ours, difference, row.verdict


def verdict_counts(rows: Sequence[PublishedRow]) -> str:
    """The number of rows with each verdict: "3 reproduced, 1 missed, below."."""
    return ", ".join(f"{n} {verdict}" for verdict, n in _counts(rows).items()) + "."


def write(
    study: Study, rows: Sequence[PublishedRow], folder: pathlib.Path
) -> list[pathlib.Path]:
    """Writes NAME.md and NAME.json into a folder; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    markdown, data = folder / f"{study.name}.md", folder / f"{study.name}.json"
    atomic.write_text(markdown, _markdown(study, rows))
    run_dir.write_json(data, _json(study, rows))
    return [markdown, data]


def _markdown(study: Study, rows: Sequence[PublishedRow]) -> str:
    """The report: protocol, verdicts, table, sources, findings, notes on rows."""
    parts = [
        f"# {study.title}",
        f"```bash\njaxtl reproduce {study.name}\n```",
        _needs(study) + study.protocol.strip(),
        f"## Verdicts\n\n{verdict_counts(rows)}",
        _table(study, rows),
        "Published figures:\n\n" + (_bullets(_sources(rows)) or "none."),
    ]
    if study.findings:
        parts.append(f"## What came out\n\n{study.findings.strip()}")
    notes = _notes(rows)
    if notes:
        parts.append(f"## Notes on rows\n\n{_bullets(notes)}")
    return "\n\n".join(parts) + "\n"


def _needs(study: Study) -> str:
    if not study.needs:
        return ""
    names = ", ".join(f"`{name}`" for name in study.needs)
    return f"Needs under `$JAXTL_DATA_DIR`: {names}.\n\n"


def _table(study: Study, rows: Sequence[PublishedRow]) -> str:
    """The rows as a table in Markdown."""
    heads = [f"{c} ({study.unit})" if c == "ours" else c for c in COLUMNS]
    lines = [heads, ["---", "---", "---:", "---:", "---:", "---"]]
    lines += [row_texts(study, row) for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _sources(rows: Sequence[PublishedRow]) -> list[str]:
    """The sources of the published figures, with their tolerances and methods."""
    methods: dict[str, dict[str, None]] = {}
    for row in rows:
        figure = row.published
        if figure is not None:
            line = f"{figure.source} (tolerance {figure.tolerance:g})"
            if figure.incomparable:
                line += f"; not comparable: {figure.incomparable}"
            methods.setdefault(line, {})[row.method] = None
    return [f"{', '.join(names)}: {line}" for line, names in methods.items()]


def _notes(rows: Sequence[PublishedRow]) -> list[str]:
    """The notes on rows, each once with all the settings that it is about."""
    settings: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.note:
            settings.setdefault((row.method, row.note), []).append(row.setting)
    return [
        f"{method}, {', '.join(names)}: {note}"
        for (method, note), names in settings.items()
    ]


def _json(study: Study, rows: Sequence[PublishedRow]) -> dict[str, Any]:
    """The table as values for JSON."""
    return {
        "name": study.name,
        "title": study.title,
        "unit": study.unit,
        "counts": _counts(rows),
        "rows": [
            {
                "method": row.method,
                "setting": row.setting,
                "ours": row.ours,
                "interval": row.interval,
                "published": row.published and row.published.value,
                "tolerance": row.published and row.published.tolerance,
                "source": row.published and row.published.source,
                "difference": row.difference,
                "verdict": row.verdict,
                "note": row.note,
            }
            for row in rows
        ],
    }


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
