"""Numbers of results as text: metrics, estimates over seeds, p-values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line formats numbers without scipy
    from jaxtl.results.statistics import Difference, Estimate

SHARES = (  # metrics in [0, 1] that are shown as percentages
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "exact_match",
    "entity_f1",
    "entity_precision",
    "entity_recall",
    "ece",
    "source_accuracy",
)


def metric_factor(metric: str) -> float:
    """The factor that a metric is multiplied by to be shown: 100 for shares, else 1."""
    return 100.0 if metric in SHARES else 1.0


def metric_unit(metric: str) -> str:
    """The unit that follows a metric's name or value: " %" for shares, else ""."""
    return " %" if metric in SHARES else ""


def metric_bounds(metric: str) -> tuple[float, float]:
    """The smallest and largest values of a metric that an interval is cut at."""
    return (0.0, 1.0) if metric in SHARES else (-math.inf, math.inf)


def format_metric(metric: str, mean: float, half: float | None = None) -> str:
    """Formats a metric, with half of its interval's width: "84.0 ± 1.2".

    A width of 0, that of values without any spread, is left out; one that rounds to 0
    is "± <0.1".
    """
    factor, digits = metric_factor(metric), 1 if metric in SHARES else 4
    text = f"{mean * factor:.{digits}f}"
    if half is None or half == 0:
        return text
    width, unit = f"{half * factor:.{digits}f}", 10.0**-digits
    return f"{text} ± {width if float(width) != 0 else f'<{unit:.{digits}f}'}"


def format_estimate(
    metric: str, estimate: Estimate | Difference | None, interval: str = "t"
) -> str:
    """Formats a mean over seeds with its interval.

    Returns:
      "84.0 ± 1.2"; "84.0" for one value, or equal ones; "84.0 ± 9.5 (n=2)" for two,
      whose interval says little; "99.5 [98.7, 100.0]" where the interval was cut at
      100 % or 0 %, or where `interval` is "bootstrap"; "–" for None.
    """
    if estimate is None:
        return "–"
    mean, low, half = estimate.mean, estimate.low, estimate.half
    if low is None or half == 0:
        return format_metric(metric, mean)
    is_cut = max(estimate.high - low, 0) < 2 * half * (1 - 1e-9)
    if interval == "t" and not is_cut:
        text = format_metric(metric, mean, half)
    else:
        ends = (format_metric(metric, end) for end in (low, estimate.high))
        text = f"{format_metric(metric, mean)} [{', '.join(ends)}]"
    return f"{text} (n=2)" if estimate.n == 2 and not math.isnan(half) else text


def format_difference(metric: str, difference: Difference, interval: str = "t") -> str:
    """Formats a difference with its sign, "+1.2 ± 0.5"; shares in percentage points."""
    text = format_estimate(metric, difference, interval)
    sign = "" if difference.mean < 0 else "+"
    return f"{sign}{text}".replace("-", "−")


def format_p_value(p: float | None) -> str:
    """Formats a p-value: "0.013", "< 0.001", "–" for None."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
