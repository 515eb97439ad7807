"""Base class of maps between domains, checks of features and settings, and kernels."""

from collections.abc import Collection
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import distance
from sklearn.base import BaseEstimator

from jaxtl.core.errors import UserError, nearest

DOMAINS = ("source", "target")
KERNELS = ("linear", "rbf")


class FeatureMap(BaseEstimator):
    """A method that maps the features of two domains to where they are alike.

    `fit` uses all rows of both domains, never target labels; `transform` then maps rows
    of either domain, fitted ones or new ones. Subclasses define `fit`, which sets
    `width_`, and `_transform`.
    """

    def fit(self, xs: ArrayLike, xt: ArrayLike, ys: ArrayLike | None = None) -> Self:
        """Fits the map; returns self.

        Args:
          xs: (n, d) source features.
          xt: (m, d) target features.
          ys: (n,) source labels; methods that need none ignore them.

        Raises:
          UserError: features or settings that the method can't work with.
        """
        raise TypeError(f"{type(self).__name__} defines no fit(xs, xt)")

    def transform(self, x: ArrayLike, domain: str) -> np.ndarray:
        """Maps rows of a domain.

        Args:
          x: (rows, d).
          domain: "source" or "target".

        Returns:
          (rows, k), in float64.

        Raises:
          UserError: not fitted yet, an unknown domain, or rows that don't fit.
        """
        _check_domain(self, domain)
        width = getattr(self, "width_", None)
        if width is None:
            raise UserError(f"{_name(self)}: call fit(xs, xt) before transform.")
        x = check_rows(self, "x", x)
        if x.shape[1] != width:
            raise UserError(
                f"{_name(self)}: x has {x.shape[1]} features, and it was fitted on "
                f"{width}."
            )
        return self._transform(x, domain)

    def _transform(self, x: np.ndarray, domain: str) -> np.ndarray:
        """Maps rows that `transform` has checked."""
        raise TypeError(f"{type(self).__name__} defines no _transform(x, domain)")

    def fit_transform(
        self, xs: ArrayLike, xt: ArrayLike, ys: ArrayLike | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fits, then maps both domains: `(source rows, target rows)`."""
        self.fit(xs, xt, ys)
        return self.transform(xs, "source"), self.transform(xt, "target")


def _name(method: Any) -> str:
    """Name of a method in messages: its class, or a function's name as given."""
    return method if isinstance(method, str) else type(method).__name__


def check_rows(method: Any, field: str, x: ArrayLike) -> np.ndarray:
    """Converts features to finite float64 rows, (n, d).

    Args:
      method: the estimator, or a function's name, for messages.
      field: name of x, for messages.
      x: (n, d).

    Raises:
      UserError: not (n, d) with n, d > 0, not numbers, or not finite.
    """
    try:
        x = np.asarray(x, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{_name(method)}: {field} holds no numbers ({error})."
        ) from None
    if x.ndim != 2 or 0 in x.shape:
        raise UserError(
            f"{_name(method)}: {field} has shape {x.shape}; expected (examples, "
            "features), at least one of each."
        )
    if not np.isfinite(x).all():
        raise UserError(
            f"{_name(method)}: {field} holds {(~np.isfinite(x)).sum()} values that are "
            "not finite."
        )
    return x


def check_pair(
    method: Any, xs: ArrayLike, xt: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Converts both domains as `check_rows` does, to (n, d) and (m, d).

    Raises:
      UserError: as `check_rows`, or widths differ.
    """
    xs, xt = check_rows(method, "xs", xs), check_rows(method, "xt", xt)
    if xs.shape[1] != xt.shape[1]:
        raise UserError(
            f"{_name(method)}: xs has {xs.shape[1]} features and xt {xt.shape[1]}; "
            "both domains need the same number."
        )
    return xs, xt


def check_labels(method: Any, field: str, y: ArrayLike | None, n: int) -> np.ndarray:
    """Converts labels to an array, (n,).

    Raises:
      UserError: there are none, or not n of them.
    """
    if y is None:
        raise UserError(
            f"{_name(method)}: {field} is missing; it needs a label per row."
        )
    y = np.asarray(y)
    if y.shape != (n,):
        raise UserError(
            f"{_name(method)}: {field} has shape {y.shape}; expected ({n},), a label "
            "per row."
        )
    return y


def _check_domain(method: Any, domain: str) -> None:
    """Raises UserError unless the domain is "source" or "target"."""
    check_choice(method, "domain", domain, DOMAINS)


def check_number(
    method: Any, field: str, value: Any, low: float, *, exclusive: bool = False
) -> None:
    """Raises UserError unless value is finite and ≥ low (> low where `exclusive`)."""
    finite = isinstance(value, (int, float, np.number)) and np.isfinite(value)
    if not finite or value < low or (exclusive and value == low):
        bound = f"above {low:g}" if exclusive else f"of at least {low:g}"
        raise UserError(
            f"{_name(method)}: {field}={value!r}; expected a number {bound}."
        )


def check_integer(method: Any, field: str, value: Any, high: int, what: str) -> None:
    """Raises UserError unless value is a whole number from 1 to high.

    Args:
      method, field, value: for the message.
      high: largest valid value.
      what: explains the upper bound in the message.
    """
    if not isinstance(value, (int, np.integer)) or not 1 <= value <= high:
        raise UserError(
            f"{_name(method)}: {field}={value!r}; expected a whole number from 1 to "
            f"{high}, {what}."
        )


def check_choice(method: Any, field: str, value: Any, options: Collection[str]) -> None:
    """Raises UserError unless value is one of the options."""
    if value not in options:
        raise UserError(
            f"{_name(method)}: {field}={value!r} is unknown{nearest(value, options)} "
            f"(known: {', '.join(options)})."
        )


def principal_directions(
    method: Any, field: str, x: np.ndarray, dimension: int
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the mean and the first principal directions of rows.

    Args:
      method, field: for messages.
      x: (n, d).
      dimension: k, the number of directions.

    Returns:
      `(mean, basis)`: (d,), and (d, k) with orthonormal columns.

    Raises:
      UserError: the centered rows span fewer than k dimensions.
    """
    mean = x.mean(0)
    _, scales, directions = np.linalg.svd(x - mean, full_matrices=False)
    largest = scales[0] if len(scales) else 0.0
    # Rounding leaves a constant feature a tiny variance, which is no direction.
    tolerance = max(largest, np.abs(x).max()) * max(x.shape) * np.finfo(float).eps
    rank = int((scales > tolerance).sum())
    if rank == 0:
        raise UserError(
            f"{_name(method)}: all {len(x)} rows of {field} are the same, so they have "
            "no principal direction."
        )
    what = f"the number of directions in which {field} vary"
    check_integer(method, "dimension", dimension, rank, what)
    return mean, directions[:dimension].T


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Computes ‖a_i − b_j‖², (n, m)."""
    return distance.cdist(a, b, "sqeuclidean")


def rbf_kernel(a: np.ndarray, b: np.ndarray, bandwidth: float) -> np.ndarray:
    """Computes exp(−‖a_i − b_j‖² / (2·bandwidth²)), (n, m)."""
    return np.exp(-squared_distances(a, b) / (2.0 * bandwidth**2))


def kernel_bandwidth(method: Any, value: float | None, x: np.ndarray) -> float:
    """Bandwidth of a kernel: the value itself, or for None the median distance.

    The median is over pairs of different rows (Gretton et al., 2012, section 8).

    Args:
      method: for messages.
      value: the setting.
      x: (n, d) rows whose distances are measured.

    Raises:
      UserError: it is not above 0.
    """
    if value is None:
        distances = distance.pdist(x)
        distances = distances[distances > 0]
        if not len(distances):
            raise UserError(
                f"{_name(method)}: bandwidth=None takes the median distance, and all "
                f"{len(x)} rows are the same; give a number above 0."
            )
        return float(np.median(distances))
    check_number(method, "bandwidth", value, 0, exclusive=True)
    return float(value)
