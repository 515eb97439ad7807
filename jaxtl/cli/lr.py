"""`jaxtl lr`: suggests a learning rate by a short run whose rate grows."""

import argparse
import pathlib
from typing import TYPE_CHECKING

from jaxtl.cli import arguments
from jaxtl.core import console, output_paths
from jaxtl.core.errors import UserError, nearest

if TYPE_CHECKING:
    from jaxtl.training.experiment_file import File

HELP = "find a learning rate: a short run whose rate grows"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl lr`."""
    parser.add_argument("file", type=pathlib.Path, help="experiment file")
    arguments.add_overrides(parser)
    parser.add_argument("--variant", help="which, of a file of several")
    parser.add_argument(
        "--low", type=float, default=1e-7, help="the lowest learning rate"
    )
    parser.add_argument(
        "--high", type=float, default=10.0, help="the highest learning rate"
    )
    parser.add_argument("--steps", type=int, default=100, help="steps between them")
    parser.add_argument(
        "--out",
        "--plot",
        type=output_paths.OutputPictureOfNewFolder,
        metavar="PNG",
        help="also draw the curve",
    )


def main(args: argparse.Namespace) -> int:
    """Prints the suggested rates and plots the curve that they come from."""
    from jaxtl.analysis import lr_finder
    from jaxtl.training import experiment_file

    file = experiment_file.read_file(args.file, *args.overrides)
    variant = _variant(file, args.variant)
    curve = lr_finder.find_lr(
        file.variants[variant], low=args.low, high=args.high, steps=args.steps
    )
    title = f"learning rates of {args.file.stem} {variant}".strip()
    end = "the loss exploded" if curve.diverged else "the last rate"
    print(
        f"{title}: {len(curve.rates)} rates from {curve.rates[0]:.1e} to "
        f"{curve.rates[-1]:.1e} ({end})"
    )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        curve.plot(args.out, title=title)
    if curve.suggestion is None:
        raise UserError(
            f"the loss never fell between --low {args.low:g} and --high {args.high:g}, "
            "so there is no rate to suggest; try a wider span, or more --steps."
            + (f" The curve is in {args.out}." if args.out else "")
        )
    print(f"steepest fall at {curve.steepest:.1e}, lowest loss / 10 {curve.tenth:.1e}")
    print(f"to begin with: optim.lr={curve.suggestion:.1e}")
    if args.out:
        console.print_written(args.out)
    return 0


def _variant(file: "File", name: str | None) -> str:
    """Name of the variant to run: the one of --variant, or the file's only one.

    Raises:
      UserError: an unknown name, or none for a file of several variants.
    """
    names = ", ".join(file.variants)
    if name is None and len(file.variants) == 1:
        return next(iter(file.variants))
    if name is None:
        raise UserError(
            f"{file.path} holds several experiments; choose one with --variant "
            f"(known: {names})."
        )
    if name not in file.variants:
        raise UserError(
            f"--variant {name!r}: {file.path} holds none of that name"
            f"{nearest(name, file.variants)} (known: {names or 'a single one'})."
        )
    return name
