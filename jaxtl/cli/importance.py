"""`jaxtl importance`: computes which parameters a trained model depends on."""

import argparse
import pathlib
from typing import TYPE_CHECKING

from jaxtl.cli import arguments
from jaxtl.core import console
from jaxtl.core.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from jaxtl.analysis.importance import ModelAndData
    from jaxtl.terms.regularizers.importance_file import Importance

HELP = "which parameters a trained model depends on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl importance`."""
    parser.add_argument("target", type=pathlib.Path, help="run, or experiment file")
    arguments.add_overrides(parser)
    parser.add_argument("--kind", default="fisher", help="fisher, empirical, mas, …")
    parser.add_argument(
        "--split", default="train", help="train, unlabelled, val or test"
    )
    parser.add_argument("--examples", type=int, metavar="N", help="default: all")
    parser.add_argument("--variant", help="which experiment of a file of several")
    parser.add_argument("--out", type=pathlib.Path, help="default RUN/importance/KIND…")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace another model's"
    )


def main(args: argparse.Namespace) -> int:
    """Computes the importance of every parameter, writes it, prints it per stage."""
    from jaxtl.analysis import importance
    from jaxtl.terms.regularizers import importance_file

    importance.check_kind(args.kind)
    model, path = _model_and_path(args)
    if not args.overwrite:
        importance.check_overwrite(path, model)
    result = importance.compute(model, args.kind, args.split, args.examples)
    importance_file.write(path, result)
    terminal = console.console()
    terminal.print(_table(result), markup=False)
    stages = sorted({parameter.split("/")[0] for parameter in model.fresh})
    if stages:
        terminal.print(
            f"note: {', '.join(stages)} has parameters that no weights were loaded "
            "for; the importance is that of a model with random values there"
        )
    terminal.print(
        f"{result.kind} importance of {result.examples:,} examples of {result.split} "
        f"written to {path}",
        markup=False,
        soft_wrap=True,
    )
    return 0


def _model_and_path(args: argparse.Namespace) -> tuple["ModelAndData", pathlib.Path]:
    """Reads the model, and finds the path that its importance is written to."""
    from jaxtl.analysis import importance
    from jaxtl.terms.regularizers import importance_file
    from jaxtl.training import run_dir

    target: pathlib.Path = args.target
    if (target / run_dir.STUDY).exists():
        runs = [path.parent for path in target.rglob(run_dir.MARK)]
        raise UserError(
            f"{target} holds the runs of a file; name one of them, such as "
            f"{min(runs, default=target / 'seed0')}."
        )
    if target.is_dir():
        if args.overrides or args.variant is not None:
            raise UserError(
                f"{target} is a run, whose experiment stands; overrides and --variant "
                "are for experiment files."
            )
        path = args.out or target / importance_file.FOLDER / f"{args.kind}.safetensors"
        return importance.from_run(target), _check_suffix(path)
    exp = importance.read_experiment(target, args.overrides, args.variant)
    if args.out is None:
        raise UserError(
            f"{target} is an experiment file, so say where the importance of the "
            "weights that it loads goes: --out PATH.safetensors."
        )
    return importance.from_experiment(exp), _check_suffix(args.out)


def _check_suffix(path: pathlib.Path) -> pathlib.Path:
    """Returns the path; UserError unless it ends in .safetensors."""
    if path.suffix != ".safetensors":
        raise UserError(f"--out {path}: expected a path that ends in .safetensors.")
    return path


def _table(result: "Importance") -> "Table":
    """Builds the table of importance per stage."""
    import numpy as np

    stages: dict[str, list[np.ndarray]] = {}
    for name, array in result.arrays.items():
        stages.setdefault(name.split("/")[0], []).append(np.ravel(array))
    rows = []
    for stage, arrays in stages.items():
        values = np.concatenate(arrays)
        cells = (values.mean(dtype=np.float64), np.median(values), values.max())
        rows.append((stage, f"{values.size:,}", *(f"{x:.3e}" for x in cells)))
    columns = ("stage", "values", "mean", "median", "largest")
    return console.table("importance", columns, rows)
