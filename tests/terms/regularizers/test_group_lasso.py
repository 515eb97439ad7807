"""Group-Lasso-SP against loops in numpy, and its gradient where groups rest at θ₀."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.models import Llama
from jaxtl.terms.context import View
from jaxtl.terms.regularizers import GroupLassoSP
from jaxtl.terms.regularizers.group_lasso import group_lasso


def _by_loop(gap, axis):
    total = 0.0
    for i in range(gap.shape[axis]):
        group = np.take(np.asarray(gap, np.float64), i, axis)
        total += np.sqrt(group.size) * np.sqrt(np.sum(group**2))
    return total


@pytest.mark.parametrize("shape", [(5,), (4, 3), (3, 3, 2, 5)])
@pytest.mark.parametrize("axis", [0, -1])
def test_it_is_the_sum_over_groups(shape, axis):
    a, b = np.random.default_rng(0).normal(size=(2, *shape))
    found = group_lasso(jnp.asarray(a), jnp.asarray(b), axis)
    np.testing.assert_allclose(found, _by_loop(a - b, axis), rtol=1e-5)


def test_a_scalar_is_a_group_of_one():
    assert group_lasso(jnp.float32(3.0), jnp.float32(5.0)) == 2.0


def test_the_gradient_is_the_direction_and_0_for_groups_at_rest():
    start = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    gap = np.zeros((4, 3), np.float32)
    gap[:, 1] = [3.0, 0.0, 4.0, 0.0]
    grad = jax.grad(group_lasso)(jnp.asarray(start + gap), jnp.asarray(start))
    expected = np.zeros((4, 3))
    expected[:, 1] = 2.0 * np.array([0.6, 0.0, 0.8, 0.0])  # √4 times a unit vector
    np.testing.assert_allclose(grad, expected, atol=1e-5)
    curved = jax.jvp(jax.grad(group_lasso), (start, start), (start, start))
    assert np.isfinite(curved).all()


def test_groups_are_output_units(bench):
    room = bench()
    gaps = jax.tree.map(lambda a, b: a - b, room.params, room.source.params)
    expected = sum(_by_loop(np.asarray(g), -1) for g in jax.tree.leaves(gaps))
    value = GroupLassoSP()(View(room.context(), "term", 0))
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_rows_of_an_embedding_table_are_groups(bench):
    model = Llama(vocab=11, width=8, layers=1, heads=2, hidden=8, context=16)
    room = bench("language", model)
    term = GroupLassoSP(select="embeddings")
    table = room.params["embeddings"]["token"]["embedding"]
    gap = table - room.source.params["embeddings"]["token"]["embedding"]
    expected = _by_loop(np.asarray(gap), 0)
    value = term(View(room.context(), "term", 0))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
