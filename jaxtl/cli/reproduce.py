"""The command `jaxtl reproduce`: a published table, run again, with verdicts."""

import pathlib

import jaxtl
from jaxtl.core import console as console_lib
from jaxtl.core.errors import UserError, nearest
from jaxtl.results import published
from jaxtl.training import experiment_file

FOLDER = pathlib.Path("experiments/reproduce")
REPORTS = pathlib.Path("experiments/reports/reproduce")


def tables() -> dict[str, pathlib.Path]:
    """Finds the files of published tables: {name: path}, sorted by name.

    They lie in `experiments/reproduce/` below the current directory, or beside the
    package in a checkout.
    """
    checkout = pathlib.Path(jaxtl.__file__).parents[1]
    for root in (pathlib.Path.cwd(), checkout):
        paths = sorted((root / FOLDER).glob("*.py"))
        if paths:
            return {path.stem: path for path in paths}
    return {}


def load_study(name: str) -> published.Study:
    """Loads a table by its name in `experiments/reproduce/`, or by the path of a file.

    Raises:
      UserError: there is no such table or file, or the file defines no `STUDY`.
    """
    known = tables()
    path = known.get(name, pathlib.Path(name))
    if name not in known and path.suffix != ".py":
        raise UserError(
            f"there is no table {name!r} to reproduce{nearest(name, known)} "
            f"(tables in {FOLDER}: {', '.join(known) or 'none'}; or give a file)."
        )
    study = getattr(experiment_file.import_file(path), "STUDY", None)
    if not isinstance(study, published.Study):
        raise UserError(f"{path} defines no STUDY, a jaxtl.results.published.Study.")
    return study


def reproduce(args) -> int:
    """Runs a table, prints it beside the published figures, writes the verdicts.

    Without a name it lists the tables. A fast run writes only where --out says so: the
    verdicts on record are those of full runs.
    """
    console = console_lib.console()
    if args.name is None:
        rows = [(name, load_study(name).title) for name in tables()]
        console.print(
            console_lib.table("tables to reproduce", ("name", ""), rows, left=2)
        )
        return 0
    study = load_study(args.name)
    rows = study.run(args.fast)
    title = f"{study.title} ({study.unit})" + ", a part of it" * args.fast
    lines = [published.cells(study, row) for row in rows]
    console.print(
        console_lib.table(title, published.COLUMNS, lines, left=2), markup=False
    )
    console.print(published.verdicts(rows), markup=False)
    out = args.out or (None if args.fast else REPORTS)
    if out is not None:
        written = published.write(study, rows, out)
        names = ", ".join(path.name for path in written)
        console.print(f"written to {out}: {names}", markup=False)
    return 0
