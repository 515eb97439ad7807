"""The Metric: a number measured of all predictions on a split, and what it reads."""

import contextlib
import contextvars
import dataclasses
import functools
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from jaxtl.core.errors import UserError

_notes: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar(
    "metric_notes", default=None
)


class UndefinedMetric(UserWarning):
    """The warning that a metric has no value, or one by convention alone."""


def note(text: str) -> None:
    """Tells why a metric has no value, or one by convention alone.

    An experiment stores it with its result; elsewhere it is an `UndefinedMetric`.

    Args:
      text: the reason; the same text is kept once.
    """
    notes = _notes.get()
    if notes is None:
        warnings.warn(text, UndefinedMetric, stacklevel=3)
    elif text not in notes:
        notes.append(text)


def undefined(reason: str) -> float:
    """NaN, the value of a metric that is not defined here; tells the reason.

    Args:
      reason: half a sentence, which is told after "NaN, as".

    Returns:
      NaN.
    """
    note(f"NaN, as {reason}")
    return float("nan")


@contextlib.contextmanager
def collected_notes() -> Iterator[list[str]]:
    """Collects what metrics tell in the `with` block."""
    notes: list[str] = []
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """The outputs of a model on the examples that count, with their labels.

    Attributes:
      task: as of a data set.
      outputs: (N, outputs) float64, before the output activation; of a language model
        the sums of `losses.metric_inputs`; (N, pieces, tags) of words; of questions
        the columns of `metrics.answers`.
      labels: (N,) classes; (N, labels) of 0 and 1; (N, targets); (N, pieces) tags,
        below 0 on pieces that are not counted; (N,) whether a question has an answer.
      weights: (N,) of the examples, above 0.
      class_names: in label order, () where unknown.
    """

    task: str
    outputs: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    class_names: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        """Number of classes, labels or targets."""
        return self.outputs.shape[-1]

    @functools.cached_property
    def has_equal_weights(self) -> bool:
        """Whether every example counts the same."""
        return bool((self.weights == self.weights[0]).all())

    @functools.cached_property
    def probabilities(self) -> np.ndarray:
        """Softmax of the outputs, or their sigmoid for "multilabel"; (N, classes)."""
        if self.task == "multilabel":
            return special.expit(self.outputs)
        return special.softmax(self.outputs, axis=-1)

    @functools.cached_property
    def log_odds(self) -> np.ndarray:
        """log p / (1 − p) of each class: it orders as p does, and never rounds to 1."""
        if self.task == "multilabel":
            return self.outputs
        if self.classes == 2:
            margin = self.outputs[:, 1] - self.outputs[:, 0]
            return np.stack([-margin, margin], axis=1)
        columns = [
            self.outputs[:, k]
            - special.logsumexp(np.delete(self.outputs, k, axis=1), axis=1)
            for k in range(self.classes)
        ]
        return np.stack(columns, axis=1)

    @functools.cached_property
    def predicted(self) -> np.ndarray:
        """The predicted class (N,), or the predicted labels (N, labels) as 0 and 1.

        Of tagged words (N, pieces).
        """
        if self.task == "multilabel":
            return (self.outputs > 0).astype(np.int64)
        return np.argmax(self.outputs, axis=-1)

    @functools.cached_property
    def indicators(self) -> np.ndarray:
        """(N, classes) of 0 and 1: which labels each example has."""
        if self.task == "multilabel":
            return (self.labels > 0.5).astype(np.int64)
        return (self.labels[:, None] == np.arange(self.classes)).astype(np.int64)

    def name(self, label: int) -> str:
        """The name of a class, quoted.

        Args:
          label: place of the class in label order.

        Returns:
          The class's name in quotation marks; the number itself where names are
          unknown.
        """
        names = self.class_names
        return repr(names[label] if label < len(names) else str(label))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of an experiment: `metrics={"mcc": tl.metrics.MatthewsCorrelation()}`.

    A subclass defines `measure`; it tells by `note` of what it can't measure.

    Attributes:
      higher_is_better: whether larger values are better.
      tasks: that it measures.
      reads_scores: whether it reads more of the outputs than the predicted class.
      reads_features: whether it reads features and no outputs (`FeatureMetric`).
    """

    higher_is_better: ClassVar[Any] = True
    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    reads_scores: ClassVar[Any] = False
    reads_features: ClassVar[bool] = False

    def check(self, task: str, class_names: tuple[str, ...], where: str) -> None:
        """Raises UserError where the metric does not fit a task or its classes.

        Args:
          task: of the target data.
          class_names: of the target data, () without classes.
          where: what the experiment calls the metric, for messages.
        """
        if task not in self.tasks:
            raise UserError(
                f"{where}: {type(self).__name__} is a metric of a "
                f"{' or '.join(self.tasks)} task, but this task is {task}."
            )

    def value_names(self, class_names: tuple[str, ...]) -> tuple[str, ...]:
        """Names the values that `measure` gives beside the metric itself.

        Args:
          class_names: of the target data, () without classes.

        Returns:
          The keys of what `measure` returns but ""; () for a metric of one value.
        """
        return ()

    def measure(self, predictions: Predictions) -> float | Mapping[str, float]:
        """Computes the metric; a subclass defines it.

        Args:
          predictions: all outputs of a split, in float64, without padding.

        Returns:
          The value; or {"": value, key: further value} with the keys of `value_names`,
          the value of each class say. NaN, by `undefined`, where the metric has no
          value.
        """
        raise TypeError(f"{type(self).__name__} defines no measure(predictions)")

    def __call__(
        self,
        outputs: ArrayLike,
        labels: ArrayLike,
        weights: ArrayLike | None = None,
        *,
        class_names: tuple[str, ...] = (),
    ) -> Any:
        """Measures predictions outside of an experiment.

        Args:
          outputs: (N, outputs) before the output activation; (N,) is the logit of the
            second of two classes, or a single target.
          labels: (N,) classes; (N, labels) of 0 and 1; (N,) or (N, targets).
          weights: (N,) of the examples, at least 0; None counts each once.
          class_names: for metrics that name a class.

        Raises:
          UserError: no example, a weight or shape that does not fit, or NaN.
        """
        predictions = read_predictions(self.tasks, outputs, labels, weights)
        names = class_names or tuple(map(str, range(predictions.classes)))
        predictions = dataclasses.replace(predictions, class_names=names)
        self.check(predictions.task, names, type(self).__name__)
        return self.measure(predictions)


def read_predictions(
    tasks: tuple[str, ...],
    outputs: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike | None = None,
) -> Predictions:
    """Checks arrays, and takes the task from their shape.

    Args:
      tasks: that the metric measures; labels of two dimensions are "multilabel" where
        the metric measures classes.
      outputs, labels, weights: as for `Metric.__call__`.

    Returns:
      The examples of a weight above 0, in float64; one column for two classes becomes
      two.

    Raises:
      UserError: no example, a weight or shape that does not fit, or NaN.
    """
    outputs, labels = np.asarray(outputs, np.float64), np.asarray(labels)
    task = "multilabel" if labels.ndim == 2 and "multilabel" in tasks else tasks[0]
    if outputs.ndim == 1:
        outputs = outputs[:, None]
    if outputs.shape[1:] == (1,) and task == "classification":
        outputs = np.concatenate([np.zeros_like(outputs), outputs], axis=1)
    if task == "regression" and labels.ndim == 1:
        labels = labels[:, None]
    of_words = labels.ndim == 2 and labels.shape == outputs.shape[:-1]
    fits = len(labels) == len(outputs) and (labels.ndim == 1 or
                                            labels.shape == outputs.shape or
                                            of_words)  # fmt: skip
    if not fits:
        raise UserError(
            f"labels have the shape {labels.shape}, which does not fit outputs of "
            f"{outputs.shape}."
        )
    predictions = Predictions(task, outputs, labels, example_weights(weights, outputs))
    predictions = counted(predictions)
    if not np.isfinite(predictions.outputs).all():
        raise UserError("outputs hold NaN or infinity, of which there is no metric.")
    if not np.isfinite(np.asarray(predictions.labels, np.float64)).all():
        raise UserError("labels hold NaN or infinity, of which there is no metric.")
    return predictions


def example_weights(weights: ArrayLike | None, outputs: np.ndarray) -> np.ndarray:
    """The weights of the examples in float64, ones for None.

    Args:
      weights: (N,), or None.
      outputs: (N, …), whose length the weights must have.

    Returns:
      (N,) float64.

    Raises:
      UserError: weights of another number, or ones that are negative or not finite.
    """
    if weights is None:
        return np.ones(len(outputs))
    values = np.asarray(weights, np.float64)
    if values.shape != (len(outputs),):
        raise UserError(
            f"weights have the shape {values.shape}; expected ({len(outputs)},), one "
            "for each example."
        )
    if not (np.isfinite(values) & (values >= 0)).all():
        raise UserError("weights must be finite and at least 0.")
    return values


def counted(predictions: Predictions) -> Predictions:
    """The predictions of the examples whose weight is above 0 (padding has 0).

    Args:
      predictions: of all rows, padding among them.

    Returns:
      The same, of fewer rows.

    Raises:
      UserError: there is none.
    """
    rows = predictions.weights > 0
    if not rows.any():
        raise UserError("metrics need at least one example with a weight above 0.")
    return dataclasses.replace(
        predictions,
        outputs=predictions.outputs[rows],
        labels=predictions.labels[rows],
        weights=predictions.weights[rows],
    )
