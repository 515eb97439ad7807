"""A sweep's report as one HTML file: no network, no fonts, opens from the disk.

Text comes from labels and files of anyone's making: all of it is escaped.
"""

import base64
import collections
import html
import importlib.resources
import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jaxtl
from jaxtl.results import database, findings, settings, tables
from jaxtl.results.records import Collection
from jaxtl.results.summary import Summary
from jaxtl.results.tables import Sheet
from jaxtl.training import run_dir

LARGE = 500_000  # bytes of an SVG above which the PNG is shown
_LONG = 28  # characters of a text from which it wraps
_CHOICES = 60  # values of an axis that a list can be chosen from
_TALL = 25  # rows of a table from which it scrolls


def write(
    collection: Collection,
    summary: Summary,
    plots: Iterable[pathlib.Path],
    path: str | pathlib.Path,
) -> None:
    """Writes the page.

    Args:
      collection: of records.
      summary: of the same records.
      plots: PNG files; an SVG beside one is shown instead.
      path: of the page.
    """
    parts = {
        "findings": ("What came out", _findings(summary)),
        "results": ("Results", _results(summary)),
        "plots": ("Plots", _plots(plots)),
        "settings": ("All settings", _settings(summary)),
        "configuration": ("Configuration", _configuration(collection)),
        "failures": ("Failures", _failures(collection)),
        "environment": ("Environment", _environment(collection)),
    }
    parts = {name: part for name, part in parts.items() if part[1]}
    links = "".join(f'<a href="#{n}">{title}</a>' for n, (title, _) in parts.items())
    body = "".join(
        f'<section id="{name}" aria-labelledby="{name}-head">'
        f'<h2 id="{name}-head">{title}</h2>{inner}</section>\n'
        for name, (title, inner) in parts.items()
    )
    title = _text(collection.title or "Results")
    text = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{_file('page.css')}</style>\n</head>\n"
        f"<body>\n<header><h1>{title}</h1>{_doc(collection, summary)}"
        f'<nav aria-label="contents">{links}</nav></header>\n'
        f'<main>\n{body}</main>\n<footer class="soft">jaxtl {jaxtl.__version__}'
        f"</footer>\n<script>\n{_file('page.js')}</script>\n</body>\n</html>\n"
    )
    run_dir.write_text(pathlib.Path(path), text)


def _file(name: str) -> str:
    return (
        importlib.resources.files("jaxtl.results")
        .joinpath("assets", name)
        .read_text("utf-8")
    )


def _text(value: Any) -> str:
    return html.escape(str(value), quote=True)


def _doc(collection: Collection, summary: Summary) -> str:
    rest = (collection.meta.get("doc") or "").partition("\n")[2].strip()
    done = summary.counts.get(database.DONE, 0)
    told = [f"{done:,} of {sum(summary.counts.values()):,} cells done"]
    told += [collection.meta["file"]] if collection.meta.get("file") else []
    lead = f'<p class="soft">{_text(" · ".join(told))}</p>'
    return (f'<p class="doc">{_text(rest)}</p>' if rest else "") + lead


def _findings(summary: Summary) -> str:
    found = findings.conclusions(summary)
    warned = [t for t in found if t.startswith(("Negative transfer", "Below "))]
    rest = [t for t in found if t not in warned]
    progress = findings.progress(summary)
    notes = [t for t in findings.notes(summary) if t not in progress]
    made = _list(rest) + _list([*warned, *progress], ' class="warnings"')
    if notes:
        head = "<summary>How to read the tables</summary>"
        made += f"<details>{head}{_list(notes)}</details>"
    return made


def _list(texts: Sequence[str], kind: str = "") -> str:
    items = "".join(f"<li>{_text(t)}</li>" for t in texts)
    return f"<ul{kind}>{items}</ul>" if texts else ""


def _results(summary: Summary) -> str:
    choices, grid = len(summary.division.compared), tables.grid(summary)
    made = _sheet("results", tables.main(summary), choices=choices)
    return made + (_sheet("grid", grid, controls=False) if grid else "")


def _settings(summary: Summary) -> str:
    if len(summary.settings) <= len(summary.lines):
        return ""
    axes = len(summary.division.compared) + len(summary.division.tuned)
    return _sheet("settings", tables.every(summary), choices=axes)


def _sheet(name: str, sheet: Sheet, *, choices: int = 0, controls: bool = True) -> str:
    """Returns a table with its filter, and a list for each of the first columns."""
    heads = "".join(
        f'<th scope="col" aria-sort="none"{_side(i in sheet.left)}>'
        f'<button type="button">{_text(c) or "verdict"}</button></th>'
        for i, c in enumerate(sheet.columns)
    )
    rows = "".join(
        f"<tr>{''.join(_cell(sheet, r, i, t) for i, t in enumerate(row))}</tr>\n"
        for r, row in enumerate(sheet.rows)
    )
    tall = " tall" if len(sheet.rows) > _TALL else ""
    title = _text(sheet.title)
    above = _controls(name, sheet, choices) if controls else ""
    return (
        f'<div data-sheet="{name}">{above}'
        f'<div class="scroll{tall}" tabindex="0" role="region" aria-label="{title}">'
        f"<table><caption>{title}</caption><thead><tr>{heads}</tr></thead>\n"
        f"<tbody>\n{rows}</tbody></table></div></div>\n"
    )


def _side(left: bool) -> str:
    return ' class="left"' if left else ""


def _cell(sheet: Sheet, row: int, column: int, text: str) -> str:
    kinds = ["left"] * (column in sheet.left) + ["long"] * (len(text) > _LONG)
    kind = f' class="{" ".join(kinds)}"' if kinds else ""
    inner = _text(text)
    inner = f"<strong>{inner}</strong>" if (row, column) in sheet.bold else inner
    if column == 0:
        return f'<th scope="row"{kind}>{inner}</th>'
    return f"<td{kind}>{inner}</td>"


def _controls(name: str, sheet: Sheet, choices: int) -> str:
    made = (
        '<label>filter, all words<input type="search" name="filter" '
        'autocomplete="off" spellcheck="false"></label>'
    )
    for i, column in enumerate(sheet.columns[:choices]):
        known = list(dict.fromkeys(row[i] for row in sheet.rows))
        if 1 < len(known) <= _CHOICES:
            # "=" tells a label that is "" from the choice of all.
            options = "".join(
                f'<option value="={_text(v)}">{_text(v) or "–"}</option>' for v in known
            )
            made += (
                f'<label>{_text(column)}<select name="{_text(column)}" '
                f'data-column="{i}"><option value="">all</option>{options}'
                "</select></label>"
            )
    label = f"show all lines of {name}"
    made += f'<button type="button" data-reset aria-label="{label}">reset</button>'
    count = f'<p class="count" role="status">{len(sheet.rows)} lines</p>'
    return f'<div class="controls">{made}</div>{count}'


def _plots(plots: Iterable[pathlib.Path]) -> str:
    made = "".join(_plot(pathlib.Path(path)) for path in plots)
    return f'<div class="plots">{made}</div>' if made else ""


def _plot(path: pathlib.Path) -> str:
    """Returns an image as data: apart from the page, so that names don't clash."""
    vector, kind, data = path.with_suffix(".svg"), "png", path.read_bytes()
    title = path.stem.replace("-", " ")
    if vector.exists():
        text = vector.read_text("utf-8")
        said = re.search(r"<dc:title>(.*?)</dc:title>", text, re.DOTALL)
        title = html.unescape(said.group(1)) if said else title
        if len(text) <= LARGE:
            kind, data = "svg+xml", text.encode()
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    image = f'<img src="{source}" alt="{_text(title)}" loading="lazy">'
    return f'<figure id="plot-{_text(path.stem)}">{image}</figure>\n'


def _configuration(collection: Collection) -> str:
    """Returns what varies, and where each variant differs from the first."""
    swept = collection.meta.get("axes") or collection.axes
    rows = [(a, ", ".join(map(settings.text, swept[a]))) for a in swept]
    made = _plain("axes", "what the sweep varies", ("axis", "values"), rows)
    overrides = collection.meta.get("overrides") or ()
    if overrides:
        made += _list([f"override: {settings.text(o)}" for o in overrides])
    found = collection.meta.get("experiments") or {}
    flat = {name: dict(flattened(value)) for name, value in found.items()}
    if not flat:
        return made
    base, *others = flat
    rows = [
        (name, path, flat[base].get(path, "–"), flat[name].get(path, "–"))
        for name in others
        for path in dict.fromkeys((*flat[base], *flat[name]))
        if flat[base].get(path) != flat[name].get(path)
    ]
    if rows:
        columns = ("variant", "setting", f"{base} (base)", "here")
        sheet = _made(f"where variants differ from {base}", columns, rows)
        made += _sheet("differences", sheet, choices=2)
    whole = _made(f"configuration of {base}", ("setting", "value"), flat[base].items())
    inner = _sheet("base", whole)
    head = _text(f"All settings of {base}" if others else "All settings")
    return f"{made}<details><summary>{head}</summary>{inner}</details>"


def _made(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Sheet:
    left = frozenset(range(len(columns)))
    return Sheet(
        title=title, columns=tuple(columns), rows=tuple(map(tuple, rows)), left=left
    )


def _plain(name: str, title: str, columns: Sequence[str], rows) -> str:
    return _sheet(name, _made(title, columns, rows), controls=False) if rows else ""


def flattened(snapshot: Any, path: str = "") -> Iterable[tuple[str, str]]:
    """Yields (dotted path, text) of a configuration as `snapshot.to_json` stores it."""
    if isinstance(snapshot, str) and not path:
        snapshot = json.loads(snapshot)
    if isinstance(snapshot, list) and any(isinstance(v, dict | list) for v in snapshot):
        snapshot = {"type": "map", "items": list(enumerate(snapshot))}
    if not isinstance(snapshot, Mapping) or "type" not in snapshot:
        yield path, settings.text(snapshot)
        return
    kind = str(snapshot["type"])
    if kind == "map":
        items = [(str(k), v) for k, v in snapshot["items"]]
    elif ":" in kind:
        yield path or "type", kind.rpartition(":")[2]
        items = [(k, v) for k, v in snapshot.items() if k != "type"]
    else:
        shown = [settings.text(v) for k, v in snapshot.items() if k != "type"]
        yield path, ", ".join(shown).rpartition(":")[2] or kind
        return
    for name, value in items:
        yield from flattened(value, f"{path}.{name}" if path else name)


def _failures(collection: Collection) -> str:
    wanted = (database.FAILED, database.DAMAGED)
    failed = [r for r in collection.records if r.status in wanted]
    if not failed:
        return ""
    axes = list(collection.axes)
    rows = [
        (*(settings.text(r.labels[a]) if a in r.labels else "" for a in axes), r.error)
        for r in failed
    ]
    columns = (*map(settings.short, axes), "what happened")
    sheet = _made("cells that failed or can't be read", columns, rows)
    return _sheet("failed", sheet, choices=len(axes))


def _environment(collection: Collection) -> str:
    """Returns versions, devices and commits, with counts where cells differ."""
    found: dict[str, collections.Counter] = {}
    done = [r.result for r in collection.records if r.status == database.DONE]
    for result in done:
        facts = {"commit": result.get("git_commit"), **(result.get("versions") or {})}
        facts |= {k: result.get(k) for k in ("device", "devices", "python")}
        for name, value in facts.items():
            if value is not None:
                found.setdefault(name, collections.Counter())[settings.text(value)] += 1
    rows = {
        name: ", ".join(
            text if len(seen) == 1 else f"{text} ({n:,} cells)"
            for text, n in seen.most_common()
        )
        for name, seen in found.items()
    }
    for name, value in (collection.meta.get("environment") or {}).items():
        if isinstance(value, str | int | float) and name not in rows:
            rows[name] = settings.text(value)
    folders = dict.fromkeys(r.folder.name for r in collection.records if r.folder.name)
    rows = {"read from": ", ".join(folders), **rows}
    items = "".join(f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>" for k, v in rows.items())
    return f"<dl>{items}</dl>"
