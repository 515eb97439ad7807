"""Cosine-SP against numpy: the mean over leaves, blind to lengths, safe at zero."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl.terms.context import View
from jaxtl.terms.regularizers import CosineSP
from jaxtl.terms.regularizers.cosine import cosine_distance


def _by_numpy(a, b):
    a, b = (np.asarray(x, np.float64).ravel() for x in (a, b))
    return 1.0 - a @ b / np.sqrt((a @ a) * (b @ b))


@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3))
@settings(max_examples=20, deadline=None)
def test_one_minus_the_cosine_at_any_length(seed, scale):
    a, b = np.random.default_rng(seed).normal(size=(2, 4, 3)).astype(np.float32)
    expected = _by_numpy(a, b)
    np.testing.assert_allclose(cosine_distance(a, b), expected, atol=1e-6)
    np.testing.assert_allclose(cosine_distance(scale * a, b), expected, atol=1e-6)
    np.testing.assert_allclose(cosine_distance(a, -a), 2.0, atol=1e-6)


def test_the_gradient_is_a_finite_difference_and_across_the_vector():
    rng = np.random.default_rng(0)
    a, b, along = rng.normal(size=(3, 4, 3))
    slope = _by_numpy(a + 1e-6 * along, b) - _by_numpy(a - 1e-6 * along, b)
    grad = np.asarray(jax.grad(cosine_distance)(jnp.asarray(a), jnp.asarray(b)))
    np.testing.assert_allclose(np.sum(grad * along), slope / 2e-6, rtol=1e-4)
    np.testing.assert_allclose(np.sum(grad * a), 0.0, atol=1e-6)


def test_a_zero_vector_has_no_direction_to_keep():
    zero, some = jnp.zeros(3), jnp.ones(3)
    for a, b in ((zero, some), (some, zero), (zero, zero)):
        value, grad = jax.value_and_grad(cosine_distance)(a, b)
        assert value == 0
        assert np.all(np.asarray(grad) == 0)


def test_it_is_precise_near_the_source():
    a = np.array([1.0, 0.0], np.float32)
    angle = 1e-4
    b = np.array([np.cos(angle), np.sin(angle)], np.float32)
    # 1 − cos in float32 would be 0 or 6e-8.
    np.testing.assert_allclose(cosine_distance(a, b), angle**2 / 2, rtol=1e-3)


def test_the_term_is_the_mean_over_leaves(bench):
    room = bench()
    pairs = zip(jax.tree.leaves(room.params), jax.tree.leaves(room.source.params))
    # The biases of θ₀ are zero vectors.
    each = [_by_numpy(a, b) if np.any(b) else 0.0 for a, b in pairs]
    value = CosineSP()(View(room.context(), "term", 0))
    np.testing.assert_allclose(value, np.mean(each), rtol=1e-4)
