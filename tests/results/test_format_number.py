"""Metrics, estimates, differences and p-values as text."""

import pytest

from jaxtl.results.format_number import (
    format_difference,
    format_estimate,
    format_metric,
    format_p_value,
)
from jaxtl.results.statistics import Difference, Estimate


def test_shares_are_percentages_and_other_metrics_plain_numbers():
    assert format_metric("accuracy", 0.84, 0.012) == "84.0 ± 1.2"
    assert format_metric("nll", 0.12345, 0.01) == "0.1235 ± 0.0100"
    assert format_metric("nll", 0.5) == "0.5000"


def test_estimates_are_followed_by_their_interval():
    estimate = Estimate(0.84, 0.83, 0.85, 0.01, 5)
    assert format_estimate("accuracy", estimate) == "84.0 ± 1.0"
    assert format_estimate("nll", Estimate(0.5, None, None, None, 1)) == "0.5000"
    skewed = Estimate(0.84, 0.8, 0.85, 0.025, 5)
    assert format_estimate("accuracy", skewed, "bootstrap") == "84.0 [80.0, 85.0]"
    assert format_estimate("accuracy", None) == "–"


def test_differences_have_a_sign():
    loss = Difference(-0.031, -0.04, -0.022, 0.009, 0.01, 5)
    assert format_difference("accuracy", loss) == "−3.1 ± 0.9"
    gain = Difference(0.02, None, None, None, None, 1)
    assert format_difference("accuracy", gain) == "+2.0"


@pytest.mark.parametrize(
    ("p", "text"), [(None, "–"), (0.0001, "< 0.001"), (0.0434, "0.043"), (1.0, "1.000")]
)
def test_p_values_have_three_digits(p, text):
    assert format_p_value(p) == text
