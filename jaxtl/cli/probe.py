"""`jaxtl probe`: fits linear models to the features of frozen stages."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from jaxtl.cli import arguments, formatting, run_argument
from jaxtl.core import console, output_paths

if TYPE_CHECKING:
    from rich.table import Table

    from jaxtl.analysis.linear_probe_fit import Probe

HELP = "linear models of a stage's frozen features"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl probe`."""
    run_argument.add_run(
        parser, "target", text="an experiment file, or a run's directory (see --all)"
    )
    arguments.add_overrides(parser)
    parser.add_argument("--stage", help="all, or a name; default: before the head")
    parser.add_argument("--strengths", type=float, nargs="+", help="default 1e-5 … 10")
    parser.add_argument("--solver", default="auto", help="logistic or ridge")
    parser.add_argument(
        "--metric", default="auto", help="to choose by: accuracy, loo …"
    )
    parser.add_argument("--raw", action="store_true", help="features not standardized")
    parser.add_argument("--variant", help="of a file with several experiments")
    parser.add_argument("--no-test", action="store_true", help="leave test unseen")
    parser.add_argument(
        "--out", type=output_paths.OutputFile, help="JSON to write it to"
    )
    parser.add_argument(
        "--plot", type=output_paths.OutputPicture, metavar="PNG", help="also draw it"
    )


def main(args: argparse.Namespace) -> int:
    """Prints a table per stage; writes JSON and a plot on request."""
    from jaxtl.training import run_paths

    if args.all or args.target.is_dir() or run_paths.holds_runs(args.target):
        return run_argument.for_each_run(args, _probe, "target", ("out", "plot"))
    return _probe(args)


def _probe(args: argparse.Namespace) -> int:
    from jaxtl.analysis import linear_probe, linear_probe_fit
    from jaxtl.training import run_dir

    run = linear_probe.open_run(args.target, *args.overrides, variant=args.variant)
    probes = linear_probe.probes(
        run,
        args.stage,
        args.strengths or linear_probe_fit.STRENGTHS,
        solver=args.solver,
        metric=args.metric,
        standardize=not args.raw,
        test=not args.no_test,
    )
    _print_probes(probes)
    if args.out:
        content = {stage: probe.to_json() for stage, probe in probes.items()}
        run_dir.write_json(args.out, content)
    if args.plot:
        from jaxtl.results.plots import analyses  # matplotlib imports slowly

        analyses.probes(probes, args.plot, title=f"{args.target}: linear probes")
    if paths := [path for path in (args.out, args.plot) if path]:
        console.print_written(*paths)
    return 0


def _print_probes(probes: Mapping[str, "Probe"]) -> None:
    """Prints all tables, and the stages whose grid of strengths is too narrow."""
    terminal = console.console()
    for probe in probes.values():
        terminal.print(_strength_table(probe), markup=False)
    if len(probes) > 1:
        terminal.print(_stage_table(probes), markup=False)
    for probe in probes.values():
        last = len(probe.path.strengths) - 1
        if last > 1 and probe.best in (0, last):
            terminal.print(
                f"{probe.stage}: the chosen strength is at the edge of the grid; "
                "--strengths widens it."
            )


def _strength_table(probe: "Probe") -> "Table":
    """Builds the table of one stage's probe, a row per strength of the penalty."""
    names = list(probe.scores[0])
    rows = [
        (
            f"{strength:.3g}",
            "chosen" if index == probe.best else "",
            *(formatting.metric_cell(scores, name) for name in names),
        )
        for index, (strength, scores) in enumerate(
            zip(probe.path.strengths, probe.scores)
        )
    ]
    columns = ("strength", "", *(_score_title(name) for name in names))
    counts = ", ".join(f"{n:,} {name}" for name, n in probe.examples.items())
    title = f"{probe.stage}: {probe.width:,} features, {probe.solver}; {counts}"
    if probe.test:
        title += "; chosen on test: " + ", ".join(
            f"{formatting.metric_title(name)} "
            f"{formatting.metric_cell(probe.test, name)}"
            for name in probe.test
        )
    return console.table(title, columns, rows, left=2)


def _stage_table(probes: Mapping[str, "Probe"]) -> "Table":
    """Builds the table of several stages, each at its chosen strength."""
    first = next(iter(probes.values()))
    names = list(first.test or first.scores[0])
    split = "test" if first.test else "val"
    rows = []
    for probe in probes.values():
        scores = probe.scores[probe.best]
        rows.append(
            (
                probe.stage,
                f"{probe.width:,}",
                f"{probe.strength:.3g}",
                formatting.metric_cell(scores, probe.metric),
                *(formatting.metric_cell(probe.test or scores, n) for n in names),
            )
        )
    columns = ("stage", "features", "strength", _score_title(first.metric))
    columns += tuple(f"{split} {formatting.metric_title(name)}" for name in names)
    return console.table("a linear probe per stage", columns, rows)


def _score_title(metric: str) -> str:
    """Title of a score's column; leave-one-out scores and GCV are those of train."""
    split = "train" if metric.startswith("loo") or metric == "gcv" else "val"
    return f"{split} {formatting.metric_title(metric)}"
