"""`jaxtl show`: prints an experiment with all its fields, and its parameters."""

import argparse

from jaxtl.cli import arguments, run_argument
from jaxtl.core import console
from jaxtl.core.errors import UserError

HELP = "the resolved experiment and its parameters"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl show`."""
    run_argument.add_run(
        parser,
        "target",
        text="an experiment file, or the directory of a run or a study",
    )
    arguments.add_overrides(parser)


def main(args: argparse.Namespace) -> int:
    """Prints the experiments of a file or of a directory, and their parameters."""
    from jaxtl.training import run_dir, run_paths

    if run_paths.is_sweep(args.target):
        raise UserError(
            f"{args.target} is a sweep; `jaxtl show {args.target / run_dir.CODE}` "
            "shows the experiments that it varies."
        )
    runs = args.target.is_dir() or run_paths.holds_runs(args.target)
    if args.all or (runs and not run_paths.is_study(args.target)):
        return run_argument.for_each_run(args, _show, "target")
    return _show(args)


def _show(args: argparse.Namespace) -> int:
    from jaxtl.data import description
    from jaxtl.training import experiment, experiment_file, run_dir, setup, variants
    from jaxtl.training import show as parameters

    if args.target.is_dir() and (args.target / run_dir.STUDY).exists():
        experiments = variants.reopen(args.target).variants
    elif args.target.is_dir():
        experiments = {"": run_dir.read_experiment(args.target)}
    else:
        experiments = experiment_file.read_file(args.target, *args.overrides).variants
    terminal = console.console()
    for name, exp in experiments.items():
        if name:
            terminal.rule(name, align="left")
        terminal.print(parameters.describe(exp), markup=False, highlight=False)
        if isinstance(exp.init, experiment.Variant):
            terminal.print(
                f"(its parameters: those of {exp.init.name!r}, once that is trained)"
            )
            continue
        run = setup.setup(exp)
        stored = args.target / run_dir.DATA
        is_stored = args.target.is_dir() and stored.exists()
        lines_of = (
            run_dir.read_json(stored)
            if is_stored
            else description.summarize(run.datasets)
        )
        for stream, lines in lines_of.items():
            console.print_lines(terminal, stream, lines)
        parameters.show(run)
    return 0
