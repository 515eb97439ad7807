"""BSP against numpy's svd, AFN's norms against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import models
from jaxtl.core.errors import UserError
from jaxtl.terms import domain
from jaxtl.terms.context import View
from jaxtl.terms.domain import AFN, BSP
from jaxtl.terms.domain.afn import hard_norm_loss, norms, stepwise_norm_loss
from jaxtl.terms.domain.bsp import spectral_penalty


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
@pytest.mark.parametrize("largest", [1, 3])
def test_the_penalty_is_svds_with_its_gradient(shape, largest):
    f = np.random.default_rng(0).normal(size=shape)
    u, s, vt = np.linalg.svd(f, full_matrices=False)
    value, grad = jax.value_and_grad(spectral_penalty)(jnp.float32(f), largest)
    np.testing.assert_allclose(value, (s[:largest] ** 2).sum(), rtol=1e-5)
    expected = 2 * (u[:, :largest] * s[:largest]) @ vt[:largest]
    np.testing.assert_allclose(grad, expected, atol=1e-4)


def test_the_penalty_of_batches_without_a_direction_is_finite():
    for f in (jnp.zeros((4, 3)), jnp.eye(3), jnp.ones((1, 5)), jnp.ones((4, 3))):
        value, grad = jax.value_and_grad(spectral_penalty)(f)
        np.testing.assert_allclose(value, np.linalg.norm(f, 2) ** 2, rtol=1e-5)
        assert jnp.all(jnp.isfinite(grad))


def test_more_values_than_there_are_count_once():
    f = jnp.float32(np.random.default_rng(0).normal(size=(3, 5)))
    np.testing.assert_allclose(spectral_penalty(f, 9), jnp.sum(f**2), rtol=1e-5)


def test_norms_and_both_losses_by_loops():
    f = np.random.default_rng(0).normal(size=(5, 4))
    sizes = [np.sqrt(sum(v * v for v in row)) for row in f]
    actual = norms(jnp.float32(f))
    np.testing.assert_allclose(actual, sizes, rtol=1e-6)
    expected = (sum(sizes) / 5 - 25.0) ** 2
    np.testing.assert_allclose(hard_norm_loss(actual, 25.0), expected, rtol=1e-5)

    value, grad = jax.value_and_grad(lambda f: stepwise_norm_loss(norms(f), 0.5))(
        jnp.float32(f)
    )
    np.testing.assert_allclose(value, 0.25, rtol=1e-4)
    # d/df of (‖f‖ − c)² at ‖f‖ − c = −Δr.
    direction = f / np.asarray(sizes)[:, None]
    np.testing.assert_allclose(grad, -2 * 0.5 * direction / 5, rtol=1e-4)


def test_a_feature_of_zeros_has_a_finite_gradient():
    grad = jax.grad(lambda f: hard_norm_loss(norms(f), 25.0))(jnp.zeros((3, 4)))
    np.testing.assert_array_equal(grad, 0.0)


def _features(harness, name):
    out = harness.network.apply(
        harness.params, harness.stats, harness.batches[name]["x"]
    )
    return np.float64(out.features["layer1"])


def test_terms_read_both_domains(bench):
    harness = bench()
    s, t = _features(harness, "source"), _features(harness, "unlabelled")
    term = BSP(largest=2)
    term.check(harness.setup)
    value = term(View(harness.context(), "term", 0))
    both = [(np.linalg.svd(f)[1][:2] ** 2).sum() for f in (s, t)]
    np.testing.assert_allclose(value, sum(both), rtol=1e-4)
    term = AFN(radius=10.0)
    term.check(harness.setup)
    value, extra = term(View(harness.context(), "term", 0))
    sizes = [np.linalg.norm(f, axis=1) for f in (s, t)]
    expected = np.mean([(x.mean() - 10.0) ** 2 for x in sizes])
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    actual = [extra["source_norm"], extra["target_norm"]]
    np.testing.assert_allclose(actual, [x.mean() for x in sizes], rtol=1e-5)


def test_steps_of_afn_let_norms_grow(bench):
    harness = bench()

    @jax.jit
    def both(params):
        value, extra = AFN()(View(harness.context(params), "term", 0))
        return value, extra["target_norm"]

    step = jax.jit(jax.grad(both, has_aux=True))
    params, mean_norms = harness.params, []
    for _ in range(5):
        grads, size = step(params)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        mean_norms.append(float(size))
    assert np.all(np.diff(mean_norms) > 0)


def test_features_of_maps_are_flattened(bench):
    harness = bench(model=models.MLP(outputs=3, widths=(8, 4)))
    for cls in (BSP, AFN):
        cls(stage="layer1").check(harness.setup)
        with pytest.raises(UserError, match="did you mean 'layer1'"):
            cls(stage="layer_1").check(harness.setup)


def test_errors(bench):
    setup = bench().setup
    for term, message in (
        (BSP(largest=0), "largest=0"),
        (AFN(step=0.0), r"step=0\.0: expected a number above 0"),
        (AFN(radius=-1.0), "radius=-1.0"),
        (AFN(source="sauce"), "did you mean 'source'"),
    ):
        with pytest.raises(UserError, match=message):
            term.check(setup)
    assert set(domain.__all__) >= {"AFN", "BSP"}
