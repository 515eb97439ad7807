"""`jaxtl eval`: evaluates a stored run again."""

import argparse
import pathlib

from jaxtl.cli import formatting
from jaxtl.core import console

HELP = "evaluate a finished run again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl eval`."""
    parser.add_argument("dir", type=pathlib.Path, help="a run's directory")
    parser.add_argument("--split", default="test", help="train, val or test")
    parser.add_argument(
        "--which",
        default="best",
        choices=("best", "last"),
        help="checkpoint of the run",
    )


def main(args: argparse.Namespace) -> int:
    """Prints the metrics of a checkpoint on a split of the target data."""
    from jaxtl.evaluation.evaluate import evaluate
    from jaxtl.training.load_model import load_model

    model = load_model(args.dir, args.which)
    metrics = evaluate(model, args.split)
    examples = len(model.datasets["target"].rows[args.split])
    rows = [(name, formatting.metric_cell(metrics, name)) for name in metrics]
    title = (
        f"{args.dir}: {args.which} checkpoint on {args.split}, {examples:,} examples"
    )
    console.console().print(console.table(title, ("metric", ""), rows))
    return 0
