"""`jaxtl labels RUN [--folds K] [--method M] [--out DIR]`: which labels are wrong."""

import csv
import pathlib

import numpy as np

from jaxtl.analysis.label_errors import confident_learning, cross_validate
from jaxtl.core import console as console_lib
from jaxtl.core.errors import UserError
from jaxtl.terms.noisy import estimate_transition
from jaxtl.training import run_dir

SHOWN = 10  # lines on the screen; the file has all


def labels(args) -> int:
    """Writes the labels that are probably wrong, the worst first, and the noise."""
    if not (args.run / run_dir.MARK).exists():
        raise UserError(f"{args.run} is no directory of a run.")
    if args.method not in confident_learning.METHODS:
        confident_learning.find_label_errors(
            np.zeros(2, int), np.full((2, 2), 0.5), args.method
        )
    found = cross_validate.predictions(args.run, args.folds)
    errors = confident_learning.find_label_errors(
        found.labels, found.probabilities, args.method
    )
    out = args.out or args.run / "labels"
    out.mkdir(parents=True, exist_ok=True)
    lines = _lines(found, errors)
    with open(out / "errors.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("row", "given", "suggested", "score"))
        writer.writerows(lines)
    np.save(out / "transition.npy", errors.transition)
    np.save(out / "transition_anchors.npy", estimate_transition(found.probabilities))
    _tell(console_lib.console(), found, errors, lines, out)
    return 0


def _lines(
    found: cross_validate.Predictions, errors: confident_learning.LabelErrors
) -> list[tuple]:
    names = found.class_names
    return [
        (int(found.rows[place]), names[given], names[suggested], f"{score:.4f}")
        for place, given, suggested, score in zip(
            errors.rows, errors.given, errors.suggested, errors.score
        )
    ]


def _tell(console, found, errors, lines, out: pathlib.Path) -> None:
    share = 1 - np.trace(errors.joint)
    title = f"{len(lines)} of {len(found.rows):,} labels look wrong"
    if lines:
        columns = ("row", "given", "suggested", "score")
        console.print(console_lib.table(title, columns, lines[:SHOWN], left=3))
    else:
        console.print(title)
    how = f"{found.folds}-fold predictions, out of sample"
    if not found.folds:
        how = (
            "in-sample predictions: the model was trained on these labels and may "
            "repeat them, so wrong ones are missed; --folds 5 looks harder"
        )
    console.print(f"estimated share of wrong labels {100 * share:.1f} %; from {how}")
    console.print(
        f"written to {out}: errors.csv; transition.npy and transition_anchors.npy, for "
        "tl.noisy.ForwardCorrection(transition=…)",
        markup=False,
        soft_wrap=True,
    )
