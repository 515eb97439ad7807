"""The report of a sweep as one HTML file that needs no network and no fonts.

Its text comes from labels and files that anyone may have written: all of it is escaped.
"""

import base64
import html
import importlib.resources
import json
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jaxtl
from jaxtl.core import atomic, serialization
from jaxtl.results import database, environment, findings, tables
from jaxtl.results.inline_svg import inline_svg
from jaxtl.results.labels import label_text, short_axis_name
from jaxtl.results.outcome_table import WORDS, outcome_table
from jaxtl.results.records import Collection
from jaxtl.results.summary import Summary
from jaxtl.results.tables import TextTable

LARGE = 500_000  # bytes of an SVG above which the PNG is shown
_MEDIUM = 14  # characters of a text above which it wraps where space is short
_LONG = 50  # characters of a text above which it wraps anyway
_OPTIONS = 60  # values of an axis above which it gets no selection list
_TALL = 25  # rows of a table above which it scrolls
_SIZE = "<!-- size -->"


def write(
    collection: Collection,
    summary: Summary,
    plots: Iterable[pathlib.Path],
    path: str | pathlib.Path,
    further: Iterable[tuple[str, str, str]] = (),
) -> None:
    """Writes the page.

    Args:
      collection: the records.
      summary: of the same records.
      plots: PNG files; an SVG of the same name is shown instead.
      path: of the page.
      further: (id, title, HTML) of sections behind the plots.
    """
    sections = {
        "findings": ("What came out", _findings(summary)),
        "results": ("Results", _results(summary)),
        "plots": ("Plots", _plots(plots)),
        **{name: (title, content) for name, title, content in further},
        "settings": ("All settings", _settings(summary)),
        "configuration": ("Configuration", _configuration(collection)),
        "failures": ("Failures", _failures(collection)),
        "environment": ("Environment", _environment(collection)),
    }
    sections = {name: pair for name, pair in sections.items() if pair[1]}
    links = "".join(f'<a href="#{n}">{title}</a>' for n, (title, _) in sections.items())
    body = "".join(
        f'<section id="{name}" aria-labelledby="{name}-head">'
        f'<h2 id="{name}-head">{title}</h2>{content}</section>\n'
        for name, (title, content) in sections.items()
    )
    title = _escape(collection.title or "Results")
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{_asset('page.css')}</style>\n</head>\n"
        f"<body>\n<header><h1>{title}</h1>{_description(collection, summary)}"
        f'<nav aria-label="contents">{links}</nav></header>\n'
        f'<main>\n{body}</main>\n<footer class="soft">jaxtl {jaxtl.__version__}'
        f" · {_SIZE}</footer>\n<script>\n{_asset('page.js')}</script>\n"
        "</body>\n</html>\n"
    )
    atomic.write_text(pathlib.Path(path), _with_size(page))


def _with_size(page: str) -> str:
    """The page with its own size in place of its mark."""
    size = len(page.encode()) / 1e6
    text = f"{1e3 * size:.0f} kB" if size < 1 else f"{size:.1f} MB"
    head, _, tail = page.rpartition(_SIZE)
    return f"{head}one file of {text}, which needs no network{tail}"


def _asset(name: str) -> str:
    folder = importlib.resources.files("jaxtl.results").joinpath("assets")
    return folder.joinpath(name).read_text("utf-8")


def _escape(value: Any) -> str:
    return html.escape(str(value), quote=True)


def _description(collection: Collection, summary: Summary) -> str:
    """The docstring of the experiment file after its first line, and the progress."""
    doc = (collection.meta.get("doc") or "").partition("\n")[2]
    done = summary.counts.get(database.DONE, 0)
    facts = [f"{done:,} of {summary.total:,} cells done"] * (summary.total > 1)
    facts += [collection.meta["file"]] if collection.meta.get("file") else []
    lead = f'<p class="soft">{_escape(" · ".join(facts))}</p>'
    return _prose(doc) + lead


def _prose(text: str) -> str:
    """Writes paragraphs; what is indented or has columns keeps its spaces."""
    parts: list[tuple[str, str]] = []
    for block in re.split(r"\n\s*\n", text.strip("\n").rstrip()):
        tag = "pre" if re.search(r"^ |\S  +\S", block, re.MULTILINE) else "p"
        if tag == "pre" and parts and parts[-1][0] == "pre":
            block = f"{parts.pop()[1]}\n\n{block}"
        parts.append((tag, block))
    return "".join(f"<{tag}>{_escape(t)}</{tag}>" for tag, t in parts if t.strip())


def _findings(summary: Summary) -> str:
    """The table of methods by settings, or sentences where there is none; warnings."""
    progress, alarms = findings.progress(summary), findings.alarms(summary)
    warnings = [*(alarms if any(row.alarms for row in summary.rows) else ()), *progress]
    matrix = outcome_table(summary)
    if matrix is None:
        sentences = findings.conclusions(summary)
        content = html_list([text for text in sentences if text not in warnings])
    else:
        content = html_table("matrix", matrix, controls=False)
        sentences = [*alarms, *findings.choosing_without_labels(summary)]
        content += html_list([text for text in sentences if text not in warnings])
    content += html_list(warnings, ' class="warnings"')
    return content + _notes(summary) if content else ""


def _notes(summary: Summary) -> str:
    """How to read the tables."""
    progress = findings.progress(summary)
    notes = [text for text in findings.notes(summary) if text not in progress]
    head = "<summary>How to read the tables</summary>"
    return f"<details>{head}{html_list(notes)}</details>" if notes else ""


def html_list(texts: Sequence[str], attributes: str = "") -> str:
    """Writes sentences as a list, "" for none."""
    items = "".join(f"<li>{_escape(text)}</li>" for text in texts)
    return f"<ul{attributes}>{items}</ul>" if texts else ""


def _results(summary: Summary) -> str:
    axes = len(summary.roles.compared)
    content = html_table("results", tables.main_table(summary), selectable=axes)
    content += html_list(findings.pretraining(summary), ' class="soft"')
    return content if _findings(summary) else content + _notes(summary)


def _settings(summary: Summary) -> str:
    if len(summary.settings) <= len(summary.rows):
        return ""
    axes = len(summary.roles.compared) + len(summary.roles.tuned)
    return html_table("settings", tables.settings_table(summary), selectable=axes)


def html_table(
    name: str, table: TextTable, *, selectable: int = 0, controls: bool = True
) -> str:
    """Writes a table, with its controls.

    Args:
      name: of the table, unique in the page; the script puts it into the address.
      table: the texts.
      selectable: the first columns that get a list to select a value from.
      controls: whether there is a filter, of more than one row.
    """
    heads = "".join(
        f'<th scope="col" aria-sort="none"{_class(_alignment(table, i))}>'
        f'<button type="button">{_escape(heading) or "verdict"}</button></th>'
        for i, heading in enumerate(table.columns)
    )
    rows = "".join(
        f"<tr>{''.join(_cell(table, r, i, t) for i, t in enumerate(row))}</tr>\n"
        for r, row in enumerate(table.rows)
    )
    tall = " tall" if len(table.rows) > _TALL else ""
    title = _escape(table.title)
    has_controls = controls and len(table.rows) > 1
    above = _controls(name, table, selectable) if has_controls else ""
    return (
        f'<div data-table="{name}">{above}'
        f'<div class="scroll{tall}" tabindex="0" role="region" aria-label="{title}">'
        f"<table><caption>{title}</caption><thead><tr>{heads}</tr></thead>\n"
        f"<tbody>\n{rows}</tbody></table></div></div>\n"
    )


def _alignment(table: TextTable, column: int) -> list[str]:
    """The CSS classes for the alignment of a column."""
    return ["left"] if column in table.text_columns else []


def _class(names: Sequence[str]) -> str:
    return f' class="{" ".join(names)}"' if names else ""


def _cell(table: TextTable, row: int, column: int, text: str) -> str:
    width = "long" if len(text) > _LONG else "medium" if len(text) > _MEDIUM else ""
    names = _alignment(table, column) + [width] * bool(width)
    names += ["main"] * (column == table.result)
    names += ["words"] * (table.columns[column] == WORDS)
    content = _escape(text)
    if (row, column) in table.bold:
        content = f"<strong>{content}</strong>"
    if column == 0:
        return f'<th scope="row"{_class(names)}>{content}</th>'
    # On a phone a row is a card, in which every value has its heading before it.
    heading = _escape(table.columns[column])
    return f'<td data-label="{heading}"{_class(names)}>{content}</td>'


def _controls(name: str, table: TextTable, selectable: int) -> str:
    """Writes a filter, selection lists, a reset button and the number of lines."""
    content = (
        '<label>filter, all words<input type="search" name="filter" '
        'autocomplete="off" spellcheck="false"></label>'
    )
    for i, heading in enumerate(table.columns[:selectable]):
        values = list(dict.fromkeys(row[i] for row in table.rows))
        if 1 < len(values) <= _OPTIONS:
            # The "=" distinguishes the value "" from the option "all".
            options = "".join(
                f'<option value="={_escape(v)}">{_escape(v) or "–"}</option>'
                for v in values
            )
            content += (
                f'<label>{_escape(heading)}<select name="{_escape(heading)}" '
                f'data-column="{i}"><option value="">all</option>{options}'
                "</select></label>"
            )
    options = "".join(
        f'<option value="{i}">{_escape(heading)}</option>'
        for i, heading in enumerate(table.columns)
        if heading
    )
    content += (
        '<label class="sort">sort by<select name="order" data-sort>'
        f'<option value="">as listed</option>{options}</select></label>'
    )
    label = f"show all lines of {name}"
    content += f'<button type="button" data-reset aria-label="{label}">reset</button>'
    count = f'<p class="count" role="status">{len(table.rows):,} lines</p>'
    return f'<div class="controls">{content}</div>{count}'


def _plots(plots: Iterable[pathlib.Path]) -> str:
    content = "".join(plot_figure(pathlib.Path(path)) for path in plots)
    return f'<div class="plots">{content}</div>' if content else ""


def plot_figure(path: pathlib.Path) -> str:
    """Writes a plot as an HTML figure whose image is part of the page.

    An SVG is part of the markup, so that it has the page's colors; a PNG is not.

    Args:
      path: of the PNG; an SVG of the same name is used up to LARGE bytes.
    """
    vector, title, markup = path.with_suffix(".svg"), path.stem.replace("-", " "), ""
    if vector.exists():
        text = vector.read_text("utf-8")
        match = re.search(r"<dc:title>(.*?)</dc:title>", text, re.DOTALL)
        title = html.unescape(match.group(1)) if match else title
        if len(text) <= LARGE:
            markup = inline_svg(text, path.stem, title)
    name, caption = _escape(path.stem), f"<figcaption>{_escape(title)}</figcaption>"
    if markup:
        return f'<figure id="plot-{name}">{caption}{markup}</figure>\n'
    source = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    # The PNG has its title, and a white background, in it.
    image = f'<img src="{source}" alt="{_escape(title)}" loading="lazy">'
    return f'<figure id="plot-{name}" class="pixels">{image}</figure>\n'


def _configuration(collection: Collection) -> str:
    """The axes of the sweep, and where each variant differs from the first."""
    axes = collection.meta.get("axes") or collection.axes
    rows = [(axis, ", ".join(map(label_text, axes[axis]))) for axis in axes]
    content = ""
    if rows and len(collection.records) > 1:
        table = text_table("what the sweep varies", ("axis", "values"), rows)
        content = html_table("axes", table, controls=False)
    overrides = collection.meta.get("overrides") or ()
    content += html_list(
        [f"override: {label_text(override)}" for override in overrides]
    )
    experiments = collection.meta.get("experiments") or {}
    variants = {name: dict(flatten_json(value)) for name, value in experiments.items()}
    return content + (_variants(variants) if variants else "")


def _variants(variants: Mapping[str, Mapping[str, str]]) -> str:
    """The fields of the first variant, and the fields in which the others differ.

    Args:
      variants: name -> {path of a field: its value as text}.
    """
    (base, fields), *variations = variants.items()
    differences = [
        (name, path, fields.get(path, "–"), changed.get(path, "–"))
        for name, changed in variations
        for path in dict.fromkeys((*fields, *changed))
        if fields.get(path) != changed.get(path)
    ]
    content = ""
    if differences:
        columns = ("variant", "setting", f"{base} (base)", "here")
        title = f"where variants differ from {base}"
        table = text_table(title, columns, differences)
        content += html_table("differences", table, selectable=2)
    title = f"configuration of {base}"
    table = text_table(title, ("setting", "value"), fields.items())
    head = _escape(f"All settings of {base}" if variations else "All settings")
    details = html_table("base", table)
    return f"{content}<details><summary>{head}</summary>{details}</details>"


def text_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]
) -> TextTable:
    """A table all of whose columns are text."""
    rows = tuple(map(tuple, rows))
    text_columns = frozenset(range(len(columns)))
    return TextTable(
        title=title, columns=tuple(columns), rows=rows, text_columns=text_columns
    )


def flatten_json(experiment: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yields (dotted path, value as text) of an experiment that is stored as JSON.

    Args:
      experiment: a value in the form of `serialization.to_json`, or its JSON text.
      path: of the value.
    """
    value = experiment
    if isinstance(value, str) and not path:
        value = json.loads(value)
    if isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
        value = {"type": "map", "items": list(enumerate(value))}
    if not isinstance(value, Mapping) or "type" not in value:
        yield path, label_text(value)
        return
    kind = str(value["type"])
    if kind == "map":
        items = [(str(name), item) for name, item in serialization.map_items(value)]
    elif ":" in kind:
        yield path or "type", kind.rpartition(":")[2]
        items = [(name, item) for name, item in value.items() if name != "type"]
    else:
        texts = [label_text(item) for name, item in value.items() if name != "type"]
        yield path, ", ".join(texts).rpartition(":")[2] or kind
        return
    for name, item in items:
        yield from flatten_json(item, f"{path}.{name}" if path else name)


def _failures(collection: Collection) -> str:
    statuses = (database.FAILED, database.INTERRUPTED, database.DAMAGED)
    failed = [r for r in collection.records if r.status in statuses]
    if not failed:
        return ""
    axes = list(collection.axes)
    rows = [
        (*(label_text(r.labels[a]) if a in r.labels else "" for a in axes), r.error)
        for r in failed
    ]
    columns = (*map(short_axis_name, axes), "what happened")
    table = text_table(
        "cells that failed, were interrupted or can't be read", columns, rows
    )
    return html_table("failed", table, selectable=len(axes))


def _environment(collection: Collection) -> str:
    items = "".join(
        f"<dt>{_escape(name)}</dt><dd>{_escape(text)}</dd>"
        for name, text in environment.rows(collection).items()
    )
    return f"<dl>{items}</dl>"
