"""Base class of few-shot classifiers, and the checks of an episode's features."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.analysis import candidates
from jaxtl.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class FewShotMethod:
    """A classifier that is fitted on the support set of an episode.

    A field of a subclass holds one value, or a tuple of candidates; of several the best
    one on episodes of validation classes is tested, the first one where there are no
    such classes.

    Attributes:
      title: name of the method in tables.
      transductive: whether the scores of a query depend on the other queries.
      centered: whether features are read less their mean over classes that are not
        tested.
    """

    title: ClassVar[str]
    transductive: ClassVar[bool] = False
    centered: ClassVar[bool] = False

    def __post_init__(self) -> None:
        candidates.check(self, FewShotMethod, f"episodes.{type(self).__name__}")

    def candidates(self) -> list["FewShotMethod"]:
        """One method per combination of settings; the last setting varies fastest."""
        return candidates.combinations(self, FewShotMethod)

    def settings(self) -> dict[str, Any]:
        """Values of the method's fields, by name."""
        return candidates.settings(self, FewShotMethod)

    def __call__(
        self, support: ArrayLike, labels: ArrayLike, query: ArrayLike
    ) -> np.ndarray:
        """Computes the scores of queries, the larger the more likely.

        Args:
          support: (n, d) features.
          labels: (n,) integers in [0, ways), each of which occurs.
          query: (m, d) features.

        Returns:
          (m, ways) float64.

        Raises:
          UserError: arrays of other shapes or labels, or values that are not finite.
        """
        return self.scores(*check_episode(support, labels, query))

    def scores(
        self, support: np.ndarray, labels: np.ndarray, query: np.ndarray
    ) -> np.ndarray:
        """Computes the scores of queries; called by `__call__` with checked arrays.

        Args:
          support: (n, d) float64, finite.
          labels: (n,) integers in [0, ways), each of which occurs.
          query: (m, d) float64, finite.

        Returns:
          (m, ways) float64, the larger the more likely.
        """
        raise TypeError(f"{type(self).__name__} defines no scores(support, …)")


def check_episode(
    support: ArrayLike, labels: ArrayLike, query: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features in float64, and integer labels.

    Raises:
      UserError: arrays of other shapes, labels without an example, or values that are
        not finite.
    """
    support, query = (np.asarray(x, np.float64) for x in (support, query))
    labels = np.asarray(labels)
    fit = support.ndim == query.ndim == 2 and support.shape[1] == query.shape[1]
    if not fit or not len(query) or labels.shape != support.shape[:1]:
        raise UserError(
            f"an episode with support features of shape {support.shape}, labels of "
            f"shape {labels.shape} and query features of shape {query.shape}: expected "
            "(n, width), (n,) and (m, width)."
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0:
        raise UserError(
            f"support labels of {labels.dtype}: expected whole numbers from 0, the "
            "places of classes in the episode."
        )
    counts = np.bincount(labels)
    if len(counts) < 2 or not counts.all():
        missing = ", ".join(str(i) for i in np.flatnonzero(counts == 0)) or "1"
        raise UserError(
            f"the support set has no example of class {missing}; each of at least two "
            "classes needs one."
        )
    for name, values in (("support", support), ("query", query)):
        if not np.isfinite(values).all():
            raise UserError(f"the {name} features hold values that are not finite.")
    return support, labels, query
