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
    from jaxtl.evaluation.feature_cache import format_bytes
    from jaxtl.pretrained import describe

    content = describe.inspect_file(str(path))
    tensors, terminal = content.tensors, console.console()
    rows = [
        (
            tensor.name,
            "×".join(map(str, tensor.shape)) or "scalar",
            tensor.dtype,
            format_bytes(tensor.nbytes),
            tensor.path or formatting.MISSING,
        )
        for tensor in tensors
    ]
    # A file of no known family has nothing to say about where its tensors belong.
    columns = ("tensor", "shape", "dtype", "size", "becomes")[
        : 5 if content.model else 4
    ]
    rows = [row[: len(columns)] for row in rows]
    terminal.print(console.listing(str(content.file), columns, rows), markup=False)
    groups = describe.grouped(tensors)
    if len(groups) > 1:
        group_rows = [
            (g.name, f"{g.tensors:,}", f"{g.numbers:,}", format_bytes(g.nbytes))
            for g in groups
        ]
        names = ("group", "tensors", "numbers", "size")
        terminal.print(console.listing("groups", names, group_rows), markup=False)
    numbers = sum(group.numbers for group in groups)
    size = sum(tensor.nbytes for tensor in tensors)
    terminal.print(
        f"{len(tensors)} tensors, {numbers:,} numbers, {size:,} bytes", markup=False
    )
    if content.model:
        unused = sum(not tensor.path for tensor in tensors)
        terminal.print(f"would load into {content.model} (layout {content.layout!r})")
        if unused:
            terminal.print(f"{unused} tensors have no place in it")
    else:
        terminal.print(content.note, markup=False)
    for key, value in content.meta.items():
        terminal.print(f"{key}: {value}", markup=False)
