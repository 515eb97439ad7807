"""Base class of baselines: features, candidates of settings, and checks of them."""

import dataclasses
from typing import Any, ClassVar

from jaxtl.analysis import candidates
from jaxtl.core.errors import UserError, nearest

RAW, TFIDF, LAST = "raw", "tfidf", "last"
REFITS = ("train", "train+val")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baseline:
    """A method of scikit-learn on some features of the data.

    A field of a subclass holds one value, or a tuple of candidates. All combinations
    are fitted on the labelled train rows, and the best one on val is tested.

    Attributes:
      features: "raw", "tfidf", a stage of the model that the experiment starts from, or
        "last" for the stage before its head; see `inputs.matrices`.
      standardize: whether features get mean 0 and variance 1 on the train rows. None
        standardizes the features of a stage, but neither raw inputs (which have the
        scale that the model expects) nor tf-idf.
      refit: rows that the chosen settings are fitted on for test: "train" or
        "train+val".
      title: name of the method in tables.
      tasks: that the method is for.
      probabilities: whether it predicts probabilities of classes.
      sparse: whether it reads sparse features.
    """

    features: str = RAW
    standardize: bool | None = None
    refit: str = "train"

    title: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]] = ("classification", "regression")
    probabilities: ClassVar[bool] = True
    sparse: ClassVar[bool] = True

    def __post_init__(self) -> None:
        name = f"baselines.{type(self).__name__}"
        if not isinstance(self.features, str) or not self.features:
            raise UserError(
                f"{name}.features={self.features!r}: expected 'raw', 'tfidf', 'last' "
                "or the name of a stage."
            )
        if self.standardize not in (None, True, False):
            raise UserError(
                f"{name}.standardize={self.standardize!r}: expected True, False or "
                "None."
            )
        if self.refit not in REFITS:
            raise UserError(
                f"{name}.refit={self.refit!r}{nearest(self.refit, REFITS)} "
                f"(known: {', '.join(REFITS)})."
            )
        if self.features == TFIDF and not self.sparse:
            raise UserError(
                f"{name}.features='tfidf': this method reads no sparse features; take "
                "a stage of the model, or another method."
            )
        if self.features == TFIDF and self.standardize:
            raise UserError(
                f"{name}.standardize=True: tf-idf has unit length and is mostly "
                "zeros, which standardizing would undo; leave it out."
            )
        candidates.check(self, Baseline, name)

    def candidates(self) -> list["Baseline"]:
        """One baseline per combination of settings; the last setting varies fastest."""
        return candidates.combinations(self, Baseline)

    def settings(self) -> dict[str, Any]:
        """Values of the fields that this method adds to `Baseline`, by name."""
        return candidates.settings(self, Baseline)

    def possible(self, examples: int) -> bool:
        """Whether a candidate can be fitted on this number of examples.

        Args:
          examples: number of train rows of the split, or of a fold.

        Returns:
          False leaves the candidate out of the search: k-NN with k above `examples`,
          say. True in this base class.
        """
        return True

    def learner(self, task: str, *, several: bool, seed: int, jobs: int) -> Any:
        """Builds the scikit-learn learner of a candidate, not fitted.

        Args:
          task: "classification" or "regression".
          several: whether there is more than one regression target.
          seed: of the learner's random choices.
          jobs: number of threads.

        Returns:
          An object with scikit-learn's `fit` and `predict`.
        """
        raise TypeError(f"{type(self).__name__} defines no learner(task, …)")
