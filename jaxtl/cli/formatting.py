"""Metrics as the text of a table's cells and columns."""

from collections.abc import Mapping

from jaxtl.results import format_number

MISSING = "–"
_LEAVE_ONE_OUT = "loo_"  # prefix of a metric that is estimated by leaving one row out


def metric_title(metric: str) -> str:
    """Name of a metric with its unit: "accuracy %", "nll"."""
    share = metric.removeprefix(_LEAVE_ONE_OUT) in format_number.SHARES
    return f"{metric} %" if share else metric


def metric_value(metric: str, value: float) -> str:
    """Value of a metric as text; shares are percentages."""
    return format_number.format_metric(metric.removeprefix(_LEAVE_ONE_OUT), value, None)


def metric_cell(metrics: Mapping[str, float], metric: str) -> str:
    """Value of a metric as text, a dash where it was not measured."""
    return metric_value(metric, metrics[metric]) if metric in metrics else MISSING
