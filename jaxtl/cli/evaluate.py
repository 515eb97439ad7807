"""The command `jaxtl eval`."""

from jaxtl.core import console
from jaxtl.evaluation import evaluate as evaluation_evaluate
from jaxtl.results import format_number
from jaxtl.training import setup


def evaluate(args) -> int:
    """`jaxtl eval DIR [--split S] [--which best|last]`."""

    made = setup.reopen(args.dir, args.which)
    found = evaluation_evaluate.evaluate(made, args.split)
    n = len(made.parts.datasets["target"].rows[args.split])
    rows = [
        (name, format_number.number(name, value, None)) for name, value in found.items()
    ]
    title = f"{args.dir}: {args.which} checkpoint on {args.split}, {n:,} examples"
    console.console().print(console.table(title, ("metric", ""), rows))
    return 0
