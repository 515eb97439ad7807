"""`jaxtl report`: writes tables, plots and a page of sweeps and runs."""

import argparse
import pathlib

from jaxtl.core import console, output_paths, progress

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


def main(args: argparse.Namespace) -> int:
    """Summarizes the runs and sweeps of some directories; prints and writes it."""
    from jaxtl.results import build_summary, records, report

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
    with progress.Task("drawing the plots"):
        paths = report.write_report(collection, summary, folder)
    names = ", ".join(path.name for path in paths)
    console.print_written(folder, hint=f"in it: {names}")
    return 0
