"""`jaxtl sweep`: runs a grid of experiments, or with --search settings drawn of it."""

import argparse
import pathlib

from jaxtl.cli import arguments
from jaxtl.core import output_paths
from jaxtl.core.errors import UserError

HELP = "a grid of experiments, many in one compiled program"
SEARCH_ONLY = ("trials", "storage", "study", "seed", "batch", "slurm")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl sweep`."""
    parser.add_argument("file", type=pathlib.Path, help="experiment file")
    parser.add_argument(
        "overrides", nargs="*", metavar="a.b=0,0.1", help="axes, or single values"
    )
    parser.add_argument("--plan", action="store_true", help="say what would happen")
    parser.add_argument(
        "--out", type=output_paths.OutputFolder, help="default runs/sweep-<file>/<time>"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what lies there"
    )
    parser.add_argument("--retry", action="store_true", help="run failed cells again")
    arguments.add_vectorization(parser)
    parser.add_argument("--search", metavar="KIND", help="random, tpe or halving")
    arguments.add_search(parser)
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="share a CPU's cores and the grid's cells among N processes (1)",
    )
    parser.add_argument("--slurm", type=int, metavar="N", help="submit N workers")
    parser.add_argument(
        "--slurm-arg", action="append", metavar="A=B", help="such as partition=gpu"
    )
    parser.add_argument(
        "--slurm-local", action="store_true", help="as processes of this machine"
    )


def main(args: argparse.Namespace) -> int:
    """Runs every cell of the grid, or starts a search in it."""
    if args.search is not None:
        if args.workers is not None:
            raise UserError(
                "--workers belongs to a grid; a search takes further workers by "
                "`jaxtl worker`, or --slurm N --slurm-local."
            )
        from jaxtl.cli import search

        return search.start(args)
    for name in SEARCH_ONLY:
        if getattr(args, name) is not None:
            raise UserError(
                f"--{name} belongs to a search; add --search random, tpe or halving."
            )
    from jaxtl.cli import grid

    return grid.run(args)
