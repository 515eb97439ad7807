"""The command `jaxtl compare`."""

from jaxtl.core import console
from jaxtl.core.errors import UserError
from jaxtl.results import run_table


def compare(args) -> int:
    """`jaxtl compare DIR… [--metric M] [--plot PNG]`."""

    rows = run_table.collect(args.dirs)
    console.console().print(run_table.comparison(rows, args.metric))
    if args.plot:
        from jaxtl.results.plots import base

        if args.against:
            base.against(rows, args.against, args.plot, metric=args.metric)
        else:
            base.study(rows, args.plot)
        print(f"plot: {args.plot}")
    elif args.against:
        raise UserError("--against needs --plot: the PNG that it is drawn to.")
    return 0
