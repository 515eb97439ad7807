"""The nearest-neighbor classifier: each target row takes its nearest row's label."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import distance

from jaxtl.analysis.alignment import base


def nearest_neighbor(zs: ArrayLike, ys: ArrayLike, zt: ArrayLike) -> np.ndarray:
    """Label of each target row's nearest source row (Euclidean distance).

    Of source rows at the same distance the first one decides. Distances are computed
    from differences rather than expanded squares, so that equal ones come out equal.

    Args:
      zs: (n, k) source features.
      ys: (n,) their labels.
      zt: (m, k) target features.

    Returns:
      (m,), of the dtype of `ys`.

    Raises:
      UserError: shapes that don't fit.
    """
    zs, zt = base.check_pair("nearest_neighbor", zs, zt)
    ys = base.check_labels("nearest_neighbor", "ys", ys, len(zs))
    return ys[distance.cdist(zt, zs).argmin(1)]


def nearest_neighbor_accuracy(
    zs: ArrayLike, ys: ArrayLike, zt: ArrayLike, yt: ArrayLike
) -> float:
    """Share of target rows whose nearest source row has their label.

    Args:
      zs, ys, zt: as for `nearest_neighbor`.
      yt: (m,) labels of the target rows.

    Returns:
      A number in [0, 1].

    Raises:
      UserError: shapes that don't fit.
    """
    predicted = nearest_neighbor(zs, ys, zt)
    yt = base.check_labels("nearest_neighbor", "yt", yt, len(predicted))
    return float(np.mean(predicted == yt))
