"""The command `jaxtl probe`."""

from jaxtl.analysis import linear_probe, linear_probe_fit
from jaxtl.cli.ensemble import _cell, _unit, _writable
from jaxtl.core import console as console_lib
from jaxtl.training import run_dir


def probe_(args) -> int:
    """`jaxtl probe FILE_OR_RUN [a.b=c …] [--stage S] [--strengths S…] …`."""
    _writable("out", args.out)
    _writable("plot", args.plot)
    run = linear_probe.opened(args.target, *args.overrides, variant=args.variant)
    found = linear_probe.probes(
        run,
        args.stage,
        args.strengths or linear_probe_fit.STRENGTHS,
        solver=args.solver,
        metric=args.metric,
        standardize=not args.raw,
        test=not args.no_test,
    )
    console = console_lib.console()
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
        run_dir.write_json(args.out, {s: one.to_json() for s, one in found.items()})
        console.print(f"written to {args.out}")
    if args.plot:
        from jaxtl.results.plots import base  # matplotlib takes a second to import

        base.probes(found, args.plot, title=f"{args.target}: linear probes")
        console.print(f"plot: {args.plot}")
    return 0


def strengths_table(found: linear_probe_fit.Probe):
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
    return console_lib.table(title, columns, rows, left=2)


def _scored(name: str) -> str:
    of_train = name.startswith("loo") or name == "gcv"
    return f"{'train' if of_train else 'val'} {_unit(name)}"


def stages_table(found: dict[str, linear_probe_fit.Probe]):
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
    return console_lib.table("a linear probe per stage", columns, rows)
