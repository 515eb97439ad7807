"""The minima of balancers against scipy's, with more tasks than dimensions as well."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxtl.terms.multitask import cagrad, mgda

SHAPES = [(2, 6), (3, 2), (5, 4), (8, 3), (6, 40)]  # tasks, dimensions


def _grams(shape, count=20):
    """Gram matrices of trace 1 of gradients whose lengths differ up to 30 times."""
    rng = np.random.default_rng(shape)
    gradients = rng.normal(size=(count, *shape))
    gradients *= 10 ** rng.uniform(-0.75, 0.75, (count, shape[0], 1))
    grams = np.einsum("ntd,nsd->nts", gradients, gradients)
    return grams / np.trace(grams, axis1=1, axis2=2)[:, None, None]


def _least(function, count):
    """The least value over the simplex, by scipy from several starts."""
    starts = np.random.default_rng(0).dirichlet(np.ones(count), 4)
    total = {"type": "eq", "fun": lambda v: v.sum() - 1}
    return min(
        scipy.optimize.minimize(
            function,
            start,
            method="SLSQP",
            bounds=[(0, 1)] * count,
            constraints=total,
            options={"ftol": 1e-14, "maxiter": 500},
        ).fun
        for start in starts
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("precise", [True, False])
def test_the_norm_of_mgda_is_the_least(shape, precise):
    grams = _grams(shape)
    with jax.enable_x64(precise):
        weights = np.asarray(jax.jit(jax.vmap(mgda.mgda_weights))(jnp.asarray(grams)))
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    for gram, v in zip(grams, weights.astype(np.float64), strict=True):
        least = _least(lambda v, gram=gram: v @ gram @ v, len(gram))
        assert v @ gram @ v <= least + (1e-9 if precise else 1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("c", [0.2, 0.8])
def test_the_point_of_cagrad_is_the_least(shape, c):
    def objective(v, gram):
        mean = gram.mean(1)
        return v @ mean + c * np.sqrt(max(mean.mean() * (v @ gram @ v), 0))

    grams = _grams(shape)
    with jax.enable_x64(True):
        weights = np.asarray(
            jax.jit(jax.vmap(lambda gram: cagrad.cagrad_weights(gram, c)))(grams)
        )
    assert np.isfinite(weights).all()
    for gram, w in zip(grams, weights, strict=True):
        if not w.any():  # stationary: no v has a smaller norm
            assert _least(lambda v, gram=gram: v @ gram @ v, len(gram)) < 1e-8
            continue
        v = w - 1 / len(gram)
        v = v / v.sum()
        least = _least(lambda v, gram=gram: objective(v, gram), len(gram))
        assert objective(v, gram) <= least + 1e-8


def test_gradients_that_are_not_finite_have_no_weights():
    assert jnp.isnan(cagrad.cagrad_weights(jnp.full((2, 2), jnp.nan), 0.5)).all()
