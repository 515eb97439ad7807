"""`jaxtl worker`: joins a search that another process started."""

import argparse
import pathlib

from jaxtl.cli import arguments
from jaxtl.core import output_paths

HELP = "join a search from this machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl worker`."""
    parser.add_argument("file", type=pathlib.Path, help="experiment file of the search")
    parser.add_argument(
        "overrides", nargs="*", metavar="a.b=0,0.1", help="as the search was given"
    )
    parser.add_argument(
        "--out", type=output_paths.OutputFolder, help="default: beside a SQLite study"
    )
    arguments.add_vectorization(parser)
    parser.add_argument("--search", metavar="KIND", help="default: the study's")
    arguments.add_search(parser)


def main(args: argparse.Namespace) -> int:
    """Runs trials of the search until the study has all of them."""
    from jaxtl.cli import search

    return search.join(args)
