"""`jaxtl export`: writes a finished run as a self-contained folder."""

import argparse

from jaxtl.cli import run_argument
from jaxtl.core import console, output_paths, progress

HELP = "write a finished run as a self-contained folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl export`."""
    run_argument.add_run(parser)
    parser.add_argument(
        "out", type=output_paths.OutputFolder, help="the directory to write"
    )
    parser.add_argument("--licence", help="for the model card")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an export that lies there"
    )


def main(args: argparse.Namespace) -> int:
    """Exports the best model of a run, or of each run of a study."""
    return run_argument.for_each_run(args, _export, outputs=("out",))


def _export(args: argparse.Namespace) -> int:
    from jaxtl.export import base_note, write_bundle

    with progress.Task("exporting the program and checking it"):
        path = write_bundle.export(
            args.dir, args.out, licence=args.licence, overwrite=args.overwrite
        )
    if note := base_note.float_note(args.dir):
        print(note)
    console.print_written(path, hint=f"try: jaxtl predict {path} FILE…")
    return 0
