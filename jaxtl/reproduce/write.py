"""A reproduced table as files: Markdown to read, JSON to compare with."""

import pathlib
from collections.abc import Sequence
from typing import Any

from jaxtl import rundir
from jaxtl.reproduce.base import COLUMNS, Row, Study, cells, counts


def write(study: Study, rows: Sequence[Row], folder: pathlib.Path) -> list:
    """Writes NAME.md and NAME.json into a folder; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    markdown, data = folder / f"{study.name}.md", folder / f"{study.name}.json"
    rundir.write_text(markdown, text(study, rows))
    rundir.write_json(data, to_json(study, rows))
    return [markdown, data]


def text(study: Study, rows: Sequence[Row]) -> str:
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


def verdicts(rows: Sequence[Row]) -> str:
    """Returns the count of each verdict as one line."""
    found = counts(rows)
    return ", ".join(f"{n} {verdict}" for verdict, n in found.items()) + "."


def table(study: Study, rows: Sequence[Row]) -> str:
    """Returns the table in Markdown."""
    heads = [f"{c} ({study.unit})" if c == "ours" else c for c in COLUMNS]
    lines = [heads, ["---", "---", "---:", "---:", "---:", "---"]]
    lines += [cells(study, row) for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def sources(rows: Sequence[Row]) -> list[str]:
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


def remarks(rows: Sequence[Row]) -> list[str]:
    """Returns what rows have to say, once for all rows that say the same."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.note:
            found.setdefault((row.method, row.note), []).append(row.setting)
    return [f"{name}, {', '.join(on)}: {note}" for (name, note), on in found.items()]


def to_json(study: Study, rows: Sequence[Row]) -> dict[str, Any]:
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
