"""`jaxtl reproduce [NAME] [--fast] [--out DIR]`: a published table, run again."""

import pathlib

from jaxtl import report
from jaxtl.reproduce import base, registry, write

REPORTS = pathlib.Path("experiments/reports/reproduce")


def reproduce(args) -> int:
    """Runs a table, prints it beside the published figures, writes the verdicts.

    Without a name it lists the tables. A fast run writes only where --out says so: the
    verdicts on record are those of full runs.
    """
    console = report.console()
    if args.name is None:
        rows = [(name, registry.study(name).title) for name in registry.NAMES]
        console.print(report.table("tables to reproduce", ("name", ""), rows, left=2))
        return 0
    study = registry.study(args.name)
    rows = study.run(args.fast)
    title = f"{study.title} ({study.unit})" + ", a part of it" * args.fast
    lines = [base.cells(study, row) for row in rows]
    console.print(report.table(title, base.COLUMNS, lines, left=2), markup=False)
    console.print(write.verdicts(rows), markup=False)
    out = args.out or (None if args.fast else REPORTS)
    if out is not None:
        written = write.write(study, rows, out)
        names = ", ".join(path.name for path in written)
        console.print(f"written to {out}: {names}", markup=False)
    return 0
