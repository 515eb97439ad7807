"""The command `jaxtl importance`."""

import pathlib

import numpy as np

from jaxtl.analysis import importance as computing
from jaxtl.core import console as console_lib
from jaxtl.core.errors import UserError
from jaxtl.terms.regularizers import importance_file
from jaxtl.training import run_dir


def importance(args) -> int:
    """`jaxtl importance RUN|FILE [a.b=c …] [--kind K] [--split S] [--examples N] …`."""

    computing.check_kind(args.kind)
    model, path = _asked(args)
    if not args.overwrite:
        computing.refuse(path, model)
    found = computing.compute(model, args.kind, args.split, args.examples)
    importance_file.write(path, found)
    console = console_lib.console()
    console.print(_table(found), markup=False)
    fresh = sorted({p.split("/")[0] for p in model.fresh})
    if fresh:
        console.print(
            f"note: {', '.join(fresh)} has parameters that no weights were loaded for; "
            "the importance is that of a model with random values there"
        )
    console.print(
        f"{found.kind} importance of {found.examples:,} examples of {found.split} "
        f"written to {path}",
        markup=False,
        soft_wrap=True,
    )
    return 0


def _asked(args) -> tuple[computing.Model, pathlib.Path]:
    """Returns the model that is asked for, and where its importance goes."""
    target: pathlib.Path = args.target
    if (target / run_dir.STUDY).exists():
        raise UserError(
            f"{target} holds the runs of a file; name one of them, such as "
            f"{_first_run(target)}."
        )
    if target.is_dir():
        if args.overrides or args.variant is not None:
            raise UserError(
                f"{target} is a run, whose experiment stands; overrides and --variant "
                "are for experiment files."
            )
        path = args.out or target / importance_file.FOLDER / f"{args.kind}.safetensors"
        return computing.of_run(target), _checked(path)
    exp = computing.read_file(target, args.overrides, args.variant)
    if args.out is None:
        raise UserError(
            f"{target} is an experiment file, so say where the importance of the "
            "weights that it loads goes: --out PATH.safetensors."
        )
    return computing.of_experiment(exp), _checked(args.out)


def _checked(path: pathlib.Path) -> pathlib.Path:
    if path.suffix != ".safetensors":
        raise UserError(f"--out {path}: expected a path that ends in .safetensors.")
    return path


def _first_run(target: pathlib.Path) -> pathlib.Path:
    return min((p.parent for p in target.rglob(run_dir.MARK)), default=target / "seed0")


def _table(found: importance_file.Importance):
    """Returns a table of importance per stage."""
    stages: dict[str, list[np.ndarray]] = {}
    for name, array in found.arrays.items():
        stages.setdefault(name.split("/")[0], []).append(np.ravel(array))
    rows = []
    for stage, parts in stages.items():
        values = np.concatenate(parts)
        cells = (values.mean(dtype=np.float64), np.median(values), values.max())
        rows.append((stage, f"{values.size:,}", *(f"{x:.3e}" for x in cells)))
    columns = ("stage", "values", "mean", "median", "largest")
    return console_lib.table("importance", columns, rows)
