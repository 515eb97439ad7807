"""`jaxtl eval`: evaluates a stored run again, or all runs of a study."""

import argparse
import pathlib
import sys

from jaxtl.cli import formatting, run_argument
from jaxtl.core import console
from jaxtl.core.errors import UserError

HELP = "evaluate a finished run again, or the seeds of a study"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl eval`."""
    run_argument.add_run(parser)
    parser.add_argument("--split", default="test", help="train, val or test")
    parser.add_argument(
        "--which",
        default="best",
        choices=("best", "last"),
        help="checkpoint of the run",
    )


def main(args: argparse.Namespace) -> int:
    """Prints the metrics of a run's checkpoint, or their means over a study's seeds."""
    if args.all:
        return _eval_all(args)
    return run_argument.for_each_run(args, _eval_run)


def _eval_run(args: argparse.Namespace) -> int:
    metrics, examples = _evaluate(args.dir, args)
    rows = [(name, formatting.metric_cell(metrics, name)) for name in metrics]
    title = (
        f"{args.dir}: {args.which} checkpoint on {args.split}, {examples:,} examples"
    )
    console.console().print(console.table(title, ("metric", ""), rows))
    return 0


def _eval_all(args: argparse.Namespace) -> int:
    """Prints one table with a row per experiment: mean ± 95 % interval over seeds.

    Returns:
      The exit code: 1 where a run could not be evaluated, else 0.
    """
    from jaxtl.results import database, records, settings, study_tables, writers
    from jaxtl.training import run_paths

    results = []
    for run in run_paths.runs_of(args.dir):
        labels = records.run_labels(args.dir, run)
        try:
            metrics, _ = _evaluate(run, args)
        except UserError as error:
            print(f"{run} failed: {error}", file=sys.stderr)
            failed = records.Record(labels=labels, status=database.FAILED)
            results.append(failed)
            continue
        results.append(records.Record(labels=labels, result={args.split: metrics}))
    groups = settings.group_by_setting(results)
    title = (
        f"{args.dir}: {args.which} checkpoints on {args.split}, mean ± 95 % interval "
        "over seeds"
    )
    table = study_tables.metrics_table(groups, args.split, title)
    console.console().print(writers.rich_table(table))
    return 1 if any(group.count(database.FAILED) for group in groups) else 0


def _evaluate(
    run: pathlib.Path, args: argparse.Namespace
) -> tuple[dict[str, float], int]:
    """The metrics of a run's checkpoint on --split, and its number of examples."""
    from jaxtl.evaluation.evaluate import evaluate
    from jaxtl.training.load_model import load_model

    model = load_model(run, args.which)
    metrics = evaluate(model, args.split)
    return metrics, len(model.datasets["target"].rows[args.split])
