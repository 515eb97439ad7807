"""The report of a sweep or of runs: printed on the terminal, written into a folder."""

import pathlib
from collections.abc import Sequence

from jaxtl.core import atomic, console
from jaxtl.results import findings, html_report, tables, writers
from jaxtl.results.records import Collection
from jaxtl.results.summary import Summary

_ROWS = 40  # of a table on the terminal; files hold all of them
_FILE_WIDTH = 400  # characters of a line where the output is no terminal


def print_report(summary: Summary) -> None:
    """Prints the tables, the conclusions, and the notes on how to read them."""
    terminal = console.console()
    if not terminal.is_terminal:
        terminal.width = _FILE_WIDTH
    if summary.title:
        terminal.print(summary.title, markup=False)
    for table in tables.summary_tables(summary):
        if len(table.rows) > _ROWS:
            table = tables.shortened(table, _ROWS)
        terminal.print(writers.fitted_rich_table(table, terminal.width))
    for text in findings.conclusions(summary):
        terminal.print(text, markup=False, soft_wrap=True)
    terminal.print()
    for text in findings.notes(summary):
        terminal.print(text, markup=False, style="dim", soft_wrap=True)


def write_report(
    collection: Collection,
    summary: Summary,
    folder: pathlib.Path,
    plots: Sequence[pathlib.Path] | None = None,
    sections: Sequence[tuple[str, str, str]] = (),
) -> list[pathlib.Path]:
    """Writes report.md, report.tex, the CSV files, report.html and the plots.

    Args:
      collection: the records.
      summary: of the same records.
      folder: created where it does not exist.
      plots: paths of plots that are in the folder already; None draws them.
      sections: (id, title, HTML) of further sections of the page.

    Returns:
      the paths of all files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if plots is None:
        from jaxtl.results.plots import sweep  # matplotlib takes a second to import

        plots = sweep.draw_all(collection, summary, folder)
    report_tables = tables.summary_tables(summary)
    plot_names = [path.relative_to(folder).as_posix() for path in plots]
    texts = {
        "report.md": writers.report_markdown(summary, report_tables, plot_names),
        "report.tex": writers.report_latex(summary, report_tables),
        "settings.csv": writers.settings_csv(summary),
        "cells.csv": writers.cells_csv(collection),
    }
    for name, text in texts.items():
        atomic.write_text(folder / name, text)
    page = folder / "report.html"
    html_report.write(collection, summary, plots, page, sections)
    return [*(folder / name for name in texts), page, *plots]
