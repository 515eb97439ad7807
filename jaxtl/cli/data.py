"""`jaxtl data`: lists the sources of data, or describes those of an experiment."""

import argparse
import pathlib
from typing import TYPE_CHECKING

from jaxtl.cli import arguments
from jaxtl.core import console, output_paths
from jaxtl.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from jaxtl.data.dataset import Dataset

HELP = "what data there are; a contact sheet of examples"
SPLITS = ("train", "unlabelled", "val", "test")
CLASSES_SHOWN = 20  # columns of a data set's table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl data`."""
    parser.add_argument("file", type=pathlib.Path, nargs="?", help="experiment file")
    arguments.add_overrides(parser)
    parser.add_argument(
        "--out",
        "--plot",
        type=output_paths.OutputPicture,
        metavar="PNG",
        help="the contact sheet of examples; only its numbers are printed without",
    )
    parser.add_argument(
        "--per-class", type=int, default=12, help="examples of each class on the sheet"
    )


def main(args: argparse.Namespace) -> int:
    """Prints all sources, or the data sets of a file and a contact sheet of each."""
    from jaxtl.data import description
    from jaxtl.data.preparation import prepare
    from jaxtl.training import experiment_file, inputs

    if args.per_class < 1:
        raise UserError(
            f"--per-class {args.per_class}: expected a whole number of at least 1."
        )
    terminal = console.console()
    if args.file is None:
        terminal.print(_source_table())
        return 0
    variants = experiment_file.read_file(args.file, *args.overrides).variants
    sources = list(inputs.distinct_sources(variants))
    sheets = []
    for index, (name, source, seed) in enumerate(sources):
        dataset = prepare(source, seed)
        terminal.print(_dataset_table(name, dataset))
        console.print_lines(terminal, "", description.lines_of(dataset))
        sheet = args.out and _contact_sheet(dataset, args.per_class)
        if not sheet:
            continue
        from jaxtl.results.plots import images  # matplotlib imports slowly

        suffix = f"-{index}" if len(sources) > 1 else ""
        path = args.out.with_name(f"{args.out.stem}{suffix}{args.out.suffix}")
        images.contact_sheet(*sheet, path, title=f"{name}: {dataset.name}")
        sheets.append(path)
    if sheets:
        console.print_written(*sheets)
    elif args.out:
        terminal.print("no contact sheet: none of these data are images")
    return 0


def _source_table() -> "Table":
    """Builds the table of data sets and sources."""
    from jaxtl.data.sources import catalog

    rows = [
        (source["name"], ", ".join(source["needed"]), source["summary"])
        for source in catalog.available()
    ]
    return console.listing("tl.data", ("source", "needs", "what it is"), rows)


def _dataset_table(name: str, dataset: "Dataset") -> "Table":
    """Builds the table of a data set: examples per split, and per class where given."""
    shape, dtype = dataset.example_shape, dataset.dtype
    if isinstance(shape, dict):
        kind = ", ".join(f"{key} {shape[key]} {dtype[key]}" for key in shape)
    else:
        kind = f"{shape} {dtype}"
    title = f"{name}: {dataset.name}, {dataset.task}, an example is {kind}"
    rows = dataset.example_rows
    splits = {name: rows[name] for name in SPLITS if name in rows}
    if dataset.task != "classification":
        cells = [(split, f"{len(rows):,}") for split, rows in splits.items()]
        return console.table(title, ("split", "examples"), cells)
    classes = range(dataset.outputs)[:CLASSES_SHOWN]
    cells = []
    for split, rows in splits.items():
        labels = dataset.y_clean[rows]
        counts = [int((labels == label).sum()) for label in classes]
        cells.append((split, f"{len(rows):,}", *counts))
    names = dataset.class_names[:CLASSES_SHOWN]
    return console.table(title, ("split", "examples", *map(str, names)), cells)


def _contact_sheet(
    dataset: "Dataset", per_class: int
) -> tuple["np.ndarray", list[str]] | None:
    """Samples images and their labels; None where x is no image.

    They are of the train split, or of the first other one where that is empty.
    """
    from jaxtl.data import streams

    if isinstance(dataset.x, dict) or len(dataset.example_shape) != 3:
        return None
    split = next(name for name in SPLITS if len(dataset.rows.get(name, ())))
    sample = streams.sample(dataset, split, per_class)
    if dataset.class_names:
        labels = [str(dataset.class_names[label]) for label in sample["y"]]
    else:
        offset = dataset.preprocess.target_offset or (0.0,)
        targets = np.asarray(sample["y"], np.float64) + np.asarray(offset)
        labels = [np.array2string(y, precision=7) for y in targets]
    return sample["x"], labels
