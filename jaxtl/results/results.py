"""Results of sweeps and runs as a value that a notebook shows."""

import dataclasses
import functools
import html
import pathlib
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

from jaxtl.core import atomic
from jaxtl.core.errors import UserError, nearest
from jaxtl.results import build_summary, findings, records, report, tables, writers
from jaxtl.results.records import Collection
from jaxtl.results.summary import Summary
from jaxtl.results.tables import TextTable

_ROWS = 40  # of a table that is shown; files hold all of them


@dataclasses.dataclass(frozen=True)
class Plot:
    """A plot that a notebook shows where it is the last value of a cell."""

    name: str
    png: bytes = dataclasses.field(repr=False)
    svg: bytes = dataclasses.field(repr=False)

    def _repr_png_(self) -> bytes:
        return self.png

    def save(self, folder: str | pathlib.Path) -> pathlib.Path:
        """Writes NAME.png and NAME.svg into a folder; returns the path of the PNG."""
        path = pathlib.Path(folder) / f"{self.name}.png"
        atomic.write_bytes(path, self.png)
        atomic.write_bytes(path.with_suffix(".svg"), self.svg)
        return path


@dataclasses.dataclass(frozen=True)
class Results:
    """Records with their summary, shown as tables and conclusions.

    Attributes:
      collection: the records, one per cell of the sweep or run.
      summary: a row per compared setting, with means, intervals and comparisons;
        tuned values are chosen on val.
    """

    collection: Collection
    summary: Summary

    def summarize(self, **options: Any) -> "Results":
        """Summarizes the same records with other options; see `read_results`."""
        return _summarized(self.collection, **options)

    @functools.cached_property
    def plots(self) -> Mapping[str, Plot]:
        """The plots that the axes allow: "overview", "learning-curves" and others.

        A notebook shows one by its name: `results.plots["overview"]`.
        """
        from jaxtl.results.plots import sweep  # matplotlib takes a second to import

        with tempfile.TemporaryDirectory() as folder:
            paths = sweep.draw_all(self.collection, self.summary, folder)
            plots = [
                Plot(
                    path.stem, path.read_bytes(), path.with_suffix(".svg").read_bytes()
                )
                for path in paths
            ]
        return _PlotsByName((plot.name, plot) for plot in plots)

    def write(self, out: str | pathlib.Path) -> list[pathlib.Path]:
        """Writes the files of `jaxtl report`: Markdown, LaTeX, CSV, plots, a page."""
        folder = pathlib.Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [plot.save(folder) for plot in self.plots.values()]
        return report.write_report(self.collection, self.summary, folder, paths)

    def __repr__(self) -> str:
        table = writers.markdown(tables.main_table(self.summary))
        return "\n".join([*findings.conclusions(self.summary), "", table])

    def _repr_html_(self) -> str:
        summary = self.summary
        main, *details = tables.summary_tables(summary)
        parts = [f"<h4>{html.escape(summary.title)}</h4>"] if summary.title else []
        parts += [html_table(main), _html_list(findings.conclusions(summary))]
        for table in details:
            untitled = dataclasses.replace(table, title="")
            parts.append(_html_details(table.title, html_table(untitled)))
        notes = _html_list(findings.notes(summary))
        parts.append(_html_details("How to read this", notes))
        return "\n".join(parts)


class _PlotsByName(dict):
    """Plots by name; the error for an unknown name lists those that exist."""

    def __missing__(self, name: str) -> Plot:
        raise UserError(
            f"there is no plot {name!r}{nearest(name, self)} "
            f"(plots: {', '.join(self) or 'none'})."
        )


def _summarized(collection: Collection, **options: Any) -> Results:
    return Results(collection, build_summary.summarize(collection, **options))


def read_results(*folders: str | pathlib.Path, **options: Any) -> Results:
    """Reads the results of sweeps and runs from their folders.

    Args:
      folders: of `jaxtl sweep`, `run_sweep` or `jaxtl run`.
      options: `metric`, `compare` (axes that get a row for each value; the others are
        tuned), `baseline` (["method=full"]), `scratch`, `split`, `interval` ("t" or
        "bootstrap"), `test` ("t" or "wilcoxon"), as the options of `jaxtl report`.

    Returns:
      The tables, findings and plots; a notebook shows the table.

    Raises:
      UserError: a folder has no results, or a name does not exist.
    """
    return _summarized(records.read(folders), **options)


def html_table(table: TextTable) -> str:
    """Writes a table in HTML in the notebook's own style; numbers do not wrap."""
    if len(table.rows) > _ROWS:
        table = tables.shortened(table, _ROWS)
    sides = [
        "left" if i in table.text_columns else "right"
        for i in range(len(table.columns))
    ]
    heads = "".join(
        f'<th style="text-align:{side}">{html.escape(name)}</th>'
        for side, name in zip(sides, table.columns)
    )
    styles = {
        "left": ' style="text-align:left"',
        "right": ' style="text-align:right;white-space:nowrap"',
    }
    rows = []
    for r, row in enumerate(table.rows):
        cells = (
            f"<td{styles[side]}>{_html_cell(text, (r, i) in table.bold)}</td>"
            for i, (side, text) in enumerate(zip(sides, row))
        )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    caption = f"<caption>{html.escape(table.title)}</caption>" * bool(table.title)
    head, body = f"<thead><tr>{heads}</tr></thead>", "\n".join(rows)
    return f"<table>{caption}{head}\n<tbody>{body}</tbody></table>"


def _html_cell(text: str, bold: bool) -> str:
    escaped = html.escape(text)
    return f"<strong>{escaped}</strong>" if bold else escaped


def _html_list(texts: Iterable[str]) -> str:
    """An HTML list, "" without items."""
    items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
    return f"<ul>{items}</ul>" if items else ""


def _html_details(head: str, content: str) -> str:
    return f"<details><summary>{html.escape(head)}</summary>{content}</details>"
