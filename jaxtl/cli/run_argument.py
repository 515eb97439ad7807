"""The argument that names a run's directory, in every command that takes one.

What it names may be a run, a study of several (`jaxtl run` writes one where a file has
seeds or variants), or a directory of both. A command that works on one run does so for
each of them with --all.
"""

import argparse
import copy
import pathlib
import sys
from collections.abc import Callable

from jaxtl.core import output_paths
from jaxtl.core.errors import UserError

# Suffixes of outputs that are files.
_FILES = (*output_paths.PICTURES, ".json", ".safetensors")
_HINT = ", or take each of them with --all"


def add_run(
    parser: argparse.ArgumentParser,
    name: str = "dir",
    *,
    text: str = "directory of a run, or of a study with --all or a single run",
    metavar: str | None = None,
) -> None:
    """Adds the argument, and --all.

    Args:
      parser: of the command.
      name: of the argument.
      text: its description.
      metavar: its name in the usage; None takes `name`.
    """
    parser.add_argument(name, type=pathlib.Path, help=text, metavar=metavar)
    parser.add_argument(
        "--all", action="store_true", help="take each run of the directory in turn"
    )


def for_each_run(
    args: argparse.Namespace,
    command: Callable[[argparse.Namespace], int],
    name: str = "dir",
    outputs: tuple[str, ...] = (),
) -> int:
    """Calls a command with the run that its argument names, or with each of them.

    With several runs each has outputs of its own: its name is put into the path, as
    "out/seed0" of "out" or "plot-seed0.png" of "plot.png". A run that fails does not
    stop the others.

    Args:
      args: of the command line.
      command: works on one run.
      name: of the argument; a path that is no directory is left to the command.
      outputs: names of the options that say where something is written.

    Returns:
      The largest exit code.
    """
    from jaxtl.training import run_paths

    path: pathlib.Path = getattr(args, name)
    if not args.all:
        run = run_paths.one_run(path, hint=_HINT)
        if run != path:
            print(f"{path} holds one run: {run}")
        return command(_with(args, name, run))
    code = 0
    for run in run_paths.runs_of(path):
        changed = _with(args, name, run)
        run_name = run_paths.name_of(run, path)
        for option in outputs if run_name else ():
            setattr(changed, option, named_output(getattr(args, option), run_name))
        print(f"{run}:")
        try:
            code = max(code, command(changed))
        except UserError as error:
            print(f"{run} failed: {error}", file=sys.stderr)
            code = 1
    return code


def named_output(path: pathlib.Path | None, run_name: str) -> pathlib.Path | None:
    """The output of one of several runs: "out/5/seed0", or "plot-5-seed0.png"."""
    if path is None:
        return None
    if path.suffix not in _FILES:
        return path / run_name
    return path.with_name(f"{path.stem}-{run_name.replace('/', '-')}{path.suffix}")


def _with(
    args: argparse.Namespace, name: str, value: pathlib.Path
) -> argparse.Namespace:
    changed = copy.copy(args)
    setattr(changed, name, value)
    return changed
