"""Precision, recall and F-β, of one class or averaged over classes."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.core.names import listing
from jaxtl.data.class_index import class_index
from jaxtl.evaluation.metrics.base import Metric, Predictions, note

AVERAGES = ("macro", "micro", "weighted", "samples")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FBeta(Metric):
    """F-β = (1 + β²)·P·R / (β²·P + R) of precision P and recall R.

    A class without a prediction has precision 0, one without a label recall 0, as
    scikit-learn counts them; it is told.

    Attributes:
      beta: above 0; recall counts β times as much as precision.
      average: over classes: "macro" (each the same; those that occur as a label or a
        prediction), "weighted" (by their labels), "micro" (of all decisions together),
        or, for "multilabel", "samples" (of each example, averaged).
      label: the class to measure alone, by name or index, in place of an average.
      per_class: also measure each class, as "<name>[<class>]".
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification", "multilabel")
    _score: ClassVar[int] = 2  # of precision, recall, F-β

    beta: float = 1.0
    average: Literal["macro", "micro", "weighted", "samples"] = "macro"
    label: str | int | None = None
    per_class: bool = False

    def check(self, task: str, class_names: tuple[str, ...], where: str) -> None:
        super().check(task, class_names, where)
        check_average(where, self.average, task, AVERAGES)
        if not 0 < self.beta < float("inf"):
            raise UserError(f"{where}: beta={self.beta!r}: expected a number above 0.")
        if self.label is not None:
            class_index(self.label, class_names, f"{where}: label")

    def value_names(self, class_names: tuple[str, ...]) -> tuple[str, ...]:
        return class_names if self.per_class else ()

    def measure(self, predictions: Predictions) -> float | Mapping[str, float]:
        p = predictions
        if self.label is not None:
            label = class_index(self.label, p.class_names, "label")
            self._tell(p, [label])
            return float(self._of_sklearn(p, None, [label])[0])
        occurs = None if p.task == "multilabel" else _occurring(p)
        if self.average in ("macro", "weighted"):
            self._tell(p, range(p.classes) if occurs is None else occurs)
        elif self.average == "samples":
            self._tell_empty_examples(p)
        value = float(self._of_sklearn(p, self.average, occurs))
        if not self.per_class:
            return value
        values = self._of_sklearn(p, None, range(p.classes))
        self._tell(p, range(p.classes))
        return {"": value, **dict(zip(p.class_names, map(float, values)))}

    def _of_sklearn(
        self, p: Predictions, average: str | None, labels: Iterable[int] | None
    ) -> np.ndarray:
        from sklearn.metrics import precision_recall_fscore_support  # imports slowly

        multilabel = p.task == "multilabel"
        return precision_recall_fscore_support(
            p.indicators if multilabel else p.labels,
            p.predicted,
            beta=self.beta,
            labels=None if labels is None else list(labels),
            average=average,
            sample_weight=p.weights,
            zero_division=0.0,
        )[self._score]

    def _tell(self, p: Predictions, labels: Iterable[int]) -> None:
        """Tells the classes of which the score is 0 / 0."""
        true = p.indicators.sum(axis=0)
        guesses = p.predicted
        if p.task != "multilabel":
            guesses = guesses[:, None] == np.arange(p.classes)
        counts = (guesses.sum(axis=0), true, guesses.sum(axis=0) + true)[self._score]
        names = [p.class_names[k] for k in labels if counts[k] == 0]
        why = (
            "is never predicted",
            "has no label",
            "is neither labelled nor predicted",
        )
        if names:
            note(f"counts 0 for what {why[self._score]}: {listing(names)}")

    def _tell_empty_examples(self, p: Predictions) -> None:
        """Tells how many examples have no label that could be found."""
        guesses, true = p.predicted.sum(axis=1), p.indicators.sum(axis=1)
        empty = int(((guesses, true, guesses + true)[self._score] == 0).sum())
        what = ("prediction", "label", "label and no prediction")[self._score]
        if empty:
            note(f"counts 0 for {empty} examples that have no {what}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Precision(FBeta):
    """Share of the predictions of a class that are right; averages as `FBeta`."""

    _score: ClassVar[int] = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recall(FBeta):
    """Share of the examples of a class that are predicted; averages as `FBeta`."""

    _score: ClassVar[int] = 1


def check_average(
    where: str, average: str, task: str, averages: tuple[str, ...]
) -> None:
    """Raises UserError for an average that does not exist, or not for this task.

    Args:
      where: what the experiment calls the metric, for the message.
      average: the field's value.
      task: of the target data.
      averages: those that the metric knows.
    """
    if average not in averages:
        raise UserError(
            f"{where}: average={average!r}{nearest(average, averages)} "
            f"(known: {', '.join(averages)})."
        )
    if average == "samples" and task != "multilabel":
        raise UserError(
            f"{where}: average='samples' needs examples of several labels, but the "
            f"task is {task}."
        )


def _occurring(p: Predictions) -> np.ndarray:
    """The classes that occur as a label or as a prediction."""
    return np.union1d(p.labels, p.predicted)
