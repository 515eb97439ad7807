"""`jaxtl report` and `jaxtl watch`: what sweeps and runs found, and how one goes on."""

import importlib.util
import pathlib

from jaxtl import conclusions, formats, records, report, rundir, tables, watch
from jaxtl import summarise as summarising

MOST = 40  # lines of a table on the terminal; files hold all of them
WIDE = 400


def report_(args) -> int:
    """`jaxtl report DIR… [--metric M] [--compare AXIS…] [--out FOLDER] …`."""
    collection = records.read(args.dirs)
    summary = summarising.summarise(
        collection,
        metric=args.metric,
        compare=args.compare,
        baseline=args.baseline,
        scratch=args.scratch,
        split=args.split,
        interval=args.interval,
        test=args.paired,
    )
    sheets = tables.sheets(summary)
    show(summary, sheets)
    out = args.out or args.dirs[0] / "report"
    written = write(collection, summary, sheets, out)
    print(f"written to {out}: {', '.join(path.name for path in written)}")
    return 0


def show(summary, sheets) -> None:
    """Prints the tables, what came out, and how to read it."""
    console = report.console()
    if not console.is_terminal:  # a file is as wide as it has to be
        console.width = WIDE
    if summary.title:
        console.print(summary.title, markup=False)
    for sheet in sheets:
        if len(sheet.rows) > MOST:
            sheet = tables.shortened(sheet, MOST)
        console.print(formats.terminal(sheet, console.width))
    for text in conclusions.conclusions(summary):
        console.print(text, markup=False, soft_wrap=True)
    console.print()
    for text in conclusions.notes(summary):
        console.print(text, markup=False, style="dim", soft_wrap=True)


def write(
    collection, summary, sheets, out: pathlib.Path, pictures=None
) -> list[pathlib.Path]:
    """Writes report.md, report.tex, the CSV files, the plots and the page.

    `pictures` are paths of plots that lie in `out` already; None draws them.
    """
    out.mkdir(parents=True, exist_ok=True)
    drawn, pictures = pictures is not None, pictures or []
    if not drawn and importlib.util.find_spec("jaxtl.plots_sweep"):
        from jaxtl import plots_sweep  # matplotlib takes a second to import

        pictures = plots_sweep.draw_all(collection, summary, out)
    seen = [path.relative_to(out).as_posix() for path in pictures]
    texts = {
        "report.md": formats.report_markdown(summary, sheets, seen),
        "report.tex": formats.report_latex(summary, sheets),
        "settings.csv": formats.settings_csv(summary),
        "cells.csv": formats.cells_csv(collection),
    }
    for name, text in texts.items():
        rundir.write_text(out / name, text)
    written = [out / name for name in texts]
    if importlib.util.find_spec("jaxtl.page"):
        from jaxtl import page

        page.write(collection, summary, pictures, out / "report.html")
        written.append(out / "report.html")
    return [*written, *pictures]


def watch_(args) -> int:
    """`jaxtl watch DIR [--once] [--interval SECONDS]`."""
    watch.watch(args.dir, once=args.once, interval=args.interval)
    return 0
