"""`jaxtl diagnose`: measures the shift between a run's two domains."""

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxtl.cli import formatting, run_argument
from jaxtl.core import console, output_paths

if TYPE_CHECKING:
    from rich.table import Table

    from jaxtl.analysis.domain_shift import Diagnosis

HELP = "how far a run's two domains lie apart, before and after"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl diagnose`."""
    run_argument.add_run(parser, metavar="RUN")
    parser.add_argument(
        "--source", metavar="STREAM", help="default: source, or the first"
    )
    parser.add_argument(
        "--target", metavar="STREAM", help="default: unlabelled, or target"
    )
    parser.add_argument("--stage", help="default: the last before the head")
    parser.add_argument(
        "--examples",
        type=int,
        default=1000,
        metavar="N",
        help="examples of each domain at most",
    )
    parser.add_argument(
        "--permutations",
        type=int,
        default=500,
        metavar="N",
        help="of the test of equal distributions",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the examples and permutations that are drawn",
    )
    parser.add_argument(
        "--out", type=output_paths.OutputFolder, help="default RUN/diagnosis"
    )


def main(args: argparse.Namespace) -> int:
    """Prints, plots and writes the distances between the domains' features."""
    return run_argument.for_each_run(args, _diagnose, outputs=("out",))


def _diagnose(args: argparse.Namespace) -> int:
    from jaxtl.analysis import domain_shift
    from jaxtl.training import run_dir

    folder = args.out or args.dir / domain_shift.FOLDER
    output_paths.check_folder(folder)
    diagnosis = domain_shift.diagnose(
        args.dir,
        source=args.source,
        target=args.target,
        stage=args.stage,
        examples=args.examples,
        permutations=args.permutations,
        seed=args.seed,
    )
    terminal = console.console()
    for table in _tables(diagnosis):
        terminal.print(table, markup=False)
    folder.mkdir(parents=True, exist_ok=True)
    run_dir.write_json(folder / "diagnosis.json", diagnosis.to_json())
    plots = diagnosis.plot(folder, seed=args.seed)
    console.print_written(folder / "diagnosis.json", *plots)
    return 0


def _tables(diagnosis: "Diagnosis") -> Sequence["Table"]:
    """Builds the table of distances, and that of classes where there are any."""
    sides = (diagnosis.before, diagnosis.after)
    rows = [
        (
            "proxy A-distance (0: alike, 2: apart)",
            *(f"{side.distance.distance:.3f}" for side in sides),
        ),
        (
            "error of telling domains apart %",
            *(f"{100 * side.distance.error:.1f}" for side in sides),
        ),
        (
            "MMD², Gaussian kernel",
            *(f"{side.discrepancy.mmd:.4g}" for side in sides),
        ),
        (
            "its p-value",
            *(side.discrepancy.p_text.removeprefix("= ") for side in sides),
        ),
    ]
    title = (
        f"{diagnosis.source} ({len(sides[0].source):,} examples) and "
        f"{diagnosis.target} ({len(sides[0].target):,}), features of {diagnosis.stage}"
    )
    distances = console.table(title, ("", "before", "after"), rows)
    return (
        [distances, _class_table(diagnosis)] if diagnosis.class_names else [distances]
    )


def _class_table(diagnosis: "Diagnosis") -> "Table":
    """Builds the table of shifts per class, the largest shift after training first."""
    rows = [
        (
            after.name,
            f"{after.source:,}",
            f"{after.target:,}",
            *(_shift(x) for x in (before.shift, after.shift, after.chance)),
        )
        for before, after in diagnosis.rising()
    ]
    columns = ("class", diagnosis.source, diagnosis.target, "before", "after", "chance")
    title = (
        "shift per class, in deviations within classes (reads the target's labels: for "
        "analysis, not to choose by)"
    )
    return console.table(title, columns, rows)


def _shift(value: float) -> str:
    return formatting.MISSING if math.isnan(value) else f"{value:.3f}"
