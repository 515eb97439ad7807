"""`jaxtl predict`: runs an exported model, or the model of a run, on files."""

import argparse
import pathlib
import tempfile
from typing import Any

from jaxtl.core import console, output_paths

HELP = "run an exported model, or a run's, on files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl predict`."""
    parser.add_argument(
        "folder",
        metavar="model",
        type=pathlib.Path,
        help="what `jaxtl export` wrote, or the directory of a run",
    )
    parser.add_argument(
        "files",
        type=pathlib.Path,
        nargs="+",
        help="pictures or folders of them, tables, texts, .npy or .npz files",
    )
    parser.add_argument(
        "--out",
        type=output_paths.OutputFile,
        metavar="FILE",
        help="write .csv, .tsv, .json or .jsonl with the probability of each class, in "
        "place of printing",
    )


def main(args: argparse.Namespace) -> int:
    """Prints or writes a row of predictions per example."""
    from jaxtl.cli import prediction_files
    from jaxtl.export import bundle, predict
    from jaxtl.training import run_paths

    folder: pathlib.Path = args.folder
    if args.out is not None:
        prediction_files.check(args.out)
    is_export = folder.is_dir() and not run_paths.holds_runs(folder)
    if (folder / bundle.METADATA).exists() or is_export:
        rows = predict.predict(folder, args.files, each_class=args.out is not None)
    else:
        rows = _predict_by_run(run_paths.one_run(folder), args)
    if args.out is not None:
        prediction_files.write(rows, args.out)
        console.print_written(args.out, hint=f"{len(rows):,} rows")
        return 0
    # The origin says which file and row, as counted in the file.
    columns = [name for name in rows[0] if name not in ("file", "row")]
    values = [[row[name] for name in columns] for row in rows]
    cells = [[f"{x:.4f}" if isinstance(x, float) else x for x in v] for v in values]
    console.console().print(console.table("", columns, cells, left=2))
    return 0


def _predict_by_run(
    run: pathlib.Path, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """The predictions of the export of a run, which is written for them alone."""
    from jaxtl.core import progress
    from jaxtl.export import predict, write_bundle

    print(
        f"{run} is a run: its best model is exported for this call alone; "
        f"`jaxtl export {run} OUT` keeps it"
    )
    with tempfile.TemporaryDirectory(prefix="jaxtl-") as folder:
        with progress.Task("exporting the program and checking it"):
            export = write_bundle.export(run, pathlib.Path(folder) / "export")
        each_class = args.out is not None
        return predict.predict(export, args.files, name=str(run), each_class=each_class)
