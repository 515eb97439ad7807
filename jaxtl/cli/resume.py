"""`jaxtl resume`: continues an interrupted run, or the unfinished runs of a file."""

import argparse
import pathlib

HELP = "continue an interrupted run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl resume`."""
    parser.add_argument("dir", type=pathlib.Path, help="directory of a run or a study")


def main(args: argparse.Namespace) -> int:
    """Trains what is unfinished in a run's directory, or in that of a file's runs."""
    from jaxtl.cli import study
    from jaxtl.training import run_dir, setup, variants

    if (args.dir / run_dir.STUDY).exists():
        return study.train_study(variants.reopen(args.dir), args.dir)
    study.train_run(setup.resume(args.dir), args.dir)
    return 0
