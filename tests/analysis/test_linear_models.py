"""Linear models against scikit-learn's, and leave-one-out against leaving one out."""

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
    """Returns features of uneven scale and place, and labels they tell something of."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    y = (
        x @ rng.normal(size=(d, classes)) + noise * rng.normal(size=(n, classes))
    ).argmax(-1)
    return 3.0 + x * np.logspace(-0.5, 0.5, d), y


@pytest.mark.parametrize(("n", "d"), [(40, 6), (12, 30), (12, 12)])
def test_spectrum_puts_the_features_together_again(n, d):
    x, _ = data(n=n, d=d)
    parts = linear_models.spectrum(x)
    np.testing.assert_allclose(parts.scores @ parts.axes.T + parts.mean, x, atol=1e-10)
    assert len(parts.values) == min(n - 1, d)
    np.testing.assert_allclose(
        parts.axes.T @ parts.axes, np.eye(len(parts.values)), atol=1e-9
    )
    np.testing.assert_allclose(parts.scores.var(0), parts.values, rtol=1e-6)


def test_features_that_never_change_carry_no_weight():
    x, y = data()
    x = np.concatenate([x, np.full((len(x), 1), 7.0), x[:, :1]], 1)
    path = linear_models.ridge(
        linear_models.spectrum(x), linear_models.signs(y, 3), STRENGTHS
    )
    np.testing.assert_allclose(path.weights[:, 6], 0, atol=1e-9)
    # Twins share the weight.
    np.testing.assert_allclose(path.weights[:, 7], path.weights[:, 0], atol=1e-9)
    nothing = linear_models.ridge(
        linear_models.spectrum(np.ones((5, 3))), np.arange(5)[:, None], (1.0,)
    )
    np.testing.assert_allclose(nothing(np.ones((1, 3)), 0), [[2.0]])


@pytest.mark.parametrize(("n", "d"), [(80, 6), (20, 50)])
def test_ridge_is_scikit_learns(n, d):
    x, y = data(n=n, d=d)
    targets = np.random.default_rng(1).normal(size=(n, 2)) + x[:, :1]
    path = linear_models.ridge(linear_models.spectrum(x), targets, STRENGTHS)
    classes = linear_models.ridge(
        linear_models.spectrum(x), linear_models.signs(y, 3), STRENGTHS
    )
    for i, strength in enumerate(STRENGTHS):
        theirs = linear_model.Ridge(alpha=n * strength).fit(x, targets)
        np.testing.assert_allclose(path.weights[i].T, theirs.coef_, atol=1e-8)
        np.testing.assert_allclose(path.intercept[i], theirs.intercept_, atol=1e-8)
        theirs = linear_model.RidgeClassifier(alpha=n * strength).fit(x, y)
        np.testing.assert_allclose(classes.weights[i].T, theirs.coef_, atol=1e-8)
        np.testing.assert_allclose(classes.intercept[i], theirs.intercept_, atol=1e-8)


@pytest.mark.parametrize(("n", "d"), [(25, 4), (10, 15)])
def test_leave_one_out_leaves_one_out(n, d):
    x, _ = data(n=n, d=d)
    y = np.random.default_rng(1).normal(size=(n, 2)) + x[:, :2]
    for strength in (0.01, 1.0):
        found = linear_models.leave_one_out(linear_models.spectrum(x), y, strength)
        for i in range(n):
            rest = np.arange(n) != i
            model = linear_model.Ridge(alpha=n * strength).fit(x[rest], y[rest])
            np.testing.assert_allclose(
                found[i], model.predict(x[i : i + 1])[0], atol=1e-7
            )


def test_generalised_cross_validation_by_its_hat_matrix():
    x, _ = data(n=30, d=4)
    y = np.random.default_rng(1).normal(size=(30, 2))
    strength = 0.3
    centred = x - x.mean(0)
    inner = np.linalg.inv(centred.T @ centred + 30 * strength * np.eye(4))
    hat = centred @ inner @ centred.T + 1 / 30
    parts = linear_models.spectrum(x)
    np.testing.assert_allclose(linear_models.leverages(parts, strength), np.diag(hat))
    expected = np.square(y - hat @ y).mean() / (1 - np.trace(hat) / 30) ** 2
    assert linear_models.gcv(parts, y, strength) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("n", "d"), [(80, 6), (80, 130)])
def test_logistic_is_scikit_learns(n, d):
    x, y = data(n=n, d=d)
    x = (x - x.mean(0)) / x.std(0)
    strengths = (0.1, 1e-3, 10.0, 1e-2)  # in no order
    fit = linear_models.logistic(linear_models.spectrum(x), y, 3, strengths)
    assert (fit.slopes < 1e-7).all()
    for i, strength in enumerate(strengths):
        theirs = linear_model.LogisticRegression(
            C=1 / (n * strength), tol=1e-9, max_iter=10_000
        ).fit(x, y)
        np.testing.assert_allclose(fit.path.weights[i].T, theirs.coef_, atol=2e-4)
        np.testing.assert_allclose(fit.path.intercept[i], theirs.intercept_, atol=2e-4)


def test_two_classes_are_scikit_learns_at_half_the_strength():
    x, y = data(classes=2)
    x = (x - x.mean(0)) / x.std(0)
    path = linear_models.logistic(linear_models.spectrum(x), y, 2, (0.05,)).path
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
    path = linear_models.logistic(linear_models.spectrum(x), y, 3, STRENGTHS).path
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
    linear_models.logistic(linear_models.spectrum(x), y, 3, (1.0,))
    assert jnp.asarray(1.0).dtype == jnp.float32


def test_a_standardised_probe_is_a_pipeline_of_scikit_learns():
    x, y = data()
    val = data(1)
    found = linear_probe_fit.linear_probe(x, y, (0.1,), val=val)
    scaler = preprocessing.StandardScaler().fit(x)
    theirs = linear_model.LogisticRegression(
        C=1 / (80 * 0.1), tol=1e-9, max_iter=10_000
    )
    theirs.fit(scaler.transform(x), y)
    expected = theirs.decision_function(scaler.transform(val[0]))
    np.testing.assert_allclose(found.path(val[0], 0), expected, atol=1e-3)
    # And without: the features as they are.
    raw = linear_probe_fit.linear_probe(x, y, (0.1,), val=val, standardize=False)
    plain = linear_model.LogisticRegression(C=1 / (80 * 0.1), tol=1e-9, max_iter=10_000)
    np.testing.assert_allclose(raw.weights.T, plain.fit(x, y).coef_, atol=1e-3)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_leave_one_out_error_exceeds_the_training_error(seed):
    x, y = data(seed, n=20, d=5)
    parts, targets = linear_models.spectrum(x), linear_models.signs(y, 3)
    path = linear_models.ridge(parts, targets, STRENGTHS)
    norms = np.square(path.weights).sum((1, 2))
    assert (np.diff(norms) <= 1e-12).all(), "a stronger penalty shrinks the weights"
    for i, strength in enumerate(STRENGTHS):
        train = np.abs(path(x, i) - targets)
        held_out = np.abs(
            linear_models.leave_one_out(parts, targets, strength) - targets
        )
        assert (held_out >= train - 1e-9).all()


def test_the_strength_is_chosen_on_val_and_tested_once():
    (x, y), val, test = data(), data(1), data(2)
    found = tl.linear_probe(x, y, STRENGTHS, val=val, test=test)
    scores = [row["accuracy"] for row in found.scores]
    assert scores[found.best] == max(scores)
    assert found.test["accuracy"] == metrics.accuracy(
        found.path(test[0], found.best), test[1]
    )
    assert found.examples == {"train": 80, "val": 80, "test": 80}
    by_nll = linear_probe_fit.linear_probe(x, y, STRENGTHS, val=val, metric="nll")
    nll = [row["nll"] for row in by_nll.scores]
    assert by_nll.strength == STRENGTHS[int(np.argmin(nll))]
    assert by_nll.test == {}


def test_of_equal_strengths_the_strongest_wins():
    x = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    y = np.array([0, 0, 1, 1])
    found = linear_probe_fit.linear_probe(x, y, STRENGTHS, val=(x, y), solver="ridge")
    assert found.strength == max(STRENGTHS)


def test_ridge_probes_choose_without_val_by_leaving_one_out():
    x, y = data()
    for metric in ("loo", "gcv"):
        found = linear_probe_fit.linear_probe(
            x, y, STRENGTHS, solver="ridge", metric=metric
        )
        scores = [row[metric] for row in found.scores]
        assert found.best == int(np.argmin(scores))
    targets = x @ np.arange(6.0) + 1
    found = linear_probe_fit.linear_probe(
        x, targets, (1e-9,), val=(x, targets), task="regression", standardize=False
    )
    np.testing.assert_allclose(found.weights[:, 0], np.arange(6.0), atol=1e-5)
    assert found.scores[0]["r2"] == pytest.approx(1)
    labels = np.stack([y == 0, y == 1], 1).astype(float)
    found = linear_probe_fit.linear_probe(x, labels, val=(x, labels), task="multilabel")
    assert found.scores[0]["accuracy"] > 0.7
    assert "nll" not in found.scores[0]


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
def test_bad_input_is_told_in_one_sentence(changes, text):
    x, y = data()
    settings = {"features": x, "labels": y, "val": (x, y), **changes}
    with pytest.raises(UserError, match=text):
        linear_probe_fit.linear_probe(**settings)


def test_features_of_one_width_share_a_program_whatever_their_rank():
    x, y = data(n=30, d=5)
    linear_models.logistic(linear_models.spectrum(x), y, 3, (0.1,))
    before = linear_models._walk._cache_size()
    x[:, 3:] = 0.0
    found = linear_models.logistic(linear_models.spectrum(x), y, 3, (0.1,)).path
    assert linear_models._walk._cache_size() == before
    np.testing.assert_allclose(found.weights[0, 3:], 0, atol=1e-12)
