"""Combinations of models by hand; calibration against scikit-learn and brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special
from sklearn import linear_model
from sklearn import metrics as sk
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from jaxtl.analysis.ensemble import combine
from jaxtl.core.errors import UserError
from jaxtl.evaluation import metrics

# Three members, two examples, three classes; the rows are probabilities.
P = np.array(
    [
        [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]],
        [[0.1, 0.5, 0.4], [0.3, 0.3, 0.4]],
        [[0.2, 0.5, 0.3], [0.5, 0.1, 0.4]],
    ]
)
LOGITS = np.log(P) + np.array([1.0, -2.0, 5.0])[:, None, None]  # softmax is P


def test_average_of_probabilities_by_hand():
    probabilities = np.exp(combine.average_probabilities(LOGITS))
    expected = [[1.0 / 3, 0.4, 0.8 / 3], [0.3, 1.0 / 3, 1.1 / 3]]
    np.testing.assert_allclose(probabilities, expected, rtol=1e-12)


def test_average_of_logits_is_the_geometric_mean_of_probabilities():
    probabilities = special.softmax(combine.average_outputs(LOGITS), -1)
    product = np.prod(P, 0) ** (1 / 3)
    expected = product / product.sum(-1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-12)
    # 0.7·0.1·0.2 < 0.2·0.5·0.5, though 0 has the most confident member.
    assert probabilities.argmax(-1).tolist() == [1, 2]


def test_hard_votes_by_hand():
    # Example 0: votes 0, 1, 1. Example 1: votes 1, 2, 0, a tie of three, which the mean
    # probabilities (0.30, 0.33, 0.37) give to 2.
    shares = combine.hard_vote(LOGITS)
    assert shares.argmax(-1).tolist() == [1, 2]
    np.testing.assert_allclose(np.exp(shares[0]), [1 / 3, 2 / 3, 0], atol=1e-8)
    np.testing.assert_allclose(np.exp(shares[1]), [1 / 3, 1 / 3, 1 / 3], atol=1e-8)


def test_weighted_votes_by_hand():
    # Example 0: member 0 (0.9) says 0, members 1 and 2 (0.4 + 0.3) say 1.
    shares = combine.weighted_vote(LOGITS, [0.9, 0.4, 0.3])
    assert shares.argmax(-1).tolist() == [0, 1]
    np.testing.assert_allclose(np.exp(shares[0]), [0.9 / 1.6, 0.7 / 1.6, 0], atol=1e-8)
    # 0.1 + 0.2 and 0.3 tie, whatever their sums' rounding: 0.4 beats 0.33 on average.
    tied = combine.weighted_vote(LOGITS, [0.3, 0.1, 0.2])
    assert tied[0].argmax() == 1
    # A tie in every respect goes to the first class.
    even = np.log([[[0.8, 0.1, 0.1]], [[0.1, 0.8, 0.1]]])
    assert combine.hard_vote(even)[0].argmax() == 0


def test_equal_weights_are_hard_votes():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 40, 4))
    np.testing.assert_allclose(
        combine.weighted_vote(logits, np.full(5, 0.7)), combine.hard_vote(logits)
    )


@pytest.mark.parametrize("weights", [[1.0, 1.0], [1, -1, 1], [0, 0, 0], [1, np.nan, 1]])
def test_negative_zero_and_nan_weights_raise(weights):
    with pytest.raises(UserError, match="expected 3 numbers"):
        combine.weighted_vote(LOGITS, weights)


def test_label_probabilities_are_averaged_without_rounding():
    z = np.array([[[-2.0, 40.0]], [[1.0, 45.0]]])
    logits = combine.average_label_probabilities(z)
    p = special.expit(z).mean(0)
    assert logits[0, 0] == pytest.approx(np.log(p[0, 0] / (1 - p[0, 0])))
    # 1 − p is 1e-18 there, less than float64 tells from p = 1.
    assert logits[0, 1] == pytest.approx(-np.log((np.exp(-40) + np.exp(-45)) / 2))


@given(seed=st.integers(0, 10**6), members=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_combinations_ignore_the_order_of_members_and_shifts_of_logits(seed, members):
    rng = np.random.default_rng(seed)
    single = rng.normal(0, 3, (1, 12, 3))
    logits = rng.normal(0, 3, (members, 12, 3))
    order, labels = rng.permutation(members), rng.integers(0, 3, 12)
    for name, combine_logits in combine.METHODS["classification"].items():
        weights = rng.random(members) + 0.1
        whole = combine_logits(logits, weights)
        reordered = combine_logits(logits[order], weights[order])
        np.testing.assert_allclose(whole, reordered, atol=1e-9, err_msg=name)
        # Equal members count as one, and shifts of an example's logits do not matter.
        same = combine_logits(
            np.repeat(single, members, 0) + rng.normal(size=(members, 12, 1)), weights
        )
        assert (same.argmax(-1) == single[0].argmax(-1)).all()
    mean = metrics.nll(combine.average_probabilities(logits), labels)
    # Jensen: a mixture is no worse than its members are on average.
    assert mean <= np.mean([metrics.nll(z, labels) for z in logits]) + 1e-9


def _predictions(seed=0, n=120, members=3, classes=4):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    logits = rng.normal(0, 1.5, (members, n, classes))
    logits[:, np.arange(n), labels] += 1.5
    return logits, labels


def test_stacking_is_scikit_learns():
    val, y = _predictions()
    test, _ = _predictions(1, n=31)
    held_out, predicted = combine.stacking(val, y, test)
    side = [np.concatenate(list(special.log_softmax(z, -1)), -1) for z in (val, test)]
    model = linear_model.LogisticRegression(max_iter=5000)
    expected = model.fit(side[0], y).predict_proba(side[1])
    np.testing.assert_allclose(np.exp(predicted), expected, atol=1e-9)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    oof = cross_val_predict(model, side[0], y, cv=folds, method="predict_proba")
    np.testing.assert_allclose(np.exp(held_out), oof, atol=1e-9)


def test_stacking_scores_out_of_fold_predictions():
    # Labels that the members do not predict: in-sample they would seem to.
    rng = np.random.default_rng(3)
    val, y = rng.normal(size=(6, 60, 5)), rng.integers(0, 5, 60)
    held_out, in_sample = combine.stacking(val, y, val)
    assert metrics.accuracy(in_sample, y) > 0.5
    assert metrics.accuracy(held_out, y) < 0.4


def test_stacking_takes_any_estimator_and_rare_classes():
    val, y = _predictions()
    y = np.where(y == 3, 0, y)  # class 3 never occurs
    y[0] = 2
    for estimator in (
        linear_model.RidgeClassifier(),
        linear_model.LogisticRegression(C=0.1),
    ):
        held_out, predicted = combine.stacking(val, y, val[:, :7], estimator=estimator)
        assert held_out.shape == (120, 4)
        assert predicted.shape == (7, 4)
        np.testing.assert_allclose(np.exp(predicted).sum(-1), 1)
        assert np.isfinite(held_out).all()
        assert not (held_out.argmax(-1) == 3).any()
    with pytest.raises(UserError, match="stacking: LogisticRegression can't be fitted"):
        combine.stacking(val, np.zeros(120), val)
    with pytest.raises(UserError, match="at least two validation examples"):
        combine.stacking(val[:, :1], y[:1], val)


def test_stacking_of_regressions_is_a_ridge_of_outputs():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(50, 2))
    val = y + rng.normal(0, [[[0.1]], [[3.0]]], (2, 50, 2))
    _, predicted = combine.stacking(val, y, val, task="regression")
    x = np.concatenate(list(val), -1)
    expected = linear_model.Ridge().fit(x, y).predict(x)
    np.testing.assert_allclose(predicted, expected, atol=1e-9)


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_temperature_minimizes_nll(scale):
    (logits,), labels = _predictions(members=1, n=300)
    temperature = combine.fit_temperature(scale * logits, labels)

    def nll(log_t):
        p = special.softmax(scale * logits / np.exp(log_t), -1)
        return sk.log_loss(labels, p, labels=range(4))

    best = optimize.minimize_scalar(nll, bounds=(-4, 4), options={"xatol": 1e-8})
    assert temperature == pytest.approx(np.exp(best.x), rel=1e-4)
    after = combine.calibration_metrics(scale * logits, labels, temperature)
    assert (
        after["nll"]
        <= combine.calibration_metrics(scale * logits, labels)["nll"] + 1e-12
    )


def test_temperature_undoes_a_scale():
    (logits,), labels = _predictions(members=1)
    temperature = combine.fit_temperature(logits, labels)
    assert combine.fit_temperature(3 * logits + 7, labels) == pytest.approx(
        3 * temperature
    )


def test_temperatures_without_a_minimum_stay_in_bounds():
    right = 9.0 * np.eye(3)
    assert combine.fit_temperature(right, [0, 1, 2]) == combine.TEMPERATURES[0]
    assert combine.fit_temperature(right, [1, 2, 0]) == combine.TEMPERATURES[1]
    assert combine.fit_temperature(np.zeros((3, 3)), [0, 1, 2]) == 1.0


def test_brier_is_scikit_learns():
    (logits,), labels = _predictions(members=1)
    p = special.softmax(logits, -1)
    truth = np.eye(4)[labels]
    by_hand = sum(((a - b) ** 2).sum() for a, b in zip(p, truth)) / len(p)
    assert metrics.brier(logits, labels) == pytest.approx(by_hand, rel=1e-12)
    # Binary: scikit-learn counts one class, the sum over both is twice that.
    binary, y = logits[:, :2], labels % 2
    brier = sk.brier_score_loss(y, special.softmax(binary, -1)[:, 1])
    assert metrics.brier(binary, y) == pytest.approx(2 * brier)
    assert not metrics.higher_is_better("val/brier")


def test_outputs_without_an_axis_of_members_raise():
    with pytest.raises(UserError, match=r"expected \(members, examples, outputs\)"):
        combine.average_probabilities(LOGITS[0])
