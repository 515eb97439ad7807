"""Batches for evaluation count each row once; samples hold each class."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl import data
from jaxtl.core.errors import UserError
from jaxtl.data import streams


@pytest.fixture(scope="module")
def digits():
    """The digits with 10 noisy labels per class: 100 labelled train rows."""
    return data.prepare(data.Digits(labels_per_class=10, label_noise=0.2), 0)


@given(n=st.integers(1, 60), batch=st.integers(1, 70))
@settings(max_examples=50, deadline=None)
def test_evaluation_weights_give_the_plain_mean(n, batch):
    values = np.random.default_rng(n).normal(size=200)
    rows = np.random.default_rng(batch).permutation(200)[:n]
    index, weights = streams.evaluation_batches(rows, batch)
    assert index.shape == weights.shape == (-(-n // batch), batch)
    mean = (values[index] * weights).sum() / weights.sum()
    np.testing.assert_allclose(mean, values[rows].mean(), rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(index[weights > 0], rows)


def test_evaluation_needs_rows():
    with pytest.raises(UserError, match="split is empty"):
        streams.evaluation_batches([], 4)


def test_a_sample_holds_each_class(digits):
    sample = data.sample(digits, "unlabelled", per_class=3)
    np.testing.assert_array_equal(sample["y"], np.repeat(np.arange(10), 3))
    np.testing.assert_array_equal(sample["x"], digits.x[sample["rows"]])
    assert set(sample["rows"]) <= set(digits.rows["unlabelled"])
