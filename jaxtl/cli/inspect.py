"""`jaxtl inspect`: lists the tensors of a file or run, and the model that they fit."""

import argparse
import pathlib

from jaxtl.cli import formatting, run_argument
from jaxtl.core import console

HELP = "the tensors of a file, directory or run; what they fit"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl inspect`."""
    run_argument.add_run(
        parser,
        "path",
        text="a run's directory (see --all), a file of weights, or another library's "
        "directory",
    )


def main(args: argparse.Namespace) -> int:
    """Prints a run's parameters, or the tensors of a file and where they would load."""
    from jaxtl.training import run_paths

    if args.all or run_paths.holds_runs(args.path):
        return run_argument.for_each_run(args, _inspect_run, "path")
    _inspect_file(args.path)
    return 0


def _inspect_run(args: argparse.Namespace) -> int:
    from jaxtl.training import setup, show

    show.show(setup.reopen(args.path))
    return 0


def _inspect_file(path: pathlib.Path) -> None:
    from jaxtl.pretrained import describe

    content = describe.inspect_file(str(path))
    tensors = content.tensors
    rows = [
        (
            tensor.name,
            "×".join(map(str, tensor.shape)) or "scalar",
            tensor.dtype,
            tensor.path or formatting.MISSING,
        )
        for tensor in tensors
    ]
    columns = ("tensor", "shape", "dtype", "becomes")
    terminal = console.console()
    terminal.print(console.listing(str(content.file), columns, rows), markup=False)
    size = sum(tensor.nbytes for tensor in tensors)
    terminal.print(f"{len(tensors)} tensors, {size:,} bytes", markup=False)
    unused = sum(not tensor.path for tensor in tensors)
    if content.model:
        terminal.print(f"would load into {content.model} (layout {content.layout!r})")
        if unused:
            terminal.print(f"{unused} tensors have no place in it")
    else:
        terminal.print("of no family that is known by its tensors' names")
    for key, value in content.meta.items():
        terminal.print(f"{key}: {value}", markup=False)
