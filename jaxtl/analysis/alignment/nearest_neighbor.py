"""From features to an accuracy: the one nearest source example decides."""

import numpy as np
from scipy.spatial import distance

from jaxtl.analysis.alignment import base


def nearest_neighbor(zs, ys, zt) -> np.ndarray:
    """Returns the label of each target row's nearest source row (Euclidean), (m,).

    Distances are of differences, not of expanded squares, so ties are real ties; the
    first source row wins them.

    Args:
      zs: (n, k) source features.
      ys: (n,) their labels.
      zt: (m, k) target features.

    Raises:
      UserError: shapes that don't fit.
    """
    zs, zt = base.pair("nearest", zs, zt)
    ys = base.labels("nearest", "ys", ys, len(zs))
    return ys[distance.cdist(zt, zs).argmin(1)]


def nearest_neighbor_accuracy(zs, ys, zt, yt) -> float:
    """Returns the share of target rows whose nearest source row has their label."""
    found = nearest_neighbor(zs, ys, zt)
    return float(np.mean(found == base.labels("nearest", "yt", yt, len(found))))


def unit(z) -> np.ndarray:
    """Returns rows scaled to length 1, rows of zeros as they are."""
    length = np.linalg.norm(z, axis=1, keepdims=True)
    return z / np.where(length > 0, length, 1.0)
