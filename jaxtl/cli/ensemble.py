"""`jaxtl ensemble`: combines the predictions of several runs, and calibrates them."""

import argparse
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxtl.cli import formatting
from jaxtl.core import console, output_paths

if TYPE_CHECKING:
    from rich.table import Table

    from jaxtl.analysis.ensemble.ensemble import Ensemble

HELP = "several runs' predictions put together, and calibrated"
CALIBRATION = ("nll", "ece", "brier")  # metrics that a temperature changes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl ensemble`."""
    parser.add_argument(
        "dirs",
        type=pathlib.Path,
        nargs="+",
        metavar="RUN",
        help="directories of runs or studies",
    )
    parser.add_argument("--method", default="auto", help="default: the best on val")
    parser.add_argument("--split", default="test", help="test or val")
    parser.add_argument(
        "--which",
        default="best",
        choices=("best", "last"),
        help="checkpoint of each run",
    )
    parser.add_argument(
        "--out", type=output_paths.OutputFile, help="JSON to write it to"
    )


def main(args: argparse.Namespace) -> int:
    """Prints every member and every way to combine them; writes JSON on request."""
    from jaxtl.analysis.ensemble import ensemble
    from jaxtl.training import run_dir

    result = ensemble.ensemble(
        args.dirs, method=args.method, split=args.split, which=args.which
    )
    terminal = console.console()
    for table in tables(result):
        terminal.print(table, markup=False)
    best = next(m for m in result.members if m.name == result.best_member)
    title = formatting.metric_title(result.metric)
    for name, line in (
        (f"best member on val, {result.best_member}", best),
        (f"ensemble, {result.method}", result.chosen),
    ):
        value = formatting.metric_cell(line.test, result.metric)
        terminal.print(f"{name}: {result.split} {title} {value}")
    if args.out:
        run_dir.write_json(args.out, result.to_json())
        console.print_written(args.out)
    return 0


def tables(result: "Ensemble") -> Sequence["Table"]:
    """Builds the tables of an ensemble: its metrics, and its calibration where fitted.

    The first has a row per member, then one per way to combine them. The second is
    there only where temperatures were fitted; it then holds the metrics that a
    temperature changes.
    """
    lines = (*result.members, *result.methods)
    fitted = any(line.temperature for line in lines)
    names = [
        name for name in result.members[0].test if not (fitted and name in CALIBRATION)
    ]
    marks = {result.best_member: "best member", result.method: "chosen"}
    on_val = [] if result.split == "val" else [result.metric]
    rows = [
        (
            line.name,
            marks.get(line.name, ""),
            *(formatting.metric_cell(line.val, name) for name in on_val),
            *(formatting.metric_cell(line.test, name) for name in names),
        )
        for line in lines
    ]
    columns = (
        "member or method",
        "on val",
        *(f"val {formatting.metric_title(name)}" for name in on_val),
        *(f"{result.split} {formatting.metric_title(name)}" for name in names),
    )
    counts = ", ".join(f"{n:,} {name}" for name, n in result.examples.items())
    title = f"{len(result.members)} members; examples: {counts}"
    metrics = console.table(title, columns, rows, left=2)
    return [metrics, _calibration_table(lines, result.split)] if fitted else [metrics]


def _calibration_table(lines: Sequence[Any], split: str) -> "Table":
    """Builds the table of calibration before and after scaling by a temperature."""
    names = [name for name in CALIBRATION if name in lines[0].test]
    rows = [
        (
            line.name,
            *(formatting.metric_cell(line.test, name) for name in names),
            f"{line.temperature:.3f}" if line.temperature else formatting.MISSING,
            *(formatting.metric_cell(line.scaled, name) for name in names),
        )
        for line in lines
    ]
    titles = [formatting.metric_title(name) for name in names]
    columns = ("member or method", *titles, "T", *(f"{x} at T" for x in titles))
    title = f"calibration on {split}, before and after a temperature fitted on val"
    return console.table(title, columns, rows)
