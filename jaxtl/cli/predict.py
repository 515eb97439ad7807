"""`jaxtl predict`: runs an exported model on files."""

import argparse
import pathlib

from jaxtl.core import console

HELP = "run an exported model on files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl predict`."""
    parser.add_argument("folder", type=pathlib.Path, help="what `jaxtl export` wrote")
    parser.add_argument(
        "files",
        type=pathlib.Path,
        nargs="+",
        help="pictures, tables, texts, .npy or .npz files",
    )


def main(args: argparse.Namespace) -> int:
    """Prints a row of predictions per file."""
    from jaxtl.export import predict

    rows = predict.predict(args.folder, args.files)
    # The origin says which file and row, as counted in the file.
    columns = [name for name in rows[0] if name not in ("file", "row")]
    values = [[row[name] for name in columns] for row in rows]
    cells = [[f"{x:.4f}" if isinstance(x, float) else x for x in v] for v in values]
    console.console().print(console.table("", columns, cells, left=2))
    return 0
