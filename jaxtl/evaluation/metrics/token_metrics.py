"""Metrics of texts: of predicted tokens, tagged words and spans of words, in float64.

Arguments and values that are not finite are as in `output_metrics`.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from jaxtl.evaluation.metrics import entities
from jaxtl.evaluation.metrics.output_metrics import (
    Array,
    Weights,
    accuracy,
    macro_f1,
    nan_unless_finite,
    nll,
    weights_or_ones,
)


@nan_unless_finite
def token_nll(
    sums: Array, labels: Array | None = None, weights: Weights = None
) -> float:
    """Mean negative log-likelihood per predicted token in nats.

    Args:
      sums: (N, 3) per example: −Σ log p, hits, predicted tokens (losses.next_token).
      labels: not used.
      weights: (N,) of the examples.

    Returns:
      Σ −log p / Σ tokens over the whole split: long texts count more.
    """
    total = weights_or_ones(weights, len(sums)) @ np.asarray(sums, np.float64)
    return float(total[0] / total[2])


@nan_unless_finite
def perplexity(
    sums: Array, labels: Array | None = None, weights: Weights = None
) -> float:
    """exp of `token_nll`: per token of the model's own vocabulary.

    Args:
      sums: as for `token_nll`.
      labels: not used.
      weights: (N,) of the examples; None for 1 each.

    Returns:
      A number ≥ 1; comparable only between models of one vocabulary.
    """
    return float(np.exp(token_nll(sums, labels, weights)))


@nan_unless_finite
def token_accuracy(
    sums: Array, labels: Array | None = None, weights: Weights = None
) -> float:
    """Share of predicted tokens whose most likely prediction is correct.

    Args:
      sums: as for `token_nll`.
      labels: not used.
      weights: (N,) of the examples; None for 1 each.

    Returns:
      Σ hits / Σ tokens over the whole split, in [0, 1].
    """
    total = weights_or_ones(weights, len(sums)) @ np.asarray(sums, np.float64)
    return float(total[1] / total[2])


def _words(
    logits: Array, labels: Array, weights: Weights
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits (words, tags), tags and weights of the words that are labelled."""
    labels = np.asarray(labels)
    rows, columns = np.nonzero(labels >= 0)
    values = np.asarray(logits, np.float64)[rows, columns]
    return values, labels[rows, columns], weights_or_ones(weights, len(labels))[rows]


@nan_unless_finite
def tag_accuracy(logits: Array, labels: Array, weights: Weights = None) -> float:
    """Share of words whose largest logit is their tag's.

    Args:
      logits: (N, pieces, tags).
      labels: (N, pieces), below 0 on pieces that are not counted.
      weights: (N,) of the examples.
    """
    return accuracy(*_words(logits, labels, weights))


@nan_unless_finite
def tag_macro_f1(logits: Array, labels: Array, weights: Weights = None) -> float:
    """Mean F1 over the tags that occur as a tag or as a prediction of a word."""
    return macro_f1(*_words(logits, labels, weights))


@nan_unless_finite
def tag_nll(logits: Array, labels: Array, weights: Weights = None) -> float:
    """Negative log-likelihood of the tags in nats, mean over words."""
    return nll(*_words(logits, labels, weights))


@nan_unless_finite
def _entity_score(
    logits: Array,
    labels: Array,
    weights: Weights = None,
    *,
    class_names: Sequence[str],
    score: int,
) -> float:
    """Micro precision, recall or F1 (0, 1, 2) of spans, as seqeval's default mode."""
    predicted = np.argmax(logits, axis=-1)
    counts = entities.count_spans(labels, predicted, class_names, weights=weights)
    return float(entities.precision_recall_f(entities.micro(counts))[score][0])


def entity_metric(score: int) -> Callable[..., float]:
    """The metric of one score of spans, see `_entity_score`."""
    return functools.partial(_entity_score, score=score)
