"""The command `jaxtl ensemble`."""

import pathlib

from jaxtl.analysis.ensemble import ensemble as ensemble_ensemble
from jaxtl.core import console as console_lib
from jaxtl.core.errors import UserError
from jaxtl.results import format_number
from jaxtl.training import run_dir

CALIBRATION = ("nll", "ece", "brier")


def ensemble(args) -> int:
    """`jaxtl ensemble RUN… [--method M] [--split S] [--which W] [--out JSON]`."""
    _writable("out", args.out)
    found = ensemble_ensemble.ensemble(
        args.dirs, method=args.method, split=args.split, which=args.which
    )
    console = console_lib.console()
    for made in tables(found):
        console.print(made, markup=False)
    member = next(m for m in found.members if m.name == found.best_member)
    for what, line in (
        (f"best member on val, {found.best_member}", member),
        (f"ensemble, {found.method}", found.chosen),
    ):
        cell = format_number.number(found.metric, line.test[found.metric], None)
        console.print(f"{what}: {found.split} {_unit(found.metric)} {cell}")
    if args.out:
        run_dir.write_json(args.out, found.to_json())
        console.print(f"written to {args.out}")
    return 0


def tables(found: ensemble_ensemble.Ensemble) -> list:
    """Returns the tables of an ensemble: how often it is right, how calibrated.

    A line per member, then one per way to combine them.
    """
    lines = (*found.members, *found.methods)
    fitted = any(line.temperature for line in lines)
    names = [m for m in found.members[0].test if not (fitted and m in CALIBRATION)]
    marks = {found.best_member: "best member", found.method: "chosen"}
    rows = [
        (
            line.name,
            marks.get(line.name, ""),
            *([] if found.split == "val" else [_cell(line.val, found.metric)]),
            *(_cell(line.test, name) for name in names),
        )
        for line in lines
    ]
    counts = ", ".join(f"{n:,} {name}" for name, n in found.examples.items())
    columns = ["member or method", "on val"]
    columns += [] if found.split == "val" else [f"val {_unit(found.metric)}"]
    columns += [f"{found.split} {_unit(name)}" for name in names]
    title = f"{len(found.members)} members; examples: {counts}"
    made = [console_lib.table(title, columns, rows, left=2)]
    if fitted:
        made.append(_calibration(lines, found.split))
    return made


def _calibration(lines, split: str):
    names = [n for n in CALIBRATION if n in lines[0].test]
    rows = [
        (
            line.name,
            *(_cell(line.test, name) for name in names),
            f"{line.temperature:.3f}" if line.temperature else "–",
            *(_cell(line.scaled, name) for name in names),
        )
        for line in lines
    ]
    columns = ("member or method", *map(_unit, names), "T")
    columns += tuple(f"{_unit(name)} at T" for name in names)
    title = f"calibration on {split}, before and after a temperature fitted on val"
    return console_lib.table(title, columns, rows)


def _unit(metric: str) -> str:
    return f"{metric} %" if _is_share(metric) else metric


def _is_share(metric: str) -> bool:
    return metric.removeprefix("loo_") in format_number.SHARES


def _cell(values: dict, name: str) -> str:
    known = name.removeprefix("loo_")
    return format_number.number(known, values[name], None) if name in values else "–"


def _writable(field: str, path: pathlib.Path | None) -> None:
    """Raises UserError before the work is done, not after."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise UserError(
            f"--{field} {path}: expected a file in a directory that exists."
        )
