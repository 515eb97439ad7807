"""`jaxtl resume`: continues an interrupted run, or the unfinished runs of a file."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxtl.cli import arguments, run_argument
from jaxtl.core.errors import UserError

HELP = "continue an interrupted run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl resume`."""
    run_argument.add_run(parser, text="directory of a run or a study")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="devices=N",
        help="where it goes on: devices=, param_shards=, tensor_shards=",
    )
    arguments.add_membership(parser)


def main(args: argparse.Namespace) -> int:
    """Trains what is unfinished in a run's directory, or in that of a file's runs."""
    from jaxtl.cli import study
    from jaxtl.core import process_group
    from jaxtl.training import experiment_file, run_dir, run_paths, variants

    _check_overrides(args.overrides)
    if (args.dir / run_dir.STUDY).exists():
        study.print_device()
        file = variants.reopen(args.dir)
        exps = experiment_file.apply_overrides(dict(file.variants), args.overrides)
        file = dataclasses.replace(file, variants=exps)
        return study.train_study(file, args.dir)
    if run_paths.is_sweep(args.dir):
        raise UserError(
            f"{args.dir} is a sweep: the command that began it goes on with it, `jaxtl "
            f"sweep FILE --out {args.dir}`."
        )
    process_group.on_first(lambda: run_dir.check_unlocked(args.dir))
    return run_argument.for_each_run(args, _resume)


def _check_overrides(overrides: Sequence[str]) -> None:
    """Raises UserError for a field that can't change when a run goes on."""
    from jaxtl.training.experiment import PLACEMENT

    for override in overrides:
        if override.partition("=")[0] not in PLACEMENT:
            raise UserError(
                f"{override}: a run goes on as it began; only "
                f"{', '.join(f'{name}=' for name in PLACEMENT)} may change, which "
                "say where it computes."
            )


def _resume(args: argparse.Namespace) -> int:
    from jaxtl.cli import study
    from jaxtl.training import experiment_file, run_dir, setup
    from jaxtl.training.experiment import PLACEMENT

    placement: dict[str, Any] = {}
    if args.overrides:
        exp = run_dir.read_experiment(args.dir)
        [exp] = experiment_file.apply_overrides({"": exp}, args.overrides).values()
        placement = {name: getattr(exp, name) for name in PLACEMENT}
    study.train_run(setup.resume(args.dir, placement=placement), args.dir)
    return 0
