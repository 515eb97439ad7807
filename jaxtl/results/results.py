"""What sweeps and runs found, as a value that a notebook shows."""

import dataclasses
import functools
import html
import pathlib
import tempfile
from collections.abc import Iterable, Mapping

from jaxtl.core.errors import UserError, nearest
from jaxtl.results import build_summary, findings, records, report, tables, writers
from jaxtl.results.summary import Summary
from jaxtl.results.tables import Sheet

LINES = 40  # of a table that is shown; files hold all of them


@dataclasses.dataclass(frozen=True)
class Picture:
    """A plot that a notebook shows where it stands as a cell's last value."""

    name: str
    png: bytes = dataclasses.field(repr=False)
    svg: bytes = dataclasses.field(repr=False)

    def _repr_png_(self) -> bytes:
        return self.png

    def save(self, folder: str | pathlib.Path) -> pathlib.Path:
        """Writes a PNG and an SVG of its name; returns the PNG's path."""
        path = pathlib.Path(folder) / f"{self.name}.png"
        path.write_bytes(self.png)
        path.with_suffix(".svg").write_bytes(self.svg)
        return path


@dataclasses.dataclass(frozen=True)
class Results:
    """Records, and what they say: shown as tables with their conclusions.

    Attributes:
      collection: the records, one per cell of the sweep or run.
      summary: a line per compared setting, with means, intervals and comparisons; what
        was tuned was chosen on val.
    """

    collection: records.Collection
    summary: Summary

    def judged(self, **choices) -> "Results":
        """Returns the same records summed up otherwise; see `read_results`."""
        return summarize(self.collection, **choices)

    @functools.cached_property
    def pictures(self) -> Mapping[str, Picture]:
        """The pictures that the axes allow: "overview", "learning-curves" and others.

        Each is shown by naming it: `results.pictures["overview"]`.
        """
        from jaxtl.results.plots import sweep  # matplotlib takes a second to import

        with tempfile.TemporaryDirectory() as folder:
            drawn = sweep.draw_all(self.collection, self.summary, folder)
            found = {path.name.removesuffix(".png"): path for path in drawn}
            return _Named({name: _picture(name, path) for name, path in found.items()})

    def write(self, out: str | pathlib.Path) -> list[pathlib.Path]:
        """Writes what `jaxtl report` does: Markdown, LaTeX, CSV, plots, a page."""
        out, sheets = pathlib.Path(out), tables.sheets(self.summary)
        out.mkdir(parents=True, exist_ok=True)
        drawn = [picture.save(out) for picture in self.pictures.values()]
        found = self.collection, self.summary, sheets, out
        return report.write(*found, pictures=drawn)

    def __repr__(self) -> str:
        sheets = [writers.markdown(sheet) for sheet in tables.sheets(self.summary)[:1]]
        return "\n".join([*findings.conclusions(self.summary), "", *sheets])

    def _repr_html_(self) -> str:
        summary = self.summary
        first, *rest = tables.sheets(summary)
        parts = [f"<h4>{html.escape(summary.title)}</h4>"] if summary.title else []
        parts += [table(first), listed(findings.conclusions(summary))]
        for sheet in rest:
            plain = dataclasses.replace(sheet, title="")
            parts.append(_folded(sheet.title, table(plain)))
        parts.append(_folded("How to read this", listed(findings.notes(summary))))
        return "\n".join(parts)


def _picture(name: str, path: pathlib.Path) -> Picture:
    return Picture(name, path.read_bytes(), path.with_suffix(".svg").read_bytes())


class _Named(dict):
    """A dict whose error for an unknown name lists those it has."""

    def __missing__(self, name):
        raise UserError(
            f"there is no picture {name!r}{nearest(name, self)} "
            f"(pictures: {', '.join(self) or 'none'})."
        )


def summarize(collection: records.Collection, **choices) -> Results:
    """Returns records with their summary; `choices` as for `read_results`."""
    return Results(collection, build_summary.summarise(collection, **choices))


def read_results(*folders: str | pathlib.Path, **choices) -> Results:
    """Reads what sweeps and runs left in some folders.

    Args:
      folders: of `jaxtl sweep`, `run_sweep` or `jaxtl run`.
      choices: `metric`, `compare` (axes that get a line for each value; the others are
        tuned), `baseline` (["method=full"]), `scratch`, `split`, `interval` ("t" or
        "bootstrap"), `test` ("t" or "wilcoxon"): as the options of `jaxtl report`.

    Raises:
      UserError: a folder without results, names that do not exist.
    """
    return summarize(records.read(folders), **choices)


def table(sheet: Sheet) -> str:
    """Returns a sheet as an HTML table that a notebook's own style fits."""
    if len(sheet.rows) > LINES:
        sheet = tables.shortened(sheet, LINES)
    sides = [_side(i in sheet.left) for i in range(len(sheet.columns))]
    heads = "".join(
        f"<th{side}>{html.escape(name)}</th>"
        for side, name in zip(sides, sheet.columns)
    )
    rows = []
    for r, row in enumerate(sheet.rows):
        cells = (
            f"<td{side}>{_bold(text, (r, i) in sheet.bold)}</td>"
            for i, (side, text) in enumerate(zip(sides, row))
        )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    caption = f"<caption>{html.escape(sheet.title)}</caption>" * bool(sheet.title)
    head, body = f"<thead><tr>{heads}</tr></thead>", "\n".join(rows)
    return f"<table>{caption}{head}\n<tbody>{body}</tbody></table>"


def _side(left: bool) -> str:
    return f' style="text-align:{"left" if left else "right"}"'


def _bold(text: str, bold: bool) -> str:
    inner = html.escape(text)
    return f"<strong>{inner}</strong>" if bold else inner


def listed(texts: Iterable[str]) -> str:
    """Returns an HTML list, "" of nothing."""
    items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
    return f"<ul>{items}</ul>" if items else ""


def _folded(head: str, inner: str) -> str:
    return f"<details><summary>{html.escape(head)}</summary>{inner}</details>"
