"""`jaxtl report`: writes tables, plots and a page of sweeps and runs."""

import argparse
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxtl.core import console, output_paths, progress

if TYPE_CHECKING:
    from jaxtl.results.records import Collection
    from jaxtl.results.summary import Summary

HELP = "tables, plots and a page of sweeps and runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl report`."""
    parser.add_argument(
        "dirs",
        type=pathlib.Path,
        nargs="+",
        metavar="DIR",
        help="directories of sweeps, studies or runs",
    )
    parser.add_argument("--metric", help="default: what the runs were chosen by")
    parser.add_argument("--split", choices=("test", "val"), help="default: test if any")
    parser.add_argument(
        "--compare",
        nargs="+",
        metavar="AXIS",
        help="a line each; the other axes are chosen on val (default: numbers below "
        "optim, terms, peft and average are chosen)",
    )
    parser.add_argument(
        "--baseline",
        action="append",
        default=[],
        metavar="AXIS=VALUE",
        help="what the others are compared with (default: full, or the first)",
    )
    parser.add_argument(
        "--scratch",
        action="append",
        default=[],
        metavar="AXIS=VALUE",
        help="the from-scratch runs (default: those called scratch)",
    )
    parser.add_argument(
        "--interval",
        default="t",
        choices=("t", "bootstrap"),
        help="of the mean over seeds: Student's t, or by resampling",
    )
    parser.add_argument("--paired", default="t", choices=("t", "wilcoxon"), help="test")
    parser.add_argument(
        "--out",
        type=output_paths.OutputFolder,
        help="the directory (default: DIR/report)",
    )


def _single_run(dirs: Sequence[pathlib.Path]) -> pathlib.Path | None:
    """The finished run that is reported by itself; None for several, or none."""
    from jaxtl.training import run_dir, run_paths

    [first, *others] = dirs
    if others or not first.is_dir() or run_paths.is_sweep(first):
        return None
    runs = run_paths.runs_in(first)
    [run] = runs if len(runs) == 1 else [None]
    has_result = run is not None and (run / "result.json").exists()
    return run if has_result and (run / run_dir.MARK).exists() else None


def _of_run(
    run: pathlib.Path,
    collection: "Collection",
    summary: "Summary",
    folder: pathlib.Path,
) -> tuple[list[pathlib.Path], list[tuple[str, str, str]]]:
    """The plots of a single run, with its losses first, and its own sections."""
    from jaxtl.results import run_page
    from jaxtl.results.plots import loss_curves, sweep

    [record] = collection.records
    folder.mkdir(parents=True, exist_ok=True)
    losses = loss_curves.loss_curves(
        record.curve, record.result.get("chosen"), folder / "losses.png"
    )
    plots = [losses] if losses else []
    plots += sweep.draw_all(collection, summary, folder)
    return plots, [tuple(s) for s in run_page.sections(run, record.result)]


def main(args: argparse.Namespace) -> int:
    """Summarizes the runs and sweeps of some directories; prints and writes it.

    The page of a single run has its losses, its classes and its worst examples, too.
    """
    from jaxtl.results import build_summary, records, report, run_page

    run = _single_run(args.dirs)
    folder = args.out or args.dirs[0] / "report"
    output_paths.check_folder(folder)
    with progress.Task("reading and comparing the runs"):
        collection = records.read(args.dirs)
        summary = build_summary.summarize(
            collection,
            metric=args.metric,
            compare=args.compare,
            baseline=args.baseline,
            scratch=args.scratch,
            split=args.split,
            interval=args.interval,
            test=args.paired,
        )
    report.print_report(summary)
    plots, sections = None, []
    if run is not None and len(collection.records) == 1:
        with progress.Task("looking at the run's predictions"):
            plots, sections = _of_run(run, collection, summary, folder)
            collection = run_page.with_settings(collection, run)
    with progress.Task("drawing the plots"):
        paths = report.write_report(collection, summary, folder, plots, sections)
    names = ", ".join(path.name for path in paths)
    console.print_written(folder, hint=f"in it: {names}")
    return 0
