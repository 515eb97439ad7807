"""`jaxtl importance`: computes which parameters a trained model depends on."""

import argparse
import pathlib
from typing import TYPE_CHECKING

from jaxtl.cli import arguments, run_argument
from jaxtl.core import console, output_paths
from jaxtl.core.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from jaxtl.analysis.importance import ModelAndData
    from jaxtl.terms.regularizers.importance_file import Importance

HELP = "which parameters a trained model depends on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl importance`."""
    run_argument.add_run(
        parser, "target", text="a run's directory (see --all), or an experiment file"
    )
    arguments.add_overrides(parser)
    parser.add_argument("--kind", default="fisher", help="fisher, empirical, mas, …")
    parser.add_argument(
        "--split", default="train", help="train, unlabelled, val or test"
    )
    parser.add_argument("--examples", type=int, metavar="N", help="default: all")
    parser.add_argument("--variant", help="which experiment of a file of several")
    parser.add_argument(
        "--out",
        type=output_paths.OutputFileOfNewFolder,
        help="default RUN/importance/KIND…",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace another model's"
    )


def main(args: argparse.Namespace) -> int:
    """Computes the importance of every parameter, writes it, prints it per stage."""
    from jaxtl.training import run_paths

    if args.all or args.target.is_dir() or run_paths.holds_runs(args.target):
        return run_argument.for_each_run(args, _importance, "target", ("out",))
    return _importance(args)


def _importance(args: argparse.Namespace) -> int:
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
    if model.parts.datasets["target"].weights is not None:
        terminal.print(
            "note: every example counts once; the data's sample_weight is not read"
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

    target: pathlib.Path = args.target
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
