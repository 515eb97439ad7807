"""Shows a sweep or a folder of runs, and writes its report."""

import pathlib

from jaxtl.core import console as console_lib
from jaxtl.results import findings, html_report, tables, writers
from jaxtl.training import run_dir

MOST = 40  # lines of a table on the terminal; files hold all of them
WIDE = 400


def show(summary, sheets) -> None:
    """Prints the tables, what came out, and how to read it."""
    console = console_lib.console()
    if not console.is_terminal:  # a file is as wide as it has to be
        console.width = WIDE
    if summary.title:
        console.print(summary.title, markup=False)
    for sheet in sheets:
        if len(sheet.rows) > MOST:
            sheet = tables.shortened(sheet, MOST)
        console.print(writers.terminal(sheet, console.width))
    for text in findings.conclusions(summary):
        console.print(text, markup=False, soft_wrap=True)
    console.print()
    for text in findings.notes(summary):
        console.print(text, markup=False, style="dim", soft_wrap=True)


def write(
    collection, summary, sheets, out: pathlib.Path, pictures=None
) -> list[pathlib.Path]:
    """Writes report.md, report.tex, the CSV files, the plots and the page.

    `pictures` are paths of plots that lie in `out` already; None draws them.
    """
    out.mkdir(parents=True, exist_ok=True)
    drawn, pictures = pictures is not None, pictures or []
    if not drawn:
        from jaxtl.results.plots import sweep  # matplotlib takes a second to import

        pictures = sweep.draw_all(collection, summary, out)
    seen = [path.relative_to(out).as_posix() for path in pictures]
    texts = {
        "report.md": writers.report_markdown(summary, sheets, seen),
        "report.tex": writers.report_latex(summary, sheets),
        "settings.csv": writers.settings_csv(summary),
        "cells.csv": writers.cells_csv(collection),
    }
    for name, text in texts.items():
        run_dir.write_text(out / name, text)
    written = [out / name for name in texts]
    html_report.write(collection, summary, pictures, out / "report.html")
    written.append(out / "report.html")
    return [*written, *pictures]
