"""Linear models against scikit-learn, and leave-one-out errors against refitting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import linear_model, preprocessing

import jaxtl as tl
from jaxtl.analysis import linear_models, linear_probe_fit
from jaxtl.core.errors import UserError
from jaxtl.evaluation import metrics

STRENGTHS = (1e-3, 1e-1, 1.0, 10.0)


def data(seed=0, n=80, d=6, classes=3, noise=1.5):
    """Features of uneven scale and mean, and labels that depend on them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    y = (
        x @ rng.normal(size=(d, classes)) + noise * rng.normal(size=(n, classes))
    ).argmax(-1)
    return 3.0 + x * np.logspace(-0.5, 0.5, d), y


@pytest.mark.parametrize(("n", "d"), [(40, 6), (12, 30), (12, 12)])
def test_the_decomposition_reproduces_the_features(n, d):
    x, _ = data(n=n, d=d)
    spectrum = linear_models.decompose(x)
    np.testing.assert_allclose(
        spectrum.scores @ spectrum.axes.T + spectrum.mean, x, atol=1e-10
    )
    assert len(spectrum.values) == min(n - 1, d)
    np.testing.assert_allclose(
        spectrum.axes.T @ spectrum.axes, np.eye(len(spectrum.values)), atol=1e-9
    )
    np.testing.assert_allclose(spectrum.scores.var(0), spectrum.values, rtol=1e-6)


def test_constant_features_get_no_weight():
    x, y = data()
    x = np.concatenate([x, np.full((len(x), 1), 7.0), x[:, :1]], 1)
    path = linear_models.ridge(
        linear_models.decompose(x), linear_models.signs(y, 3), STRENGTHS
    )
    np.testing.assert_allclose(path.weights[:, 6], 0, atol=1e-9)
    # Equal features share the weight.
    np.testing.assert_allclose(path.weights[:, 7], path.weights[:, 0], atol=1e-9)
    nothing = linear_models.ridge(
        linear_models.decompose(np.ones((5, 3))), np.arange(5)[:, None], (1.0,)
    )
    np.testing.assert_allclose(nothing(np.ones((1, 3)), 0), [[2.0]])


@pytest.mark.parametrize(("n", "d"), [(80, 6), (20, 50)])
def test_ridge_agrees_with_scikit_learn(n, d):
    x, y = data(n=n, d=d)
    targets = np.random.default_rng(1).normal(size=(n, 2)) + x[:, :1]
    path = linear_models.ridge(linear_models.decompose(x), targets, STRENGTHS)
    classes = linear_models.ridge(
        linear_models.decompose(x), linear_models.signs(y, 3), STRENGTHS
    )
    for i, strength in enumerate(STRENGTHS):
        reference = linear_model.Ridge(alpha=n * strength).fit(x, targets)
        np.testing.assert_allclose(path.weights[i].T, reference.coef_, atol=1e-8)
        np.testing.assert_allclose(path.intercept[i], reference.intercept_, atol=1e-8)
        reference = linear_model.RidgeClassifier(alpha=n * strength).fit(x, y)
        np.testing.assert_allclose(classes.weights[i].T, reference.coef_, atol=1e-8)
        np.testing.assert_allclose(
            classes.intercept[i], reference.intercept_, atol=1e-8
        )


@pytest.mark.parametrize(("n", "d"), [(25, 4), (10, 15)])
def test_leave_one_out_agrees_with_refitting(n, d):
    x, _ = data(n=n, d=d)
    y = np.random.default_rng(1).normal(size=(n, 2)) + x[:, :2]
    for strength in (0.01, 1.0):
        predicted = linear_models.leave_one_out(linear_models.decompose(x), y, strength)
        for i in range(n):
            training = np.arange(n) != i
            model = linear_model.Ridge(alpha=n * strength).fit(x[training], y[training])
            np.testing.assert_allclose(
                predicted[i], model.predict(x[i : i + 1])[0], atol=1e-7
            )


def test_generalized_cross_validation_agrees_with_the_hat_matrix():
    x, _ = data(n=30, d=4)
    y = np.random.default_rng(1).normal(size=(30, 2))
    strength = 0.3
    centered = x - x.mean(0)
    inner = np.linalg.inv(centered.T @ centered + 30 * strength * np.eye(4))
    hat = centered @ inner @ centered.T + 1 / 30
    spectrum = linear_models.decompose(x)
    np.testing.assert_allclose(
        linear_models.leverages(spectrum, strength), np.diag(hat)
    )
    expected = np.square(y - hat @ y).mean() / (1 - np.trace(hat) / 30) ** 2
    assert linear_models.gcv(spectrum, y, strength) == pytest.approx(
        expected, rel=1e-10
    )


@pytest.mark.parametrize(("n", "d"), [(80, 6), (80, 130)])
def test_logistic_agrees_with_scikit_learn(n, d):
    x, y = data(n=n, d=d)
    x = (x - x.mean(0)) / x.std(0)
    strengths = (0.1, 1e-3, 10.0, 1e-2)  # not sorted
    fit = linear_models.logistic(linear_models.decompose(x), y, 3, strengths)
    assert (fit.slopes < 1e-7).all()
    for i, strength in enumerate(strengths):
        reference = linear_model.LogisticRegression(
            C=1 / (n * strength), tol=1e-9, max_iter=10_000
        ).fit(x, y)
        np.testing.assert_allclose(fit.path.weights[i].T, reference.coef_, atol=2e-4)
        np.testing.assert_allclose(
            fit.path.intercept[i], reference.intercept_, atol=2e-4
        )


def test_two_classes_agree_with_scikit_learn_at_half_the_strength():
    x, y = data(classes=2)
    x = (x - x.mean(0)) / x.std(0)
    path = linear_models.logistic(linear_models.decompose(x), y, 2, (0.05,)).path
    theirs = linear_model.LogisticRegression(
        C=2 / (80 * 0.05), tol=1e-9, max_iter=10_000
    )
    theirs.fit(x, y)
    difference = path.weights[0, :, 1] - path.weights[0, :, 0]
    np.testing.assert_allclose(difference, theirs.coef_[0], atol=2e-4)
    offset = path.intercept[0, 1] - path.intercept[0, 0]
    assert offset == pytest.approx(theirs.intercept_[0], abs=2e-4)


def test_solutions_are_stationary_in_float64():
    x, y = data()
    x = (x - x.mean(0)) / x.std(0)
    path = linear_models.logistic(linear_models.decompose(x), y, 3, STRENGTHS).path
    for i, strength in enumerate(STRENGTHS):
        z = path(x, i)
        p = np.exp(z - np.logaddexp.reduce(z, -1, keepdims=True)) - np.eye(3)[y]
        np.testing.assert_allclose(
            x.T @ p / 80 + strength * path.weights[i], 0, atol=1e-7
        )
        np.testing.assert_allclose(p.mean(0), 0, atol=1e-7)
        np.testing.assert_allclose(path.weights[i].sum(-1), 0, atol=1e-6)
    assert path.weights.dtype == np.float64


def test_jax_computes_in_float32_again_afterwards():
    import jax.numpy as jnp

    x, y = data(n=20)
    linear_models.logistic(linear_models.decompose(x), y, 3, (1.0,))
    assert jnp.asarray(1.0).dtype == jnp.float32


def test_a_standardized_probe_agrees_with_a_pipeline_of_scikit_learn():
    x, y = data()
    val = data(1)
    probe = linear_probe_fit.linear_probe(x, y, (0.1,), val=val)
    scaler = preprocessing.StandardScaler().fit(x)
    reference = linear_model.LogisticRegression(
        C=1 / (80 * 0.1), tol=1e-9, max_iter=10_000
    )
    reference.fit(scaler.transform(x), y)
    expected = reference.decision_function(scaler.transform(val[0]))
    np.testing.assert_allclose(probe.path(val[0], 0), expected, atol=1e-3)
    # Without standardization.
    raw = linear_probe_fit.linear_probe(x, y, (0.1,), val=val, standardize=False)
    raw_reference = linear_model.LogisticRegression(
        C=1 / (80 * 0.1), tol=1e-9, max_iter=10_000
    )
    np.testing.assert_allclose(raw.weights.T, raw_reference.fit(x, y).coef_, atol=1e-3)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_leave_one_out_error_exceeds_the_training_error(seed):
    x, y = data(seed, n=20, d=5)
    spectrum, targets = linear_models.decompose(x), linear_models.signs(y, 3)
    path = linear_models.ridge(spectrum, targets, STRENGTHS)
    norms = np.square(path.weights).sum((1, 2))
    assert (np.diff(norms) <= 1e-12).all(), "a stronger penalty shrinks the weights"
    for i, strength in enumerate(STRENGTHS):
        train = np.abs(path(x, i) - targets)
        held_out = np.abs(
            linear_models.leave_one_out(spectrum, targets, strength) - targets
        )
        assert (held_out >= train - 1e-9).all()


def test_the_strength_is_chosen_on_val_and_tested_once():
    (x, y), val, test = data(), data(1), data(2)
    probe = tl.linear_probe(x, y, STRENGTHS, val=val, test=test)
    scores = [row["accuracy"] for row in probe.scores]
    assert scores[probe.best] == max(scores)
    assert probe.test["accuracy"] == metrics.accuracy(
        probe.path(test[0], probe.best), test[1]
    )
    assert probe.examples == {"train": 80, "val": 80, "test": 80}
    by_nll = linear_probe_fit.linear_probe(x, y, STRENGTHS, val=val, metric="nll")
    nll = [row["nll"] for row in by_nll.scores]
    assert by_nll.strength == STRENGTHS[int(np.argmin(nll))]
    assert by_nll.test == {}


def test_of_equally_good_strengths_the_largest_is_chosen():
    x = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    y = np.array([0, 0, 1, 1])
    probe = linear_probe_fit.linear_probe(x, y, STRENGTHS, val=(x, y), solver="ridge")
    assert probe.strength == max(STRENGTHS)


def test_ridge_probes_choose_by_leave_one_out_without_val():
    x, y = data()
    for metric in ("loo", "gcv"):
        probe = linear_probe_fit.linear_probe(
            x, y, STRENGTHS, solver="ridge", metric=metric
        )
        scores = [row[metric] for row in probe.scores]
        assert probe.best == int(np.argmin(scores))
    targets = x @ np.arange(6.0) + 1
    probe = linear_probe_fit.linear_probe(
        x, targets, (1e-9,), val=(x, targets), task="regression", standardize=False
    )
    np.testing.assert_allclose(probe.weights[:, 0], np.arange(6.0), atol=1e-5)
    assert probe.scores[0]["r2"] == pytest.approx(1)
    labels = np.stack([y == 0, y == 1], 1).astype(float)
    probe = linear_probe_fit.linear_probe(x, labels, val=(x, labels), task="multilabel")
    assert probe.scores[0]["accuracy"] > 0.7
    assert "nll" not in probe.scores[0]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"strengths": (1.0, -0.5)}, r"all above 0; -0.5 is not"),
        ({"strengths": (0.0,)}, r"all above 0; 0 is not"),
        ({"strengths": (float("inf"),)}, r"all above 0; inf is not"),
        ({"strengths": ()}, "expected at least one number"),
        (
            {"solver": "rigde"},
            "solver='rigde' is none for classification; did you mean",
        ),
        ({"solver": "logistic", "task": "regression"}, "none for regression"),
        ({"task": "language"}, "linear probes are for"),
        ({"metric": "acuracy"}, "did you mean 'accuracy'"),
        ({"metric": "nll", "solver": "ridge"}, "none of a ridge probe"),
        ({"val": None}, "chooses its strength on a val split, and there is none"),
        ({"features": np.full((80, 2), np.nan)}, "expected finite numbers"),
    ],
)
def test_invalid_input_raises(changes, text):
    x, y = data()
    settings = {"features": x, "labels": y, "val": (x, y), **changes}
    with pytest.raises(UserError, match=text):
        linear_probe_fit.linear_probe(**settings)


def test_features_of_one_width_share_a_program_whatever_their_rank():
    x, y = data(n=30, d=5)
    linear_models.logistic(linear_models.decompose(x), y, 3, (0.1,))
    before = linear_models.fit_logistic_path._cache_size()
    x[:, 3:] = 0.0
    path = linear_models.logistic(linear_models.decompose(x), y, 3, (0.1,)).path
    assert linear_models.fit_logistic_path._cache_size() == before
    np.testing.assert_allclose(path.weights[0, 3:], 0, atol=1e-12)
