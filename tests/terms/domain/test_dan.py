"""MMD and DAN against double loops, scikit-learn's kernel, and MMD's laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import rbf_kernel

from jaxtl.core.errors import UserError
from jaxtl.core.types import vectors
from jaxtl.terms.context import View
from jaxtl.terms.domain import DAN, mmd
from jaxtl.terms.domain.dan import MULTIPLIERS


def _domains(n=6, m=8, d=3, shift=0.7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), shift + 1.3 * rng.normal(size=(m, d))


def _mean_distance(z):
    distances = [np.sum((a - b) ** 2) for i, a in enumerate(z) for b in z[:i]]
    return np.mean(distances)


def _kernel(x, y, gammas):
    return np.mean([np.exp(-np.sum((x - y) ** 2) / g) for g in gammas])


def _double_loop(s, t, gammas, estimator):
    def mean(a, b, same):
        total, count = 0.0, 0
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                if not (same and i == j and estimator == "unbiased"):
                    total, count = total + _kernel(x, y, gammas), count + 1
        return total / count

    return mean(s, s, True) + mean(t, t, True) - 2 * mean(s, t, False)


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("sizes", [(6, 8), (5, 5), (2, 3)])
def test_every_pair_once_as_in_the_double_loop(estimator, sizes):
    s, t = _domains(*sizes)
    gammas = np.asarray(MULTIPLIERS) * _mean_distance(np.concatenate([s, t]))
    expected = _double_loop(s, t, gammas, estimator)
    actual = mmd(jnp.float32(s), jnp.float32(t), estimator=estimator)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def test_a_given_bandwidth_is_scikit_learns_gamma():
    s, t = _domains()
    expected = 0.0
    for width in (0.5, 3.0):
        k = [rbf_kernel(a, b, gamma=1 / width) for a, b in ((s, s), (t, t), (s, t))]
        expected += 0.5 * (k[0].mean() + k[1].mean() - 2 * k[2].mean())
    actual = mmd(jnp.float32(s), jnp.float32(t), bandwidths=(0.5, 3.0))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_the_linear_estimate_takes_each_example_once():
    s, t = _domains(9, 9)
    gammas, total = np.asarray([0.5, 3.0]), 0.0
    for i in range(4):  # the ninth has no neighbor
        a, b, c, d = s[2 * i], s[2 * i + 1], t[2 * i], t[2 * i + 1]
        total += _kernel(a, b, gammas) + _kernel(c, d, gammas)
        total -= _kernel(a, d, gammas) + _kernel(b, c, gammas)
    actual = mmd(jnp.float32(s), jnp.float32(t), bandwidths=gammas, estimator="linear")
    np.testing.assert_allclose(actual, total / 4, rtol=1e-5)


def test_unbiased_and_linear_estimates_average_to_the_closed_form():
    # For N(0, 1), N(μ, 1): E exp(−(x − y)²/γ) = √(γ/(γ+4)) exp(−μ²/(γ+4)).
    gamma, shift, rng = 2.0, 1.0, np.random.default_rng(0)
    scale = np.sqrt(gamma / (gamma + 4))
    expected = 2 * scale * (1 - np.exp(-(shift**2) / (gamma + 4)))
    s, t = rng.normal(size=(2, 2000, 20, 1)) + np.array([0, shift])[:, None, None, None]
    for estimator, tight in (("unbiased", 1.0), ("linear", 1.0), ("biased", 0.0)):

        def estimate(a, b, estimator=estimator):
            return mmd(a, b, bandwidths=(gamma,), estimator=estimator)

        values = np.asarray(jax.vmap(estimate)(jnp.float32(s), jnp.float32(t)))
        deviation = (values.mean() - expected) / (values.std() / np.sqrt(len(values)))
        assert abs(deviation) < 4 if tight else deviation > 10


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.floats(0.01, 100), st.floats(-50, 50))
def test_biased_mmd_is_a_distance_and_knows_no_origin(seed, scale, place):
    s, t = (jnp.float32(scale * x) for x in _domains(4, 4, seed=seed))
    value = mmd(s, t)
    assert value > -1e-6
    np.testing.assert_allclose(mmd(t, s), value, atol=1e-5)
    np.testing.assert_allclose(mmd(s, s), 0.0, atol=1e-5)
    # The bank follows the data's scale; a shift changes no distance.
    np.testing.assert_allclose(
        mmd(s + scale * place, t + scale * place), value, atol=2e-4
    )


def test_its_gradient_is_that_of_finite_differences_at_held_bandwidths():
    s, t = _domains(4, 5)
    gammas = np.asarray(MULTIPLIERS) * _mean_distance(np.concatenate([s, t]))
    actual = jax.grad(lambda s: mmd(s, jnp.float32(t)))(jnp.float32(s))
    for index in ((0, 0), (3, 2)):
        step = np.zeros_like(s)
        step[index] = 1e-5
        up, down = (_double_loop(s + e, t, gammas, "biased") for e in (step, -step))
        np.testing.assert_allclose(actual[index], (up - down) / 2e-5, rtol=1e-3)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_collapsed_features_give_0_and_no_large_gradient(offset):
    x, y = jnp.full((4, 3), offset), jnp.full((5, 3), offset)
    value, grad = jax.value_and_grad(lambda s: mmd(s, y))(x)
    np.testing.assert_allclose(value, 0.0, atol=1e-5)
    assert jnp.max(jnp.abs(grad)) < 1.0  # false for NaN as well


def test_batches_of_one():
    a, b = jnp.zeros((1, 3)), jnp.ones((1, 3))
    # One pair: its distance is the mean distance.
    expected = 2 - 2 * np.mean(np.exp(-1 / np.asarray(MULTIPLIERS)))
    np.testing.assert_allclose(mmd(a, b), expected, rtol=1e-5)
    with pytest.raises(UserError, match="at least 2 examples"):
        mmd(a, b, estimator="unbiased")


def test_the_term_sums_over_stages(bench):
    harness = bench()
    term = DAN(stages=("layer1", "head"), multipliers=(0.5, 1.0))
    term.check(harness.setup)
    context = harness.context()
    expected = sum(
        mmd(
            *(vectors(context.forward(s).features[stage]) for s in term.streams),
            multipliers=(0.5, 1.0),
        )
        for stage in ("layer1", "head")
    )
    value = term(View(context, "term", 0))
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_errors(bench):
    setup = bench().setup
    for fields, message in (
        ({"multipliers": ()}, "multipliers=.*at least one width"),
        ({"multipliers": (1.0, 0.0)}, r"multipliers\.1=0\.0: expected .* above 0"),
        ({"bandwidths": (0.0,)}, r"bandwidths\.0=0\.0"),
        ({"bandwidths": ()}, "bandwidths="),
        ({"estimator": "unbaised"}, "did you mean 'unbiased'"),
        ({"stages": ()}, "stages"),
        ({"stages": ("layer_1",)}, "did you mean 'layer1'"),
        ({"target": "unlabeled"}, "did you mean 'unlabelled'"),
    ):
        with pytest.raises(UserError, match=message):
            DAN(**fields).check(setup)
    a, b = jnp.zeros((4, 2)), jnp.ones((3, 2))
    for fields, message in (
        ({"bandwidths": (0.0,)}, "above 0, got 0.0"),
        ({"multipliers": ()}, "leaves no kernel"),
        ({"estimator": "linear"}, "of one size, got 4 and 3"),
        ({"estimator": "fast"}, "unknown"),
    ):
        with pytest.raises(UserError, match=message):
            mmd(a, b, **fields)
