"""What `jaxtl ensemble` and `jaxtl probe` do: many models together, one in parts."""

import pathlib

from jaxtl import ensembles, probe, report, rundir
from jaxtl.core import UserError

CALIBRATION = ("nll", "ece", "brier")


def ensemble(args) -> int:
    """`jaxtl ensemble RUN… [--method M] [--split S] [--which W] [--out JSON]`."""
    _writable("out", args.out)
    found = ensembles.ensemble(
        args.dirs, method=args.method, split=args.split, which=args.which
    )
    console = report.console()
    for made in tables(found):
        console.print(made, markup=False)
    member = next(m for m in found.members if m.name == found.best_member)
    for what, line in (
        (f"best member on val, {found.best_member}", member),
        (f"ensemble, {found.method}", found.chosen),
    ):
        cell = report.number(found.metric, line.test[found.metric], None)
        console.print(f"{what}: {found.split} {_unit(found.metric)} {cell}")
    if args.out:
        rundir.write_json(args.out, found.to_json())
        console.print(f"written to {args.out}")
    return 0


def tables(found: ensembles.Ensemble) -> list:
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
    made = [report.table(title, columns, rows, left=2)]
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
    return report.table(title, columns, rows)


def _unit(metric: str) -> str:
    return f"{metric} %" if _is_share(metric) else metric


def _is_share(metric: str) -> bool:
    return metric.removeprefix("loo_") in report.SHARES


def _cell(values: dict, name: str) -> str:
    known = name.removeprefix("loo_")
    return report.number(known, values[name], None) if name in values else "–"


def _writable(field: str, path: pathlib.Path | None) -> None:
    """Raises UserError before the work is done, not after."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise UserError(
            f"--{field} {path}: expected a file in a directory that exists."
        )


def probe_(args) -> int:
    """`jaxtl probe FILE_OR_RUN [a.b=c …] [--stage S] [--strengths S…] …`."""
    _writable("out", args.out)
    _writable("plot", args.plot)
    run = probe.opened(args.target, *args.overrides, variant=args.variant)
    found = probe.probes(
        run,
        args.stage,
        args.strengths or probe.STRENGTHS,
        solver=args.solver,
        metric=args.metric,
        standardize=not args.raw,
        test=not args.no_test,
    )
    console = report.console()
    for one in found.values():
        console.print(strengths_table(one), markup=False)
    if len(found) > 1:
        console.print(stages_table(found), markup=False)
    for one in found.values():
        if len(one.path.strengths) > 2 and one.best in (0, len(one.path.strengths) - 1):
            console.print(
                f"{one.stage}: the chosen strength is at the edge of the grid; "
                "--strengths widens it."
            )
    if args.out:
        rundir.write_json(args.out, {s: one.to_json() for s, one in found.items()})
        console.print(f"written to {args.out}")
    if args.plot:
        from jaxtl import plots  # matplotlib takes a second to import

        plots.probes(found, args.plot, title=f"{args.target}: linear probes")
        console.print(f"plot: {args.plot}")
    return 0


def strengths_table(found: probe.Probe):
    """Returns the table of one probe, a line per strength."""
    names = list(found.scores[0])
    rows = [
        (f"{strength:.3g}", "chosen" if i == found.best else "")
        + tuple(_cell(row, name) for name in names)
        for i, (strength, row) in enumerate(zip(found.path.strengths, found.scores))
    ]
    columns = ("strength", "", *(_scored(name) for name in names))
    counts = ", ".join(f"{n:,} {name}" for name, n in found.examples.items())
    title = f"{found.stage}: {found.width:,} features, {found.solver}; {counts}"
    if found.test:
        title += "; chosen on test: " + ", ".join(
            f"{_unit(name)} {_cell(found.test, name)}" for name in found.test
        )
    return report.table(title, columns, rows, left=2)


def _scored(name: str) -> str:
    of_train = name.startswith("loo") or name == "gcv"
    return f"{'train' if of_train else 'val'} {_unit(name)}"


def stages_table(found: dict[str, probe.Probe]):
    """Returns the table of several stages, each at its chosen strength."""
    first = next(iter(found.values()))
    names = list(first.test or first.scores[0])
    split = "test" if first.test else "val"
    rows = [
        (
            one.stage,
            f"{one.width:,}",
            f"{one.strength:.3g}",
            _cell(one.scores[one.best], one.metric),
            *(_cell(one.test or one.scores[one.best], name) for name in names),
        )
        for one in found.values()
    ]
    columns = ("stage", "features", "strength", _scored(first.metric))
    columns += tuple(f"{split} {_unit(name)}" for name in names)
    return report.table("a linear probe per stage", columns, rows)
