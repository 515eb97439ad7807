"""Criteria without target labels, against loops, scikit-learn and closed forms."""

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from jaxtl.evaluation import metrics, validators


def logits(seed=0, n=23, k=4, scale=2.0):
    return scale * np.random.default_rng(seed).normal(size=(n, k))


def softmax(z):
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


def test_entropy_is_scipys():
    z = logits()
    expected = np.mean([stats.entropy(p) for p in softmax(z)])
    assert validators.entropy(z) == pytest.approx(expected, rel=1e-12)
    assert validators.entropy(np.zeros((5, 4))) == pytest.approx(np.log(4))
    assert validators.entropy(1000 * np.eye(4)) == pytest.approx(0.0)


def test_soft_neighborhood_density_is_the_papers_double_loop():
    z, n = logits(), 23
    p = softmax(z)
    total = 0.0
    for i in range(n):
        near = []
        for j in range(n):
            if i != j:
                a, b = p[i] / np.sqrt(p[i] @ p[i]), p[j] / np.sqrt(p[j] @ p[j])
                near.append(np.exp(a @ b / 0.05))
        total += stats.entropy(np.array(near) / np.sum(near))
    assert validators.snd(z) == pytest.approx(total / n, rel=1e-10)


def test_density_of_equal_predictions_and_of_certain_groups():
    assert validators.snd(np.zeros((12, 3))) == pytest.approx(np.log(11))
    # Two certain groups of five: each example has four neighbours of equal weight.
    z = 1e3 * np.repeat(np.eye(2), 5, axis=0)
    far = np.exp(-1 / 0.05)
    weights = np.r_[np.ones(4), np.full(5, far)] / (4 + 5 * far)
    assert validators.snd(z) == pytest.approx(stats.entropy(weights), rel=1e-9)


def test_nuclear_norm_is_numpys_and_at_most_one():
    z = logits(n=30, k=5)
    expected = np.linalg.norm(softmax(z), "nuc") / np.sqrt(30 * 5)
    assert validators.bnm(z) == pytest.approx(expected, rel=1e-12)
    # Certain and balanced: √(N·K) of N one-hot rows; all in one class: √N.
    assert validators.bnm(1e3 * np.tile(np.eye(5), (6, 1))) == pytest.approx(1.0)
    collapsed = 1e3 * np.tile(np.eye(5)[:1], (30, 1))
    assert validators.bnm(collapsed) == pytest.approx(1 / np.sqrt(5))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 12), st.integers(2, 6))
def test_criteria_are_bounded_and_independent_of_the_order(seed, n, k):
    z = logits(seed, n, k, 5.0)
    mixed = z[np.random.default_rng(seed).permutation(n)]
    tops = {"entropy": np.log(k), "snd": np.log(n - 1), "bnm": 1.0}
    for name, top in tops.items():
        value = getattr(validators, name)(z)
        assert -1e-9 <= value <= top + 1e-9
        assert getattr(validators, name)(mixed) == pytest.approx(value, abs=1e-9)


def test_criteria_of_infinite_outputs_are_nan():
    z = logits()
    z[3] = np.inf
    evidence = validators.Evidence(z, np.zeros(23, int), z, z, z, z)
    values = validators.measure("classification", evidence)
    assert all(np.isnan(values[n]) for n in ("entropy", "snd", "bnm", "iwv", "dev"))


def domains(seed=0, m=150, t=100, d=3, shift=0.8):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(m, d)), rng.normal(size=(t, d)) + shift * np.eye(d)[0]


def test_the_domain_classifier_is_scikit_learns():
    train, target = domains()
    points = np.random.default_rng(3).normal(size=(20, 3))
    both = np.concatenate([train, target])
    scaled = (both - both.mean(0)) / both.std(0)
    is_target = np.repeat([0, 1], [150, 100])
    model = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10)
    model.fit(scaled, is_target)
    p = model.predict_proba((points - both.mean(0)) / both.std(0))
    expected = 150 / 100 * p[:, 1] / p[:, 0]
    np.testing.assert_allclose(
        validators.density_ratio(train, target, points), expected, rtol=1e-5
    )


def test_the_density_ratio_of_two_gaussians_is_estimated():
    train, target = domains(m=20_000, t=10_000, shift=1.0)
    points = np.random.default_rng(4).normal(size=(50, 3))
    # N(e₁, 1) / N(0, 1) = exp(x₁ − ½).
    expected = np.exp(points[:, 0] - 0.5)
    ratio = validators.density_ratio(train, target, points)
    np.testing.assert_allclose(ratio, expected, rtol=0.2)


def test_many_features_and_separated_domains_stay_finite():
    train, target = domains(m=40, t=30, d=200, shift=50.0)
    ratio = validators.density_ratio(train, target, train[:10])
    assert np.isfinite(ratio).all()
    assert (ratio < 0.5).all()
    train[:, 5] = target[:, 5] = 1.0  # a constant feature
    assert np.isfinite(validators.density_ratio(train, target, train)).all()


def test_weighted_validation_and_its_control_variate():
    rng = np.random.default_rng(0)
    losses, weights = rng.exponential(size=40), rng.exponential(size=40)
    product = weights * losses
    assert validators.iwv(losses, weights) == pytest.approx(product.mean())
    both = np.cov(product, weights)  # ddof 1 in both, which cancels
    eta = -both[0, 1] / both[1, 1]
    expected = product.mean() + eta * weights.mean() - eta
    assert validators.dev(losses, weights) == pytest.approx(expected, rel=1e-12)
    assert validators.dev(losses, np.ones(40)) == pytest.approx(losses.mean())
    # With the control variate a constant loss is estimated exactly by any weights.
    assert validators.dev(np.full(40, 0.7), weights) == pytest.approx(0.7)


def test_the_control_variate_estimates_better():
    """DEV estimates the target's risk under covariate shift with less variance."""
    rng = np.random.default_rng(0)
    estimates = []
    for _ in range(300):
        x = rng.normal(size=200)
        weights = np.exp(x - 0.5)
        losses = 1.0 + 0.2 * np.sin(3 * x)
        estimates.append(
            (validators.iwv(losses, weights), validators.dev(losses, weights))
        )
    grid = rng.normal(size=200_000) + 1.0
    truth = np.mean(1.0 + 0.2 * np.sin(3 * grid))
    errors = np.square(np.array(estimates) - truth).mean(0)
    assert errors[1] < 0.25 * errors[0]


def test_example_losses_are_those_of_the_task():
    z, y = logits(), np.arange(23) % 4
    expected = log_loss(y, softmax(z), labels=range(4))
    ours = validators.example_losses("classification", z, y)
    assert ours.shape == (23,)
    assert ours.mean() == pytest.approx(expected, rel=1e-9)
    assert validators.example_losses("regression", z[:, :1], y)[2] == (z[2, 0] - 2) ** 2
    yes = (z > 0.3).astype(int)
    p = 1 / (1 + np.exp(-z))
    expected = -(yes * np.log(p) + (1 - yes) * np.log(1 - p)).mean(-1)
    np.testing.assert_allclose(
        validators.example_losses("multilabel", z, yes), expected, rtol=1e-9
    )


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
@pytest.mark.parametrize("source", [True, False])
@pytest.mark.parametrize("train", [True, False])
def test_names_are_those_that_are_measured(task, source, train):
    z = logits()
    y = {"classification": np.arange(23) % 4}.get(task, (z > 0).astype(float))
    evidence = validators.Evidence(
        z if source else None,
        y if source else None,
        z if source else None,
        z if source and train else None,
        z,
        z,
    )
    values = validators.measure(task, evidence)
    assert tuple(values) == validators.names(task, source=source, train=train)
    assert set(values) <= set(metrics.CRITERIA)
    if source:
        main = metrics.main_metric(task)
        expected = metrics.compute(task, z, y)[main]
        assert values[f"source_{main}"] == pytest.approx(expected)


def test_evidence_holds_no_label_of_the_target():
    fields = set(validators.Evidence._fields)
    sources = {"logits", "labels", "features", "train", "weights"}
    assert fields == sources | {"target", "target_features"}
    for name in ("entropy", "snd", "bnm"):
        assert "labels" not in inspect.signature(getattr(validators, name)).parameters


def test_directions():
    up = [n for n in metrics.CRITERIA if metrics.higher_is_better(n)]
    assert up == ["source_accuracy", "snd", "bnm"]
    assert not metrics.higher_is_better("val/entropy")
