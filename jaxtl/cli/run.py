"""`jaxtl run`: trains an experiment file, one run or all its variants and seeds."""

import argparse
import pathlib

from jaxtl.cli import arguments
from jaxtl.core import output_paths

HELP = "run an experiment file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl run`."""
    parser.add_argument("file", type=pathlib.Path, help="experiment file")
    arguments.add_overrides(parser)
    parser.add_argument(
        "--out", type=output_paths.OutputFolder, help="default runs/<file>/<time>"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what lies there"
    )
    parser.add_argument(
        "--variant",
        action="append",
        metavar="NAME",
        help="run this variant, and what it starts from; may be repeated",
    )
    arguments.add_membership(parser)


def main(args: argparse.Namespace) -> int:
    """Trains the file's experiment, or its variants with all seeds, into --out."""
    from jaxtl.cli import study
    from jaxtl.core import process_group
    from jaxtl.training import experiment_file, setup, variants

    file = experiment_file.read_file(args.file, *args.overrides)
    if args.variant:
        file = variants.only(file, args.variant)
    experiment_file.check_same(file)
    folder = args.out or arguments.default_folder(args.file.stem)
    folder = pathlib.Path(process_group.first_value(str(folder)))
    if not variants.is_single(file):
        variants.prepare(file, folder, overwrite=args.overwrite)
        study.print_device()
        study.print_data(file)
        return study.train_study(file, folder)
    run = setup.setup(
        file.variants[""],
        folder,
        overwrite=args.overwrite,
        file=file.path,
        overrides=file.overrides,
    )
    study.train_run(run, folder)
    return 0
