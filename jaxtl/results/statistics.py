"""Statistics of results over seeds: intervals, paired differences, many comparisons."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from jaxtl.core.errors import UserError, nearest
from jaxtl.evaluation import metrics

INTERVALS = ("t", "bootstrap")
TESTS = ("t", "wilcoxon")
LEVEL = 0.95  # of intervals; differences are told apart where adjusted p < 1 − LEVEL
RESAMPLES = 10_000


class Estimate(NamedTuple):
    """A mean with its interval; `low` and `high` are None for a single value."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def half(self) -> float | None:
        """Half of the interval's width."""
        return None if self.low is None else (self.high - self.low) / 2


class Difference(NamedTuple):
    """Mean of paired differences, its interval, and the p-value of "it is zero".

    `low`, `high` and `p` are None for a single pair.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    n: int


def t_interval(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Returns the mean with its Student-t interval (`metrics.interval`).

    Raises:
      UserError: for no value.
    """
    mean, half, n = metrics.interval(values, level)
    if half is None:
        return Estimate(mean, None, None, n)
    return Estimate(mean, mean - half, mean + half, n)


def bootstrap_interval(
    values: Sequence[float],
    level: float = LEVEL,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Returns the mean with its percentile bootstrap interval.

    The (1 ± level)/2 quantiles of the means of `resamples` samples drawn from the
    values with replacement, all of the same seed. With a handful of values it is too
    narrow: n = 5 covers about 83 % where 95 % are asked for.

    References:
      Efron, Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.

    Raises:
      UserError: for no value.
    """
    values = np.asarray(values, np.float64).reshape(-1)
    mean, _, n = metrics.interval(values, level)
    if n == 1:
        return Estimate(mean, None, None, 1)
    means = values[_drawn(n, resamples, seed)].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(mean, float(low), float(high), n)


@functools.lru_cache(maxsize=8)
def _drawn(n: int, resamples: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(n, size=(resamples, n))


def estimate(values: Sequence[float], kind: str = "t") -> Estimate:
    """Returns the mean with the interval of a kind, "t" or "bootstrap".

    Raises:
      UserError: for an unknown kind, or no value.
    """
    _known("interval", kind, INTERVALS)
    return t_interval(values) if kind == "t" else bootstrap_interval(values)


def paired(
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    test: str = "t",
    interval: str = "t",
) -> Difference:
    """Compares two settings run with the same seeds.

    Args:
      ours: (n,), one value per seed.
      theirs: (n,), of the same seeds in the same order.
      test: "t" (Student's paired test) or "wilcoxon" (signed ranks).
      interval: of the mean difference, "t" or "bootstrap".

    Returns:
      the mean of ours − theirs with its interval and two-sided p-value.

    Raises:
      UserError: for different numbers of values, none, or an unknown test.
    """
    _known("test", test, TESTS)
    ours, theirs = (np.asarray(v, np.float64).reshape(-1) for v in (ours, theirs))
    if len(ours) != len(theirs):
        raise UserError(
            f"a paired difference needs a value of both sides for each seed, got "
            f"{len(ours)} and {len(theirs)}."
        )
    gap = _without_rounding(ours - theirs, np.abs([ours, theirs]).max(initial=0.0))
    found = estimate(gap, interval)
    p = t_test(gap) if test == "t" else wilcoxon(gap)
    return Difference(found.mean, found.low, found.high, p, found.n)


def _without_rounding(gap: np.ndarray, scale: float) -> np.ndarray:
    """Returns differences of numbers of a scale, equal where only rounding parts them.

    0.9 − 0.8 and 0.8 − 0.7 are not the same double; that is no spread over seeds.
    """
    gap = np.where(np.abs(gap) <= 1e-12 * scale, 0.0, gap)
    equal = np.abs(gap - gap[:1]).max(initial=0.0) <= 1e-12 * scale
    return np.full_like(gap, gap[0]) if equal and len(gap) else gap


def t_test(gap: Sequence[float]) -> float | None:
    """Returns the two-sided p-value of Student's test that a mean is zero.

    p = 2 · P(T_{n − 1} > |mean| √n / s). Where all values are equal, s = 0 would make
    any difference certain, after two seeds already; then it is the sign-flip test's
    p = 2^{1 − n} (the share of the 2ⁿ signs that are as extreme), or 1 if all are 0.
    None for a single value.
    """
    gap = np.asarray(gap, np.float64)
    n = len(gap)
    if n < 2:
        return None
    if np.ptp(gap) == 0:
        return 1.0 if gap[0] == 0 else 2.0 ** (1 - n)
    t = gap.mean() * np.sqrt(n) / gap.std(ddof=1)
    return float(2 * special.stdtr(n - 1, -abs(t)))


def wilcoxon(gap: Sequence[float]) -> float | None:
    """Returns the two-sided p-value of Wilcoxon's signed-rank test (scipy's).

    Zeros are left out; 1 if all are. It can't get below 2^{1 − n}, so never below 0.05
    with five seeds. None for a single value.
    """
    from scipy import stats  # takes half a second to import

    gap = np.asarray(gap, np.float64)
    if len(gap) < 2:
        return None
    if not gap.any():
        return 1.0
    return float(stats.wilcoxon(gap).pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """Returns Holm's adjusted p-values in the order given.

    p̃_(i) = max_{j ≤ i} min(1, (m − j + 1) p_(j)) over the ascending p_(1) … p_(m):
    rejecting where p̃ < α keeps the chance of any false rejection below α.

    References:
      Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.
    """
    p = np.asarray(p, np.float64)
    order = np.argsort(p, kind="stable")
    scaled = np.minimum(1.0, p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(scaled)
    return adjusted.tolist()


def _known(field: str, value: str, names: Sequence[str]) -> None:
    if value not in names:
        raise UserError(
            f"{field}={value!r} is unknown{nearest(value, names)} "
            f"(known: {', '.join(names)})."
        )
