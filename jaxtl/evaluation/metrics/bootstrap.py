"""Intervals of metrics by the bootstrap over examples."""

import hashlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.evaluation.metrics import experiment_metrics

METHODS = ("percentile", "bca")


class Interval(NamedTuple):
    """An interval of a metric.

    Attributes:
      low, high: its ends, NaN where the metric is NaN.
      resamples: number of resamples that it is made of.
      undefined: number of resamples left out, as the metric is NaN of them.
    """

    low: float
    high: float
    resamples: int
    undefined: int


def bootstrap_intervals(
    task: str,
    logits: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    metrics: Mapping[str, Any] | None = None,
    class_names: tuple[str, ...] = (),
    thresholds: np.ndarray | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    method: Literal["percentile", "bca"] = "percentile",
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of all metrics of a split, from examples drawn with replacement.

    They hold the uncertainty that the choice of the examples causes, not that of
    training. Every metric sees the same resamples.

    Args:
      task, logits, labels, weights: as for `metrics.compute`.
      metrics: those of the experiment, in addition to the task's.
      class_names: in label order.
      thresholds: of the run, as log-odds; None for ½.
      resamples: number of draws, at least 2.
      confidence: share of the distribution in the interval.
      method: "percentile", or "bca", bias-corrected and accelerated, which measures
        all metrics once more per example; both of `scipy.stats.bootstrap`. Where a
        resample has no value, or all have the same, percentiles are taken.
      seed: of the draws.

    Returns:
      Metric -> interval, for every value that `metrics.compute` and `metrics` give.

    Raises:
      UserError: an argument that is out of range.

    References:
      Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 14.
    """
    _check(len(logits), resamples, confidence, method)
    settings = {
        "metrics": metrics or {},
        "class_names": class_names,
        "chosen": thresholds,
    }
    statistics = _statistics(task, logits, labels, weights, settings)
    values = statistics(np.arange(len(logits)))
    draws = _Draws(resamples, confidence, method, seed)
    return {
        name: _interval(name, value, len(logits), statistics, draws)
        for name, value in values.items()
    }


class _Draws(NamedTuple):
    """Arguments of `bootstrap_intervals`."""

    resamples: int
    confidence: float
    method: str
    seed: int


def _check(count: int, resamples: int, confidence: float, method: str) -> None:
    if count < 2:
        raise UserError(f"a bootstrap needs two examples or more; got {count}.")
    if resamples < 2:
        raise UserError(f"resamples={resamples!r}: expected a whole number above 1.")
    if not 0 < confidence < 1:
        raise UserError(f"confidence={confidence!r}: expected a number in (0, 1).")
    if method not in METHODS:
        raise UserError(
            f"method={method!r}{nearest(method, METHODS)} (known: percentile, bca)."
        )


def _statistics(
    task: str,
    logits: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None,
    settings: Mapping[str, Any],
) -> Callable[[np.ndarray], dict[str, float]]:
    """The function from the rows of a resample to the values of all metrics."""
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    computed: dict[bytes, dict[str, float]] = {}

    def statistics(rows: np.ndarray) -> dict[str, float]:
        # Every metric asks for the same resamples, which are measured once for all.
        key = hashlib.sha256(np.ascontiguousarray(rows).tobytes()).digest()
        if key not in computed:
            chosen = None if weights is None else np.asarray(weights)[rows]
            arguments = (task, logits[rows], labels[rows], chosen)
            measured = experiment_metrics.measure_all(*arguments, **settings)
            computed[key] = measured.values
        return computed[key]

    return statistics


def _interval(
    name: str,
    value: float,
    count: int,
    statistics: Callable[[np.ndarray], dict[str, float]],
    draws: _Draws,
) -> Interval:
    """The interval of one metric.

    Args:
      name: of the metric.
      value: of all examples.
      count: number of examples.
      statistics: of `_statistics`.
      draws: the arguments.
    """
    from scipy.stats import bootstrap  # imports slowly

    if np.isnan(value):
        return Interval(np.nan, np.nan, draws.resamples, draws.resamples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of distributions of one value
        result = bootstrap(
            (np.arange(count),),
            lambda rows: statistics(rows)[name],
            vectorized=False,
            n_resamples=draws.resamples,
            confidence_level=draws.confidence,
            method={"bca": "BCa"}.get(draws.method, draws.method),
            random_state=np.random.default_rng(draws.seed),
        )
    low, high = result.confidence_interval
    defined = result.bootstrap_distribution
    defined = defined[np.isfinite(defined)]
    if not np.isfinite([low, high]).all() and len(defined):
        # Some resamples have no value, or all have one: the percentiles of the rest.
        tail = (1 - draws.confidence) / 2
        low, high = np.quantile(defined, [tail, 1 - tail])
    undefined = draws.resamples - len(defined)
    return Interval(float(low), float(high), draws.resamples, undefined)
