"""Retrieval of images by texts and of texts by images: recall among the first k.

References:
  Hodosh, Young, Hockenmaier: Framing Image Description as a Ranking Task, JAIR 2013.
"""

import numpy as np
from scipy import special

FIRST = (1, 5, 10)
DIRECTIONS = ("image_to_text", "text_to_image")
RECALLS = (
    "mean_recall",
    *(f"{name}_recall_at_{k}" for name in DIRECTIONS for k in FIRST),
)
_CHUNK = 1024  # queries that are compared with the whole gallery at once


def recalls(
    embeddings: np.ndarray, images: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, float]:
    """Shares of queries with a right answer among the first 1, 5 and 10 of a split.

    An image is a query once, however many texts it has, and any of its texts is right;
    each text is a query, and its image is right. Answers of equal similarity are in
    random order: the recall is the expected one, so that a model whose embeddings are
    all equal is at chance.

    Args:
      embeddings: (N, 2·width), image and text side by side, of norm 1 each.
      images: (N,) number of each example's image.
      weights: (N,) of the examples, above 0; an image weighs as its texts do on
        average. None for 1.

    Returns:
      "mean_recall" of the six, "image_to_text_recall_at_1", …
    """
    embeddings = np.asarray(embeddings, np.float64)
    weights = np.ones(len(embeddings)) if weights is None else np.asarray(weights)
    of_images, of_texts = np.split(embeddings, 2, axis=1)
    _, first, number = np.unique(images, return_index=True, return_inverse=True)
    counts = np.bincount(number)
    of_images = of_images[first]
    image_weights = np.bincount(number, weights) / counts
    gallery = np.arange(len(first))
    hits = (
        hit_chances(of_images, of_texts, gallery, number),
        hit_chances(of_texts, of_images, number, gallery),
    )
    shares = [
        np.average(share, axis=0, weights=w)
        for share, w in zip(hits, (image_weights, weights))
    ]
    values = np.concatenate(shares)
    return dict(zip(RECALLS, map(float, [values.mean(), *values])))


def hit_chances(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
) -> np.ndarray:
    """The chance of a right answer among the first 1, 5, 10 of queries, (queries, 3).

    Args:
      queries, gallery: (queries, width) and (answers, width).
      query_ids, gallery_ids: an answer is right for a query of the same id.
    """
    hits = np.empty((len(queries), len(FIRST)))
    for start in range(0, len(queries), _CHUNK):
        rows = slice(start, start + _CHUNK)
        similarity = queries[rows] @ gallery.T
        is_right = query_ids[rows, None] == gallery_ids
        best = np.where(is_right, similarity, -np.inf).max(1, keepdims=True)
        above = (similarity > best).sum(1)
        tied = similarity == best
        hits[rows] = _chances(above, tied.sum(1), (tied & is_right).sum(1))
    return hits


def _chances(above: np.ndarray, tied: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Chance that a right one of `tied` answers in random order is among the first k.

    1 − C(tied − right, free) / C(tied, free), with free = k − above places for them.
    """
    free = np.clip(np.asarray(FIRST) - above[:, None], 0, tied[:, None])
    wrong, tied = (tied - right)[:, None], tied[:, None]
    is_sure = free > wrong
    few = np.minimum(free, wrong)

    def log_choose(n: np.ndarray, k: np.ndarray) -> np.ndarray:
        return (
            special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
        )

    missed = np.exp(log_choose(wrong, few) - log_choose(tied, few))
    return np.where(is_sure, 1.0, 1.0 - missed)
