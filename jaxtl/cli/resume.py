"""`jaxtl resume`: continues an interrupted run, or the unfinished runs of a file."""

import argparse

from jaxtl.cli import arguments, run_argument
from jaxtl.core.errors import UserError

HELP = "continue an interrupted run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl resume`."""
    run_argument.add_run(parser, text="directory of a run or a study")
    arguments.add_membership(parser)


def main(args: argparse.Namespace) -> int:
    """Trains what is unfinished in a run's directory, or in that of a file's runs."""
    from jaxtl.cli import study
    from jaxtl.core import process_group
    from jaxtl.training import run_dir, run_paths, variants

    if (args.dir / run_dir.STUDY).exists():
        study.print_device()
        return study.train_study(variants.reopen(args.dir), args.dir)
    if run_paths.is_sweep(args.dir):
        raise UserError(
            f"{args.dir} is a sweep: the command that began it goes on with it, `jaxtl "
            f"sweep FILE --out {args.dir}`."
        )
    process_group.on_first(lambda: run_dir.check_unlocked(args.dir))
    return run_argument.for_each_run(args, _resume)


def _resume(args: argparse.Namespace) -> int:
    from jaxtl.cli import study
    from jaxtl.training import setup

    study.train_run(setup.resume(args.dir), args.dir)
    return 0
