"""Metrics, estimates, differences and p-values as text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtl.results.format_number import (
    format_difference,
    format_estimate,
    format_metric,
    format_p_value,
    metric_bounds,
)
from jaxtl.results.statistics import Difference, Estimate, t_interval


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


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.84], "84.0"),
        ([0.84, 0.84, 0.84], "84.0"),
        ([0.84, 0.86], "85.0 ± 12.7 (n=2)"),
        ([0.99, 1.0, 1.0], "99.7 [98.2, 100.0]"),
        ([0.01, 0.0, 0.0], "0.3 [0.0, 1.8]"),
        ([0.2, 0.9], "55.0 [0.0, 100.0] (n=2)"),
        ([0.84, 0.8401, 0.84], "84.0 ± <0.1"),
    ],
)
def test_an_interval_claims_no_more_than_the_values_tell(values, text):
    """Widths by Student's table: t = 12.706 for one degree of freedom, 4.303 for two.

    99.67 ± 1.43: s = 0.577, times 4.303 / √3.
    """
    estimate = t_interval(values, bounds=metric_bounds("accuracy"))
    assert format_estimate("accuracy", estimate) == text


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_no_interval_of_shares_leaves_0_to_100_percent(values):
    text = format_estimate("ece", t_interval(values, bounds=metric_bounds("ece")))
    mean, *rest = map(float, re.findall(r"[\d.]+", text.removesuffix(" (n=2)")))
    ends = [mean - rest[0], mean + rest[0]] if "±" in text else [mean, *rest]
    assert all(-0.1 <= end <= 100.1 for end in ends)  # rounding of the two numbers
    assert "± 0.0" not in text


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
