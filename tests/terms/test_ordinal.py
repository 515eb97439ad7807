"""The ordinal loss against scikit-learn's log-loss of every threshold."""

import jax.numpy as jnp
import numpy as np
from scipy import special
from sklearn.metrics import log_loss, mean_absolute_error

from jaxtl import metrics
from jaxtl.terms import ordinal


def test_the_loss_is_the_sum_of_the_log_losses_of_all_thresholds():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 4)), rng.integers(0, 4, 50)
    above = special.softmax(logits, 1)[:, ::-1].cumsum(1)[:, ::-1][:, 1:]
    expected = sum(log_loss(labels > k, above[:, k]) for k in range(3))
    odds = ordinal.cumulative_log_odds(jnp.asarray(logits, jnp.float32))
    assert (np.diff(odds, axis=1) < 0).all()
    np.testing.assert_allclose(special.expit(odds), above, rtol=1e-5)
    values = ordinal.coral_losses(odds, jnp.asarray(labels))
    np.testing.assert_allclose(values.mean(), expected, rtol=1e-5)


def test_a_class_further_away_costs_more_and_large_logits_stay_finite():
    logits = jnp.asarray([[200.0, 0.0, 0.0]])
    odds = ordinal.cumulative_log_odds(logits)
    near, far = (float(ordinal.coral_losses(odds, jnp.asarray([y]))[0]) for y in (1, 2))
    assert 150 < near < far < 1000


def test_the_rank_error_is_the_mean_absolute_error_of_classes():
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(30, 5)), rng.integers(0, 5, 30)
    weights = rng.random(30)
    value = metrics.MeanRankError()(logits, labels, weights)
    expected = mean_absolute_error(labels, logits.argmax(1), sample_weight=weights)
    np.testing.assert_allclose(value, expected)
