"""Statistics over seeds, against scipy, textbook numbers and laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxtl.core.errors import UserError
from jaxtl.results import statistics

# Student, The Probable Error of a Mean, 1908: extra hours of sleep by two drugs.
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

shares = st.lists(st.floats(0, 1), min_size=2, max_size=20)


def test_students_sleep_data():
    """t = −4.0621, df = 9, p = 0.002833, interval (−2.4598858, −0.7001142): R's."""
    result = statistics.paired(FIRST, SECOND)
    assert result.mean == pytest.approx(-1.58)
    assert result.p == pytest.approx(0.002833, abs=5e-7)
    assert result[1:3] == pytest.approx((-2.4598858, -0.7001142), abs=5e-8)
    assert result.n == 10


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_paired_is_scipys(n):
    rng = np.random.default_rng(n)
    ours, theirs = rng.normal(0.8, 0.1, (2, n))
    result = statistics.paired(ours, theirs)
    expected = stats.ttest_rel(ours, theirs)
    assert result.p == pytest.approx(expected.pvalue, rel=1e-9)
    low, high = expected.confidence_interval(0.95)
    assert result[1:3] == pytest.approx((low, high))
    ranks = statistics.paired(ours, theirs, test="wilcoxon")
    assert ranks.p == pytest.approx(stats.wilcoxon(ours, theirs).pvalue)
    assert ranks[:3] == result[:3]


def test_t_interval_is_scipys():
    result = statistics.t_interval(SECOND)
    expected = stats.t.interval(0.95, 9, np.mean(SECOND), stats.sem(SECOND))
    assert result[1:3] == pytest.approx(expected)
    assert result.half == pytest.approx((expected[1] - expected[0]) / 2)
    assert statistics.t_interval([0.5]) == (0.5, None, None, None, 1)


@given(values=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9))
@settings(deadline=None)
def test_t_intervals_of_random_values_are_scipys(values):
    estimate = statistics.t_interval(values)
    assert estimate.n == len(values)
    np.testing.assert_allclose(estimate.mean, np.mean(values), atol=1e-9)
    if np.std(values) > 1e-6:
        expected = stats.t.interval(
            0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values)
        )
        np.testing.assert_allclose(estimate[1:3], expected, rtol=1e-7)


def test_no_value_has_no_interval():
    with pytest.raises(UserError, match="at least one value"):
        statistics.t_interval([])


def test_bootstrap_is_near_scipys_and_repeats():
    values = np.random.default_rng(0).exponential(size=40)
    expected = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=1
    ).confidence_interval
    result = statistics.bootstrap_interval(values)
    assert result[1:3] == pytest.approx((expected.low, expected.high), abs=0.02)
    assert statistics.bootstrap_interval(values) == result
    assert statistics.bootstrap_interval(values, seed=1) != result


def test_bootstrap_of_two_values():
    """Its means are a, (a + b)/2 and b with probabilities ¼, ½ and ¼."""
    result = statistics.bootstrap_interval([1.0, 3.0])
    assert result == (2.0, 1.0, 3.0, 1.0, 2)
    result = statistics.bootstrap_interval([1.0, 3.0], level=0.4)
    assert result == (2.0, 2.0, 2.0, 0.0, 2)


@given(shares)
def test_bootstrap_lies_within_the_values(values):
    result = statistics.bootstrap_interval(values, resamples=200)
    assert min(values) - 1e-9 <= result.low <= result.high <= max(values) + 1e-9


@pytest.mark.parametrize("unit", [1e-300, 1e-243, 1e100])
def test_a_p_value_does_not_depend_on_the_unit(unit):
    values = np.array([0.0, 1.0, 3.0, 2.5])
    p = statistics.paired(values, np.zeros(4)).p
    assert p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert statistics.paired(unit * values, np.zeros(4)).p == pytest.approx(p)


@given(shares, st.randoms())
def test_swapping_the_sides_changes_the_sign(values, random):
    shuffled = random.sample(values, len(values))
    ours = statistics.paired(values, shuffled)
    theirs = statistics.paired(shuffled, values)
    assert ours.p == pytest.approx(theirs.p)
    assert ours.mean == pytest.approx(-theirs.mean)
    assert ours.low == pytest.approx(-theirs.high)


def test_equal_differences_have_the_p_value_of_the_sign_flip_test():
    # Four of four seeds to one side: 2 of the 2⁴ signs are as extreme.
    result = statistics.paired([0.9, 0.8, 0.7, 0.6], [0.8, 0.7, 0.6, 0.5])
    assert result.p == 0.125
    assert result.mean == result.low == result.high == pytest.approx(0.1)
    same = statistics.paired([0.9, 0.8], [0.9, 0.8])
    assert same == (0.0, 0.0, 0.0, 0.0, 1.0, 2)
    rounded = statistics.paired([0.1 + 0.2, 0.5], [0.3, 0.5])
    assert rounded.p == 1.0
    assert statistics.paired([0.5] * 3, [0.5] * 3, test="wilcoxon").p == 1.0


def test_one_pair_has_no_p():
    assert statistics.paired([0.75], [0.5]) == (0.25, None, None, None, None, 1)
    assert statistics.paired([0.75], [0.5], test="wilcoxon").p is None


def test_wilcoxons_smallest_p_with_five_seeds():
    ours = [0.1, 0.2, 0.3, 0.4, 0.5]
    assert statistics.paired(ours, [0.0] * 5, test="wilcoxon").p == 2**-4


def test_holm_by_hand():
    """Ranks 1 … 4 are multiplied by 4, 3, 2, 1: 0.02, 0.03, 0.06 and 0.04 → 0.06."""
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx(
        [0.03, 0.06, 0.06, 0.02]
    )
    assert statistics.holm([]) == []
    assert statistics.holm([0.7, 0.9]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_stepwise_procedure_rejects(p):
    adjusted = np.array(statistics.holm(p))
    assert (adjusted >= p).all()
    rejected, order = set(), np.argsort(p, kind="stable")
    for step, i in enumerate(order):
        if not p[i] * (len(p) - step) < 0.05:
            break
        rejected.add(int(i))
    assert {int(i) for i in np.flatnonzero(adjusted < 0.05)} == rejected


def test_t_interval_covers():
    """The interval contains the true mean about as often as its level says."""
    rng = np.random.default_rng(0)
    rows = [statistics.t_interval(v) for v in rng.normal(1.0, 2.0, (2000, 5))]
    assert np.mean([r.low <= 1.0 <= r.high for r in rows]) == pytest.approx(
        0.95, abs=0.015
    )


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="got 2 and 1"):
        statistics.paired([1.0, 2.0], [1.0])
    with pytest.raises(UserError, match="at least one value"):
        statistics.paired([], [])
    with pytest.raises(UserError, match=r"did you mean 'bootstrap'.*known: t, boot"):
        statistics.estimate([1.0], "bootstrp")
    with pytest.raises(UserError, match="test='rank' is unknown"):
        statistics.paired([1.0], [2.0], test="rank")
