"""Batch spectral shrinkage against numpy's singular values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core.errors import UserError
from jaxtl.terms.context import View
from jaxtl.terms.regularizers import SpectralShrinkage
from jaxtl.terms.regularizers.bss import spectral_shrinkage


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
@pytest.mark.parametrize("smallest", [1, 3])
def test_it_is_numpys_smallest_singular_values_squared(shape, smallest):
    features = np.random.default_rng(0).normal(size=shape)
    expected = np.sum(np.linalg.svd(features)[1][-smallest:] ** 2)
    found = jax.jit(spectral_shrinkage, static_argnums=1)(
        jnp.asarray(features, jnp.float32), smallest
    )
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_its_gradient_is_a_finite_difference():
    rng = np.random.default_rng(1)
    features, along = rng.normal(size=(2, 6, 4))

    def value(t):
        return np.linalg.svd(features + t * along)[1][-1] ** 2

    expected = (value(1e-5) - value(-1e-5)) / 2e-5
    grad = jax.grad(spectral_shrinkage)(jnp.asarray(features, jnp.float32))
    np.testing.assert_allclose(np.sum(np.asarray(grad) * along), expected, rtol=1e-3)


def test_equal_features_have_nothing_to_shrink_and_a_finite_gradient():
    features = jnp.ones((4, 3))
    value, grad = jax.value_and_grad(spectral_shrinkage)(features)
    assert value == pytest.approx(0.0, abs=1e-5)
    assert np.isfinite(grad).all()


def test_it_reads_the_last_stage_before_the_head(bench):
    room = bench()
    term = SpectralShrinkage()
    term.check(room.setup)
    context = room.context()
    features = np.asarray(context.forward().features["layer1"], np.float64)
    expected = np.linalg.svd(features)[1][-1] ** 2
    value = term(View(context, "term", 0))
    np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-5)


def test_an_unknown_stage_is_named(bench):
    with pytest.raises(UserError, match="did you mean 'layer1'"):
        SpectralShrinkage(stage="layer_1").check(bench().setup)
