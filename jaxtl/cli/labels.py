"""`jaxtl labels`: finds the train labels of a run that are probably wrong."""

import argparse
import csv
import io
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxtl.cli import run_argument
from jaxtl.core import atomic, console, output_paths

if TYPE_CHECKING:
    from jaxtl.analysis.label_errors.confident_learning import LabelErrors
    from jaxtl.analysis.label_errors.cross_validate import TrainPredictions

HELP = "which labels of a run's train data are wrong"
ROWS_SHOWN = 10  # rows of the table on the terminal; the file has all
FILES = ("errors.csv", "transition.npy", "transition_anchors.npy")
COLUMNS = ("row", "origin", "given", "suggested", "score")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `jaxtl labels`."""
    run_argument.add_run(parser, "run")
    parser.add_argument(
        "--folds",
        type=int,
        default=5,
        metavar="K",
        help="models trained to predict out of sample; 0: the run's own, in sample",
    )
    parser.add_argument(
        "--method",
        default="prune_by_noise_rate",
        help="how suspicious labels are counted",
    )
    parser.add_argument(
        "--out", type=output_paths.OutputFolder, help="default RUN/labels"
    )


def main(args: argparse.Namespace) -> int:
    """Writes the labels that are probably wrong, the worst first, and the noise."""
    return run_argument.for_each_run(args, _label_errors, "run", ("out",))


def _label_errors(args: argparse.Namespace) -> int:
    import numpy as np

    from jaxtl.analysis.label_errors import confident_learning, cross_validate
    from jaxtl.terms.noisy import estimate_transition

    confident_learning.check_method(args.method)
    folder = args.out or args.run / "labels"
    output_paths.check_folder(folder)
    predictions = cross_validate.predictions(args.run, args.folds)
    errors = confident_learning.find_label_errors(
        predictions.labels, predictions.probabilities, args.method
    )
    folder.mkdir(parents=True, exist_ok=True)
    rows = _rows(predictions, errors)
    text = io.StringIO(newline="")
    csv.writer(text).writerows([COLUMNS, *rows])
    atomic.write_text(folder / "errors.csv", text.getvalue())
    anchors = estimate_transition(predictions.probabilities)
    matrices = {"transition": errors.transition, "transition_anchors": anchors}
    for name, matrix in matrices.items():
        with atomic.file(folder / f"{name}.npy") as draft:
            np.save(draft, matrix)
    share = 1 - np.trace(errors.joint)
    _print(predictions, rows, share, folder)
    return 0


def _rows(predictions: "TrainPredictions", errors: "LabelErrors") -> list[tuple]:
    """Cells of the suspicious labels, in the order of `COLUMNS`.

    The row is the number among all rows that the source read, from 0, before any
    filter; the origin is a file and its line, a picture, or an array and an index.
    """
    names, origins = predictions.class_names, predictions.origins
    return [
        (
            int(origins.source_row[index]),
            origins[index],
            names[label],
            names[suggested],
            f"{score:.4f}",
        )
        for index, label, suggested, score in zip(
            errors.rows, errors.labels, errors.suggested, errors.score
        )
    ]


def _print(
    predictions: "TrainPredictions",
    rows: Sequence[tuple],
    share: float,
    folder: pathlib.Path,
) -> None:
    """Prints the worst labels, the share of wrong ones, and the files.

    Args:
      predictions: that the labels were judged by.
      rows: the suspicious labels.
      share: estimated share of wrong labels, in [0, 1].
      folder: that everything was written to.
    """
    terminal = console.console()
    title = f"{len(rows)} of {len(predictions.rows):,} labels look wrong"
    if rows:
        table = console.table(title, COLUMNS, rows[:ROWS_SHOWN], left=4)
        terminal.print(table)
    else:
        terminal.print(title)
    method = f"{predictions.folds}-fold predictions, out of sample"
    if not predictions.folds:
        method = (
            "in-sample predictions: the model was trained on these labels and may "
            "repeat them, so wrong ones are missed; --folds 5 looks harder"
        )
    terminal.print(
        f"estimated share of wrong labels {100 * share:.1f} %; from {method}"
    )
    console.print_written(
        *(folder / name for name in FILES),
        hint="the transitions are for tl.noisy.ForwardCorrection(transition=…)",
    )
