"""`jaxtl watch`: shows the progress of a run, a study or a sweep."""

import argparse
import pathlib

from jaxtl.core.errors import UserError

HELP = "how a running run, study or sweep goes on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl watch`."""
    parser.add_argument(
        "dir", type=pathlib.Path, help="directory of a run, study or sweep"
    )
    parser.add_argument("--once", action="store_true", help="print it once and end")
    parser.add_argument(
        "--interval",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="between two looks",
    )


def main(args: argparse.Namespace) -> int:
    """Prints the state of what is trained in a directory until it ends, or once."""
    from jaxtl.results import watch, watch_runs
    from jaxtl.training import run_dir, run_paths

    if (args.dir / run_dir.SWEEP).exists():
        watch.watch(args.dir, once=args.once, interval=args.interval)
    elif run_paths.is_sweep(args.dir):
        workers = ", ".join(sorted(map(str, args.dir.glob("worker-*"))))
        raise UserError(
            f"{args.dir} holds the workers of a search; watch one of {workers}."
        )
    elif run_paths.holds_runs(args.dir):
        watch_runs.watch(args.dir, once=args.once, interval=args.interval)
    else:
        raise UserError(
            f"{args.dir} holds no sweep, run or study: there is no {run_dir.SWEEP}, "
            f"{run_dir.MARK} or {run_dir.STUDY} in it."
        )
    return 0
