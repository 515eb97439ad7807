"""Means, distances and angles of feature vectors, in float64."""

import numpy as np


def one_hot(labels: np.ndarray) -> np.ndarray:
    """(n,) labels as (n, ways) zeros and ones; ways is the largest label + 1."""
    return np.eye(int(labels.max()) + 1)[labels]


def prototypes(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The mean of each class, (ways, d), of features (n, d) and labels (n,)."""
    indicators = one_hot(labels)
    return indicators.T @ features / indicators.sum(axis=0)[:, None]


def unit(features: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norms > 0, norms, 1.0)


def squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """‖a_i − b_j‖², (n, m), of rows of (n, d) and (m, d).

    By products, which are the fastest way; float64 has digits to spare for what they
    lose where two rows are close.
    """
    squares = np.square(first).sum(axis=1)[:, None] + np.square(second).sum(axis=1)
    return np.maximum(squares - 2.0 * first @ second.T, 0.0)


def span(features: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Coordinates in an orthonormal basis of the space that rows span.

    Args:
      features: (n, d). Where d ≤ n they stay as they are.
      *others: (m, d), of which the part within that space is kept.

    Returns:
      The coordinates of all, at most n each; inner products with `features` are those
      of the originals.
    """
    if features.shape[1] <= len(features):
        return [features, *others]
    basis, triangle = np.linalg.qr(features.T)
    return [triangle.T, *(x @ basis for x in others)]
