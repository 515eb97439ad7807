"""`jaxtl compare`: prints and plots a table of finished runs."""

import argparse
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxtl.core import console, output_paths, progress
from jaxtl.core.errors import UserError

if TYPE_CHECKING:
    from jaxtl.results.records import Record

HELP = "a table of runs, mean ± 95 % interval"
_LISTED = 8  # runs without a result that are named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl compare`."""
    parser.add_argument(
        "dirs",
        type=pathlib.Path,
        nargs="+",
        help="directories of runs, studies or sweeps",
    )
    parser.add_argument("--metric", help="default: what the runs were chosen by")
    parser.add_argument(
        "--plot", type=output_paths.OutputPicture, metavar="PNG", help="also draw it"
    )
    parser.add_argument(
        "--against",
        metavar="FACT",
        help="draw the metric against a number of result.json, such as drift",
    )


def main(args: argparse.Namespace) -> int:
    """Prints a row per setting, averaged over its seeds, and plots them on request."""
    from jaxtl.results import comparability, records, settings, study_tables, writers

    with progress.Task("reading the runs"):
        runs = records.read_by_directory(args.dirs)
    comparability.check_contents(runs)
    groups = settings.group_by_setting(runs)
    finished = [run.result for group in groups for run in group.done]
    if args.metric is not None and finished:
        settings.check_metric(finished, args.metric)
    table = study_tables.runs_table(groups, args.metric)
    console.console().print(writers.rich_table(table))
    _print_left_out(records.read_without_result(args.dirs))
    if args.plot:
        from jaxtl.results.plots import runs as plots  # matplotlib imports slowly

        if args.against:
            plots.against(groups, args.against, args.plot, metric=args.metric)
        else:
            plots.study(groups, args.plot)
        console.print_written(args.plot)
    elif args.against:
        raise UserError("--against needs --plot: the PNG that it is drawn to.")
    return 0


def _print_left_out(runs: Sequence["Record"]) -> None:
    """Prints the runs that are in no row, and why."""
    for run in runs[:_LISTED]:
        reason = f"{run.status}: {run.error}" if run.status == "failed" else run.error
        print(f"left out: {run.key}: {reason or run.status}")
    if len(runs) > _LISTED:
        print(f"left out: {len(runs) - _LISTED} more runs without a result")
