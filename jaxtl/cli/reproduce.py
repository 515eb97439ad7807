"""`jaxtl reproduce`: runs a published table again and compares the figures."""

import argparse
import pathlib
from typing import TYPE_CHECKING

import jaxtl
from jaxtl.cli import arguments
from jaxtl.core import console, output_paths, progress
from jaxtl.core.errors import UserError, nearest

if TYPE_CHECKING:
    from jaxtl.results.published import Study

HELP = "a published table, run again, with verdicts"
FOLDER = pathlib.Path("experiments/reproduce")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl reproduce`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="default: list them")
    parser.add_argument("--fast", action="store_true", help="a part that takes seconds")
    parser.add_argument(
        "--out",
        type=output_paths.OutputFolder,
        help="the directory (default: runs/reproduce-NAME/TIME, nothing with --fast)",
    )


def main(args: argparse.Namespace) -> int:
    """Runs a table, prints it beside the published figures, writes the verdicts.

    Without a name it lists the tables. A fast run writes only where --out is given.
    """
    from jaxtl.results import published

    terminal = console.console()
    if args.name is None:
        titles = [(name, load_study(name).title) for name in tables()]
        columns = ("name", "")
        terminal.print(console.table("tables to reproduce", columns, titles, left=2))
        return 0
    study = load_study(args.name)
    with progress.Task(f"running {args.name}"):
        rows = study.run(args.fast)
    title = f"{study.title} ({study.unit})" + ", a part of it" * args.fast
    cells = [published.row_texts(study, row) for row in rows]
    table = console.table(title, published.COLUMNS, cells, left=2)
    terminal.print(table, markup=False)
    terminal.print(published.verdict_counts(rows), markup=False)
    folder = args.out
    if folder is None and not args.fast:
        folder = arguments.default_folder(f"reproduce-{args.name}")
    if folder is not None:
        console.print_written(*published.write(study, rows, folder))
    return 0


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


def load_study(name: str) -> "Study":
    """Loads a table by its name in `experiments/reproduce/`, or by the path of a file.

    Raises:
      UserError: there is no such table or file, or the file defines no `STUDY`.
    """
    from jaxtl.results import published
    from jaxtl.training import experiment_file

    paths = tables()
    path = paths.get(name, pathlib.Path(name))
    if name not in paths and path.suffix != ".py":
        raise UserError(
            f"there is no table {name!r} to reproduce{nearest(name, paths)} "
            f"(tables in {FOLDER}: {', '.join(paths) or 'none'}; or give a file)."
        )
    study = getattr(experiment_file.import_file(path), "STUDY", None)
    if not isinstance(study, published.Study):
        raise UserError(f"{path} defines no STUDY, a jaxtl.results.published.Study.")
    return study
