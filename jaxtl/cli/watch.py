"""`jaxtl watch`: shows the progress of a running sweep."""

import argparse
import pathlib

HELP = "how a running sweep goes on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl watch`."""
    parser.add_argument("dir", type=pathlib.Path, help="a sweep's directory")
    parser.add_argument("--once", action="store_true", help="print it once and end")
    parser.add_argument(
        "--interval",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="between two looks",
    )


def main(args: argparse.Namespace) -> int:
    """Prints the state of a sweep's folder until the sweep ends, or once."""
    from jaxtl.results import watch

    watch.watch(args.dir, once=args.once, interval=args.interval)
    return 0
