"""Predictions for a run's own train examples, out of sample where affordable."""

import dataclasses
import pathlib
import typing

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.data import dataset, preparation
from jaxtl.evaluation import evaluate
from jaxtl.terms import losses
from jaxtl.training import inputs, loop, run_dir, setup
from jaxtl.training.experiment import Experiment
from jaxtl.training.run import Run


class Predictions(typing.NamedTuple):
    """What models say of labelled examples.

    Attributes:
      rows: (n,), rows of the data set: the run's labelled train examples.
      labels: (n,), given labels.
      probabilities: (n, K).
      class_names: in label order.
      folds: 0 where the predictions are in sample.
    """

    rows: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    class_names: tuple[str, ...]
    folds: int


def predictions(
    directory: str | pathlib.Path, folds: int, progress: bool | None = None
) -> Predictions:
    """Predicts the labels of a finished run's train examples.

    With folds, so many models are trained as the run was, each without a part of the
    train examples, which it then predicts; validation stays the run's own. Where the
    initial weights were trained on these very labels, that is not undone.

    Args:
      directory: of the run.
      folds: 0 for the run's own model, which has seen the labels; 2 or more.
      progress: as in `training.train`.

    Raises:
      UserError: another task than classification, too many folds for the examples, or
        an experiment that reads unlabelled train rows, whose place folds would take.
    """
    if folds < 0 or folds == 1:
        raise UserError(
            f"--folds {folds}: expected 0 (the run's own, in-sample predictions) or at "
            "least 2."
        )
    exp = run_dir.read_experiment(pathlib.Path(directory))
    target = preparation.prepare(inputs.sources(exp)["target"], exp.seed)
    rows = _checked(exp, target, folds)
    names = target.class_names
    if not folds:
        logits, labels = evaluate.outputs(setup.reopen(directory), "train", "best")
        p = losses.predictions(logits, "classification")
        return Predictions(rows, labels, np.asarray(p), names, 0)
    found = np.zeros((len(rows), len(names)))
    for part in split_in_folds(target.y[rows], folds, exp.seed):
        run = Run(_without(exp, target, rows, part))
        loop.train(run, progress=progress)
        logits, _ = evaluate.outputs(run, "test", "best")
        p = losses.predictions(logits, "classification")
        found[part] = np.asarray(p)[:, : len(names)]
    return Predictions(rows, target.y[rows], found, names, folds)


def split_in_folds(labels, folds: int, seed: int) -> list[np.ndarray]:
    """Returns places of the labels in `folds` disjoint parts, each class spread evenly.

    Parts differ by at most one example, in all and in each class.
    """
    order = np.random.default_rng([seed, folds]).permutation(len(labels))
    order = order[np.argsort(np.asarray(labels)[order], kind="stable")]
    return [np.sort(order[i::folds]) for i in range(folds)]


def _checked(exp: Experiment, target: dataset.Dataset, folds: int) -> np.ndarray:
    """Returns the labelled train rows."""
    if target.task != "classification":
        raise UserError(
            f"labels are looked for in classification, and this run's task is "
            f"{target.task!r}."
        )
    rows = target.rows["train"]
    if folds > len(rows):
        raise UserError(
            f"--folds {folds}: there are {len(rows)} labelled train examples."
        )
    streams = {name for term in exp.terms.values() for name in term.streams}
    if folds and "unlabelled" in streams - set(exp.streams):
        raise UserError(
            "this run reads the target's unlabelled train rows, which folds would mix "
            "with labelled ones; use --folds 0."
        )
    return rows


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Fold(dataset.Data):
    """A data set as it was carved already, but for the rows of a fold."""

    made: dataset.Table

    def read(self):
        return self.made


def _without(exp: Experiment, target: dataset.Dataset, rows, part) -> Experiment:
    """Returns the experiment without a part of its train rows, which are its test."""
    splits = {"train": np.delete(rows, part), "test": rows[part]}
    if len(target.rows.get("val", ())):
        splits["val"] = target.rows["val"]
    table = dataset.Table(
        x=target.x,
        y=target.y,
        class_names=target.class_names,
        task=target.task,
        splits=splits,
        preprocess=target.preprocess,
    )
    return dataclasses.replace(exp, data=_Fold(made=table, val=0), test=False)
