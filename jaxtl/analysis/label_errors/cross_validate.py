"""Predictions for the train examples of a run, by cross-validation or in sample."""

import dataclasses
import pathlib
from typing import NamedTuple

import numpy as np

from jaxtl.core import progress as bars
from jaxtl.core.errors import UserError
from jaxtl.data import dataset, episodic, grouped_splits, preparation
from jaxtl.data.episodic import Episodes
from jaxtl.data.origins import Origins
from jaxtl.evaluation import evaluate
from jaxtl.terms import losses
from jaxtl.training import inputs, loop, run_dir, run_paths
from jaxtl.training.experiment import Experiment
from jaxtl.training.load_model import TrainedModel, load_model
from jaxtl.training.run import Run


class TrainPredictions(NamedTuple):
    """Predicted class probabilities of a run's labelled train examples.

    Attributes:
      rows: (n,), the examples' rows in the data set.
      labels: (n,), of the data set.
      probabilities: (n, K), predicted.
      class_names: in label order.
      folds: number of models that predicted; 0 where the predictions are in sample.
      origins: where each example was read.
    """

    rows: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    class_names: tuple[str, ...]
    folds: int
    origins: Origins


def predictions(
    directory: str | pathlib.Path, folds: int, progress: bool | None = None
) -> TrainPredictions:
    """Predicts the labels of a finished run's train examples.

    With K folds, K models are trained as the run was, each without one part of the
    train examples, which it then predicts; the validation rows stay those of the run,
    and no model is trained on a group (`Data.split_by`) that it predicts. Initial
    weights that were trained on these very labels are used all the same.

    Args:
      directory: of the run.
      folds: K ≥ 2; 0 predicts with the run's model, which trained on the labels.
      progress: as in `training.loop.train`.

    Raises:
      DataChanged: the data are no longer those that the run was trained on.
      UserError: another task than classification, too many folds for the examples or
        their groups, or an experiment that reads unlabelled train rows, which folds
        would mix with labelled ones.
    """
    if folds < 0 or folds == 1:
        raise UserError(
            f"--folds {folds}: expected 0 (the run's own, in-sample predictions) or at "
            "least 2."
        )
    directory = run_paths.one_run(directory)
    exp = run_dir.read_experiment(directory)
    sampling = getattr(exp.data, "sampling", None)
    episodic.refuse(isinstance(sampling, Episodes), "wrong labels of train examples")
    if not folds:
        return _in_sample(exp, load_model(directory))
    target = inputs.load_datasets(exp, directory)["target"]
    rows = _labelled_rows(exp, target, folds)
    names = target.class_names
    probabilities = np.zeros((len(rows), len(names)))
    parts = _parts(exp, target, rows, folds)
    for part in bars.track(parts, "training a model per fold"):
        run = Run(_hold_out(exp, target, rows, part))
        loop.train(run, progress=progress)
        logits, _ = evaluate.predict_split(run, "test", "best")
        p = losses.predictions(logits, "classification")
        probabilities[part] = np.asarray(p)[:, : len(names)]
    origins = target.origins.select(rows)
    return TrainPredictions(rows, target.y[rows], probabilities, names, folds, origins)


def _in_sample(exp: Experiment, model: TrainedModel) -> TrainPredictions:
    """The predictions of the run's model for the examples that it was trained on."""
    target = model.datasets["target"]
    rows = _labelled_rows(exp, target, 0)
    logits, labels = evaluate.predict_split(model, "train")
    p = np.asarray(losses.predictions(logits, "classification"))
    origins = target.origins.select(rows)
    return TrainPredictions(rows, labels, p, target.class_names, 0, origins)


def split_in_folds(labels: np.ndarray, folds: int, seed: int) -> list[np.ndarray]:
    """Splits indices of the labels in `folds` disjoint parts, each class evenly.

    The sizes of parts differ by at most one example, in total and in each class.

    Args:
      labels: (n,) class indices.
      folds: number of parts.
      seed: of the split.
    """
    order = np.random.default_rng([seed, folds]).permutation(len(labels))
    order = order[np.argsort(np.asarray(labels)[order], kind="stable")]
    return [np.sort(order[i::folds]) for i in range(folds)]


def _parts(
    exp: Experiment, target: dataset.Dataset, rows: np.ndarray, folds: int
) -> list[np.ndarray]:
    """Indices into `rows` of each fold: of whole groups where the data have groups."""
    if exp.data.split_by is None:
        return split_in_folds(target.y[rows], folds, exp.seed)
    table, _ = preparation.load_table(inputs.sources(exp)["target"])
    groups = table.groups[rows]
    count = len(np.unique(groups))
    if folds > count:
        raise UserError(
            f"--folds {folds}: the labelled train examples are of {count} groups "
            f"(data.split_by={exp.data.split_by!r}), which stay whole."
        )
    return split_groups_in_folds(groups, target.y[rows], folds, exp.seed)


def split_groups_in_folds(
    groups: np.ndarray, labels: np.ndarray, folds: int, seed: int
) -> list[np.ndarray]:
    """Splits indices in disjoint parts of whole groups, each class as evenly as it can.

    Args:
      groups: (n,) group of each index, at least `folds` different ones.
      labels: (n,) class indices.
      folds: number of parts.
      seed: of the order among groups of one kind.
    """
    remaining = np.arange(len(labels))
    parts = []
    for i in range(folds - 1):
        kept, classes = groups[remaining], np.asarray(labels)[remaining]
        share = 1 / (folds - i)
        chosen = grouped_splits.held_out_groups(kept, classes, share, [seed, i])
        # Each later fold needs a group of its own.
        left = len(np.unique(kept)) - (folds - i - 1)
        is_chosen = np.isin(kept, chosen[:left])
        parts.append(remaining[is_chosen])
        remaining = remaining[~is_chosen]
    return [*parts, remaining]


def _labelled_rows(exp: Experiment, target: dataset.Dataset, folds: int) -> np.ndarray:
    """Labelled train rows of the target data, (n,); UserError where folds can't be."""
    if target.task != "classification":
        raise UserError(
            "wrong labels can be found in classification only, and this run's task is "
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
    """A table that is split already: into the train and test rows of a fold."""

    table: dataset.Table

    def read(self) -> dataset.Table:
        return self.table


def _hold_out(
    exp: Experiment, target: dataset.Dataset, rows: np.ndarray, part: np.ndarray
) -> Experiment:
    """Builds the experiment whose test split is a part of the train rows.

    Args:
      exp: the run's experiment.
      target: its target data.
      rows: (n,) labelled train rows.
      part: indices into `rows` of the examples that are held out.
    """
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
        target_names=target.target_names,
        feature_names=target.feature_names,
        origins=target.origins,
        weights=target.weights,
    )
    data = _Fold(table=table, val=0, sampling=exp.data.sampling)
    return dataclasses.replace(exp, data=data, test=False)
