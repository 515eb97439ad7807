"""Published tables beside our own figures, with a verdict for each."""

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jaxtl.training import run_dir

REPRODUCED, ABOVE, BELOW = "reproduced", "missed, above", "missed, below"
INCOMPARABLE, UNPUBLISHED = "not comparable", "no published figure"
VERDICTS = (REPRODUCED, ABOVE, BELOW, INCOMPARABLE, UNPUBLISHED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """A figure that somebody else printed.

    Attributes:
      value: in the table's unit.
      source: paper and table; never a figure from memory alone.
      tolerance: how far ours may lie from it, in the same unit; fixed before running.
      incomparable: why ours can't be held against it ("" where it can).
    """

    value: float
    source: str
    tolerance: float
    incomparable: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One line of a reproduced table.

    Attributes:
      method: what was run.
      setting: on what ("C→A", "40 % noise").
      ours: our figure, in the table's unit.
      interval: half the width of its 95 % interval, None where one run decides.
      published: None where no figure was found.
      note: why it misses, or what to know about it.
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
        """One of VERDICTS."""
        if self.published is None:
            return UNPUBLISHED
        if self.published.incomparable:
            return INCOMPARABLE
        # A figure rounded like the published one is no miss: 1e-9 is float64's own.
        if abs(self.difference) <= self.published.tolerance + 1e-9:
            return REPRODUCED
        return ABOVE if self.difference > 0 else BELOW


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """A published table and how to run it again.

    Attributes:
      name: the file's, and the command's word.
      title: one line.
      protocol: what is done, so exactly that others could do it; Markdown.
      run: `run(fast) -> rows`; fast runs a part that takes seconds, and its rows are
        rows of the full table wherever nothing random shrinks with it.
      findings: what came out and why rows miss, written after the full run; Markdown.
      unit: of all figures.
      digits: after the point.
      needs: files under $JAXTL_DATA_DIR, for the reader.
    """

    name: str
    title: str
    protocol: str
    run: Callable[[bool], list[PublishedRow]]
    findings: str = ""
    unit: str = "accuracy %"
    digits: int = 2
    needs: tuple[str, ...] = ()


def counts(rows: Iterable[PublishedRow]) -> dict[str, int]:
    """Returns how many rows have each verdict, those that none has left out."""
    found = collections.Counter(row.verdict for row in rows)
    return {verdict: found[verdict] for verdict in VERDICTS if found[verdict]}


COLUMNS = ("method", "setting", "published", "ours", "difference", "verdict")


def cells(study: Study, row: PublishedRow) -> tuple[str, ...]:
    """Returns a row as texts, one per heading of COLUMNS."""
    digits = study.digits
    ours = f"{row.ours:.{digits}f}"
    if row.interval is not None:
        ours += f" ± {row.interval:.{digits}f}"
    known = row.published is not None
    return (
        row.method,
        row.setting,
        f"{row.published.value:.{digits}f}" if known else "–",
        ours,
        f"{row.difference:+.{digits}f}" if known else "–",
        row.verdict,
    )


def write(study: Study, rows: Sequence[PublishedRow], folder: pathlib.Path) -> list:
    """Writes NAME.md and NAME.json into a folder; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    markdown, data = folder / f"{study.name}.md", folder / f"{study.name}.json"
    run_dir.write_text(markdown, text(study, rows))
    run_dir.write_json(data, to_json(study, rows))
    return [markdown, data]


def text(study: Study, rows: Sequence[PublishedRow]) -> str:
    """Returns the report: protocol, verdicts, table, sources, what the misses are."""
    parts = [
        f"# {study.title}",
        f"```bash\njaxtl reproduce {study.name}\n```",
        _needs(study) + study.protocol.strip(),
        f"## Verdicts\n\n{verdicts(rows)}",
        table(study, rows),
        "Published figures:\n\n" + (_bullets(sources(rows)) or "none."),
    ]
    if study.findings:
        parts.append(f"## What came out\n\n{study.findings.strip()}")
    notes = remarks(rows)
    if notes:
        parts.append(f"## Notes on rows\n\n{_bullets(notes)}")
    return "\n\n".join(parts) + "\n"


def _needs(study: Study) -> str:
    if not study.needs:
        return ""
    names = ", ".join(f"`{name}`" for name in study.needs)
    return f"Needs under `$JAXTL_DATA_DIR`: {names}.\n\n"


def verdicts(rows: Sequence[PublishedRow]) -> str:
    """Returns the count of each verdict as one line."""
    found = counts(rows)
    return ", ".join(f"{n} {verdict}" for verdict, n in found.items()) + "."


def table(study: Study, rows: Sequence[PublishedRow]) -> str:
    """Returns the table in Markdown."""
    heads = [f"{c} ({study.unit})" if c == "ours" else c for c in COLUMNS]
    lines = [heads, ["---", "---", "---:", "---:", "---:", "---"]]
    lines += [cells(study, row) for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def sources(rows: Sequence[PublishedRow]) -> list[str]:
    """Returns where the published figures come from, and their tolerances."""
    found: dict[str, list[str]] = {}
    for row in rows:
        known = row.published
        if known is not None:
            line = f"{known.source} (tolerance {known.tolerance:g})"
            line += f"; not comparable: {known.incomparable}" * bool(known.incomparable)
            methods = found.setdefault(line, [])
            if row.method not in methods:
                methods.append(row.method)
    return [f"{', '.join(methods)}: {line}" for line, methods in found.items()]


def remarks(rows: Sequence[PublishedRow]) -> list[str]:
    """Returns what rows have to say, once for all rows that say the same."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.note:
            found.setdefault((row.method, row.note), []).append(row.setting)
    return [f"{name}, {', '.join(on)}: {note}" for (name, note), on in found.items()]


def to_json(study: Study, rows: Sequence[PublishedRow]) -> dict[str, Any]:
    """Returns the table as plain values."""
    return {
        "name": study.name,
        "title": study.title,
        "unit": study.unit,
        "counts": counts(rows),
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
