"""Numbers of results as text: metrics, estimates over seeds, p-values."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line formats numbers without scipy
    from jaxtl.results.statistics import Difference, Estimate

SHARES = (  # metrics in [0, 1] that are shown as percentages
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "exact_match",
    "ece",
    "source_accuracy",
)


def metric_factor(metric: str) -> float:
    """The factor that a metric is multiplied by to be shown: 100 for shares, else 1."""
    return 100.0 if metric in SHARES else 1.0


def metric_unit(metric: str) -> str:
    """The unit that follows a metric's name or value: " %" for shares, else ""."""
    return " %" if metric in SHARES else ""


def format_metric(metric: str, mean: float, half: float | None = None) -> str:
    """Formats a metric, with half of its interval's width: "84.0 ± 1.2"."""
    factor, digits = metric_factor(metric), 1 if metric in SHARES else 4
    text = f"{mean * factor:.{digits}f}"
    if half is not None:
        text += f" ± {half * factor:.{digits}f}"
    return text


def format_estimate(
    metric: str, estimate: Estimate | Difference | None, interval: str = "t"
) -> str:
    """Formats a mean over seeds with its interval.

    Returns:
      "84.0 ± 1.2", or "84.0 [82.9, 85.1]" where `interval` is "bootstrap"; "–" for
      None.
    """
    if estimate is None:
        return "–"
    if interval == "t" or estimate.low is None:
        return format_metric(metric, estimate.mean, estimate.half)
    mean, low, high = (
        format_metric(metric, value)
        for value in (estimate.mean, estimate.low, estimate.high)
    )
    return f"{mean} [{low}, {high}]"


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
