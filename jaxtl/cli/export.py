"""`jaxtl export`: writes a finished run as a self-contained folder."""

import argparse
import pathlib

HELP = "write a finished run as a self-contained folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl export`."""
    parser.add_argument("dir", type=pathlib.Path, help="a run's directory")
    parser.add_argument("out", type=pathlib.Path, help="the directory to write")
    parser.add_argument("--licence", help="for the model card")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an export that lies there"
    )


def main(args: argparse.Namespace) -> int:
    """Exports the best model of a run."""
    from jaxtl.export import write_bundle

    path = write_bundle.export(
        args.dir, args.out, licence=args.licence, overwrite=args.overwrite
    )
    print(f"written to {path}; try: jaxtl predict {path} FILE…")
    return 0
