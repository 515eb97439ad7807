"""What all methods on features share: their shape, their checks, kernels, bases."""

import numpy as np
from scipy.spatial import distance
from sklearn.base import BaseEstimator

from jaxtl.core.errors import UserError, nearest

DOMAINS = ("source", "target")
KERNELS = ("linear", "rbf")


class Mapping(BaseEstimator):
    """A method that maps two domains' features to where they are alike.

    `fit` learns from all of both domains (never from target labels); `transform` then
    takes rows of either domain, those that were fitted or new ones.
    """

    def fit(self, xs, xt, ys=None):
        """Learns the map; returns self.

        Args:
          xs: (n, d) source features.
          xt: (m, d) target features.
          ys: (n,) source labels, for methods that use them; others ignore them.

        Raises:
          UserError: features or settings that the method can't work with.
        """
        raise TypeError(f"{type(self).__name__} defines no fit(xs, xt)")

    def transform(self, x, domain: str):
        """Returns rows of `domain` ("source" or "target") mapped, (rows, k)."""
        check_domain(self, domain)
        width = getattr(self, "width_", None)
        if width is None:
            raise UserError(f"{name(self)}: call fit(xs, xt) before transform.")
        x = rows(self, "x", x)
        if x.shape[1] != width:
            raise UserError(
                f"{name(self)}: x has {x.shape[1]} features, and it was fitted on "
                f"{width}."
            )
        return self._transform(x, domain)

    def fit_transform(self, xs, xt, ys=None):
        """Returns `(transform(xs, "source"), transform(xt, "target"))` after a fit."""
        self.fit(xs, xt, ys)
        return self.transform(xs, "source"), self.transform(xt, "target")


def name(method) -> str:
    """Returns what a method is called in messages."""
    return method if isinstance(method, str) else type(method).__name__


def rows(method, field: str, x) -> np.ndarray:
    """Returns features as finite float64 rows.

    Raises:
      UserError: not (n, d) with n, d > 0, not numbers, or not finite.
    """
    try:
        x = np.asarray(x, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{name(method)}: {field} holds no numbers ({error})."
        ) from None
    if x.ndim != 2 or 0 in x.shape:
        raise UserError(
            f"{name(method)}: {field} has shape {x.shape}; expected (examples, "
            "features), at least one of each."
        )
    if not np.isfinite(x).all():
        raise UserError(
            f"{name(method)}: {field} holds {(~np.isfinite(x)).sum()} values that are "
            "not finite."
        )
    return x


def pair(method, xs, xt) -> tuple[np.ndarray, np.ndarray]:
    """Returns both domains as `rows`, of one width.

    Raises:
      UserError: as `rows`, or widths differ.
    """
    xs, xt = rows(method, "xs", xs), rows(method, "xt", xt)
    if xs.shape[1] != xt.shape[1]:
        raise UserError(
            f"{name(method)}: xs has {xs.shape[1]} features and xt {xt.shape[1]}; both "
            "domains need the same."
        )
    return xs, xt


def labels(method, field: str, y, n: int) -> np.ndarray:
    """Returns one label per row.

    Raises:
      UserError: there are none, or not n of them.
    """
    if y is None:
        raise UserError(
            f"{name(method)}: {field} is missing; it needs a label per row."
        )
    y = np.asarray(y)
    if y.shape != (n,):
        raise UserError(
            f"{name(method)}: {field} has shape {y.shape}; expected ({n},), a label "
            "per row."
        )
    return y


def check_domain(method, domain: str) -> None:
    """Raises UserError for a domain that is neither."""
    if domain not in DOMAINS:
        raise UserError(
            f"{name(method)}: domain={domain!r} is unknown{nearest(domain, DOMAINS)} "
            f"(known: {', '.join(DOMAINS)})."
        )


def number(method, field: str, value, low: float, *, open_: bool = False) -> None:
    """Raises UserError unless value ≥ low (> low where `open_`) and finite."""
    fine = isinstance(value, (int, float, np.number)) and np.isfinite(value)
    if not fine or value < low or (open_ and value == low):
        bound = f"above {low:g}" if open_ else f"of at least {low:g}"
        raise UserError(
            f"{name(method)}: {field}={value!r}; expected a number {bound}."
        )


def whole(method, field: str, value, high: int, why: str) -> None:
    """Raises UserError unless value is a whole number in 1 … high."""
    if not isinstance(value, (int, np.integer)) or not 1 <= value <= high:
        raise UserError(
            f"{name(method)}: {field}={value!r}; expected a whole number from 1 to "
            f"{high}, {why}."
        )


def one_of(method, field: str, value, options) -> None:
    """Raises UserError for a value that is none of the options."""
    if value not in options:
        raise UserError(
            f"{name(method)}: {field}={value!r} is unknown{nearest(value, options)} "
            f"(known: {', '.join(map(str, options))})."
        )


def principal(method, field: str, x: np.ndarray, dimension: int):
    """Returns the mean and the first principal directions of rows.

    Args:
      method: for messages.
      field: likewise.
      x: (n, d).
      dimension: k, how many.

    Returns:
      `(mean, basis)`: (d,), and (d, k) with orthonormal columns.

    Raises:
      UserError: the centred rows span fewer than k dimensions.
    """
    mean = x.mean(0)
    _, scales, directions = np.linalg.svd(x - mean, full_matrices=False)
    size = scales[0] if len(scales) else 0.0
    # What rounding alone leaves of a constant feature is no direction.
    floor = max(size, np.abs(x).max()) * max(x.shape) * np.finfo(float).eps
    rank = int((scales > floor).sum())
    if rank == 0:
        raise UserError(
            f"{name(method)}: all {len(x)} rows of {field} are the same, so there is "
            "no direction to keep."
        )
    whole(method, "dimension", dimension, rank, f"the directions in which {field} vary")
    return mean, directions[:dimension].T


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns ‖a_i − b_j‖², (n, m)."""
    return distance.cdist(a, b, "sqeuclidean")


def rbf(a: np.ndarray, b: np.ndarray, bandwidth: float) -> np.ndarray:
    """Returns exp(−‖a_i − b_j‖² / (2·bandwidth²)), (n, m)."""
    return np.exp(-squared_distances(a, b) / (2.0 * bandwidth**2))


def bandwidth(method, value, x: np.ndarray) -> float:
    """Returns a kernel's bandwidth: the number given, or for None the median distance.

    The median is over pairs of different rows (Gretton et al., 2012, section 8).

    Raises:
      UserError: it is not above 0.
    """
    if value is None:
        found = distance.pdist(x)
        found = found[found > 0]
        if not len(found):
            raise UserError(
                f"{name(method)}: bandwidth=None takes the median distance, and all "
                f"{len(x)} rows are the same; give a number above 0."
            )
        return float(np.median(found))
    number(method, "bandwidth", value, 0, open_=True)
    return float(value)
