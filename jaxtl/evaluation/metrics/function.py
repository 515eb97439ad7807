"""A function of one's own as a metric."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np

from jaxtl.core.errors import UserError, describe_error, nearest
from jaxtl.data.dataset import TASKS
from jaxtl.evaluation.metrics.base import Metric, Predictions, note

READS = ("outputs", "probabilities", "predictions")
_WEIGHTS = ("weights", "sample_weight")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Function(Metric):
    """A function `f(outputs, labels[, weights]) -> float` of numpy arrays.

    In an experiment a plain function stands for `Function(f=function)`. A function
    whose first parameter is called `y_true` is called as scikit-learn's are,
    `f(labels, outputs)`.

    Attributes:
      f: outputs (N, outputs), labels as the data have them, weights (N,), which a
        function without such a parameter does not get.
      higher_is_better: whether larger values are better. A plain function may have an
        attribute of this name.
      reads: what it gets in place of outputs before the output activation:
        "probabilities" of classes or labels, or "predictions" (the predicted class, or
        0 and 1 for each label).
    """

    tasks: ClassVar[tuple[str, ...]] = TASKS

    f: Callable[..., float]
    higher_is_better: bool = True  # type: ignore[misc]
    reads: Literal["outputs", "probabilities", "predictions"] = "outputs"

    @property
    def reads_scores(self) -> bool:  # type: ignore[override]
        """Whether it reads more of the outputs than the predicted class."""
        return self.reads != "predictions"

    def check(self, task: str, class_names: tuple[str, ...], where: str) -> None:
        if not callable(self.f):
            raise UserError(f"{where}: f={self.f!r}: expected a function.")
        if self.reads not in READS:
            raise UserError(
                f"{where}: reads={self.reads!r}{nearest(self.reads, READS)} "
                f"(known: {', '.join(READS)})."
            )
        if self.reads != "outputs" and task not in ("classification", "multilabel"):
            raise UserError(f"{where}: a {task} task has no {self.reads}.")
        names = _positional(self.f)
        if names is not None and len(names) < 2:
            raise UserError(
                f"{where}: expected a function f(outputs, labels[, weights]), but "
                f"{_name(self.f)} takes ({', '.join(names)})."
            )

    def measure(self, predictions: Predictions) -> float:
        p = predictions
        values = p.outputs
        if self.reads != "outputs":
            values = p.predicted if self.reads == "predictions" else p.probabilities
        arguments = [values, p.labels]
        if (_positional(self.f) or ("",))[0] == "y_true":
            arguments.reverse()
        settings = self._weights(p)
        try:
            value = self.f(*arguments, **settings)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"the metric {_name(self.f)} failed: {describe_error(error)}; it was "
                f"given {self.reads} {values.shape} and labels {p.labels.shape}."
            ) from error
        if np.ndim(value) != 0 or not np.issubdtype(np.asarray(value).dtype, np.number):
            raise UserError(
                f"the metric {_name(self.f)} returned {_short(value)}; expected one "
                "number."
            )
        if np.isnan(value):
            note(f"NaN, as {_name(self.f)} returned it")
        return float(value)

    def _weights(self, p: Predictions) -> dict[str, np.ndarray]:
        """The argument that weights are passed as, {} where the function has none."""
        try:
            parameters = list(inspect.signature(self.f).parameters)
        except (TypeError, ValueError):
            parameters = []
        for name in (*_WEIGHTS, *(_positional(self.f) or ())[2:3]):
            if name in parameters:
                return {name: p.weights}
        if not p.has_equal_weights:
            note(f"{_name(self.f)} takes no weights, so every example counts once")
        return {}


def _positional(f: Callable) -> tuple[str, ...] | None:
    """Names of the parameters that positions fill; the third one if it is required.

    None where they can't be known.
    """
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    positional = [
        p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    return tuple(p.name for p in positional[:2]) + tuple(
        p.name for p in positional[2:3] if p.default is p.empty
    )


def _name(f: Any) -> str:
    return getattr(f, "__qualname__", type(f).__qualname__)


def _short(value: Any) -> str:
    shape = np.shape(value)
    return f"an array of shape {shape}" if shape else repr(value)[:60]
