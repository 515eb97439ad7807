"""`jaxtl predict`: runs an exported model on files."""

import argparse
import pathlib

from jaxtl.core import console

HELP = "run an exported model on files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl predict`."""
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("files", type=pathlib.Path, nargs="+")


def main(args: argparse.Namespace) -> int:
    """Prints a row of predictions per file."""
    from jaxtl.export import predict

    rows = predict.predict(args.folder, args.files)
    columns = list(rows[0]) if rows else []
    cells = [
        [f"{x:.4f}" if isinstance(x, float) else x for x in row.values()]
        for row in rows
    ]
    console.console().print(console.table("", columns, cells, left=2))
    return 0
