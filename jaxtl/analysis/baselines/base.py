"""What all baselines have: features, candidates for each setting, checks, a learner."""

import dataclasses
import itertools
import math
from typing import Any, ClassVar

import numpy as np

from jaxtl.core import config
from jaxtl.core.errors import UserError, nearest

RAW, TFIDF, LAST = "raw", "tfidf", "last"
REFITS = ("train", "train+val")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baseline:
    """A method of scikit-learn's on some features.

    A field of a subclass holds one value, or a tuple of candidates; all combinations
    are fitted on the labelled train rows, and the best on val is tested.

    Attributes:
      features: "raw", "tfidf", a stage of the model the experiment starts from, or
        "last" for the stage before its head; see `inputs.matrices`.
      standardize: to mean 0 and variance 1 on the train rows. None: a stage's features
        are; raw inputs (which come in the model's own scale) and tf-idf are not.
      refit: what the chosen settings are fitted on for test, "train" or "train+val".
    """

    features: str = RAW
    standardize: bool | None = None
    refit: str = "train"

    title: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]] = ("classification", "regression")
    # Whether it gives probabilities of classes, and whether it reads sparse features.
    probabilities: ClassVar[bool] = True
    sparse: ClassVar[bool] = True

    def __post_init__(self):
        where = f"baselines.{type(self).__name__}"
        if not isinstance(self.features, str) or not self.features:
            raise UserError(
                f"{where}.features={self.features!r}: expected 'raw', 'tfidf', 'last' "
                "or the name of a stage."
            )
        if self.standardize not in (None, True, False):
            raise UserError(
                f"{where}.standardize={self.standardize!r}: expected True, False or "
                "None."
            )
        if self.refit not in REFITS:
            raise UserError(
                f"{where}.refit={self.refit!r}{nearest(self.refit, REFITS)} "
                f"(known: {', '.join(REFITS)})."
            )
        if self.features == TFIDF and not self.sparse:
            raise UserError(
                f"{where}.features='tfidf': this method reads no sparse features; take "
                "a stage of the model, or another method."
            )
        if self.features == TFIDF and self.standardize:
            raise UserError(
                f"{where}.standardize=True: tf-idf has unit length and is mostly "
                "zeros, which standardizing would undo; leave it out."
            )
        for name, field in own(self).items():
            object.__setattr__(self, name, _checked(self, name, field))

    def candidates(self) -> list["Baseline"]:
        """Returns a baseline for each combination of settings, in their order."""
        tuples = {k: v for k, v in self.settings().items() if isinstance(v, tuple)}
        return [
            dataclasses.replace(self, **dict(zip(tuples, chosen)))
            for chosen in itertools.product(*tuples.values())
        ]

    def settings(self) -> dict[str, Any]:
        """Returns the fields of this method alone."""
        return {name: getattr(self, name) for name in own(self)}

    def possible(self, examples: int) -> bool:
        """Returns whether a candidate can be fitted on so many examples."""
        return True

    def learner(self, task: str, *, several: bool, seed: int, jobs: int) -> Any:
        """Returns scikit-learn's learner, not fitted; every field holds one value.

        Args:
          task: "classification" or "regression".
          several: whether there is more than one regression target.
          seed: of what is random in it.
          jobs: threads.
        """
        raise TypeError(f"{type(self).__name__} defines no learner(task, …)")


def own(baseline: Baseline) -> dict[str, dataclasses.Field]:
    """Returns the fields that a baseline's class adds."""
    common = {f.name for f in dataclasses.fields(Baseline)}
    return {n: f for n, f in config.fields(baseline).items() if n not in common}


def known(default: Any, *values: Any) -> Any:
    """A field of these values; where its annotation names numbers, of them as well."""
    return dataclasses.field(default=default, metadata={"known": values})


def _checked(baseline: Baseline, name: str, field: dataclasses.Field) -> Any:
    """Returns a setting with plain numbers, a row of them as a tuple."""
    where = f"baselines.{type(baseline).__name__}.{name}"
    value = getattr(baseline, name)
    if not isinstance(value, tuple | list | range | np.ndarray):
        return _one(where, value, field)
    if len(value) == 0:
        raise UserError(f"{where}=(): expected at least one value.")
    return tuple(_one(where, v, field) for v in value)


def _one(where: str, value: Any, field: dataclasses.Field) -> Any:
    values, kind = field.metadata.get("known", ()), str(field.type)
    number = next((k for k in ("float", "int") if k in kind), None)
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, str):
        fits = value in values
    else:
        types = {"float": (int, float), "int": (int,), None: ()}[number]
        fits = isinstance(value, types) and not isinstance(value, bool)
        fits = fits and 0 < value < math.inf
    if fits:
        return value
    expected = [repr(v) for v in values]
    words = {"float": "a number above 0", "int": "a whole number above 0"}
    expected += [words[number]] if number else []
    raise UserError(
        f"{where}={value!r}{nearest(value, values)}: expected "
        f"{' or '.join(expected)}, or a tuple of such."
    )
