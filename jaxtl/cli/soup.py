"""`jaxtl soup`: averages the weights of several runs of one model."""

import argparse
import pathlib

from jaxtl.cli import formatting, merged_weights
from jaxtl.core import console, output_paths

HELP = "the averaged weights of several runs of one model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl soup`."""
    parser.add_argument(
        "dirs",
        type=pathlib.Path,
        nargs="+",
        help="directories of runs of one model, or of studies of such runs",
    )
    parser.add_argument(
        "--greedy", action="store_true", help="only those that help on val"
    )
    parser.add_argument(
        "--out",
        "--save",
        type=output_paths.OutputFolder,
        metavar="DIR",
        help="write the averaged weights",
    )


def main(args: argparse.Namespace) -> int:
    """Prints the runs and their soup on val, tests the soup, and writes it."""
    from jaxtl.analysis import weight_space
    from jaxtl.training import run_paths, setup

    merged_weights.check_save_path(args.out)
    directories = run_paths.find_runs(args.dirs)
    runs = [setup.reopen(directory) for directory in directories]
    # A reopened run does not know its directory, so messages need the names.
    names = [str(directory) for directory in directories]
    soup = weight_space.soup(runs, greedy=args.greedy, names=names)
    monitor = soup.monitor
    rows = [
        (
            name,
            formatting.metric_cell(metrics, monitor),
            "taken" if index in soup.members else "",
        )
        for index, (name, metrics) in enumerate(zip(names, soup.single))
    ]
    kind = "greedy" if args.greedy else "uniform"
    mean = formatting.metric_cell(soup.val, monitor)
    rows.append((f"{kind} soup of {len(soup.members)}", mean, ""))
    table = console.table(f"on val of {names[0]}", ("", monitor, ""), rows)
    console.console().print(table)
    merged_weights.print_test_metric("the soup", soup)
    merged_weights.save(args.out, runs[0], soup)
    return 0
