"""The fusion barrier: an identity under every transformation, in CPU programs alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core import compilation
from jaxtl.models.layers.fusion_barrier import fusion_barrier

pytestmark = pytest.mark.usefixtures("all_optimizations")


def residual(x, weights, between):
    """A residual stream of tanh layers with a function between them."""
    for w in weights:
        x = between(x + jnp.tanh(x @ w))
    return x


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.normal(size=(4, 8, 8)), jnp.float32)
    return jnp.asarray(rng.normal(size=(3, 8)), jnp.float32), weights


def test_it_is_an_identity_under_every_transformation():
    x, dx = jnp.array([1.0, -2.0]), jnp.array([3.0, 4.0])

    def cube(x):
        return fusion_barrier(fusion_barrier(x) ** 3)

    assert fusion_barrier(x).tolist() == x.tolist()
    value, slope = jax.jvp(cube, (x,), (dx,))
    assert value.tolist() == [1.0, -8.0]
    assert slope.tolist() == [9.0, 48.0]  # 3 x² dx
    assert jax.grad(lambda x: cube(x).sum())(x).tolist() == [3.0, 12.0]
    assert jnp.diag(jax.hessian(lambda x: cube(x).sum())(x)).tolist() == [6.0, -12.0]
    assert jax.vmap(cube)(x).tolist() == [1.0, -8.0]
    assert jax.checkpoint(cube)(x).tolist() == [1.0, -8.0]


def test_leaves_that_are_no_floats_pass():
    tree = {"mask": jnp.array([True, False]), "ids": jnp.arange(2), "x": jnp.ones(2)}
    for key, value in fusion_barrier(tree).items():
        assert value.dtype == tree[key].dtype
        assert value.tolist() == tree[key].tolist()


def test_only_programs_for_cpus_contain_it(case):
    traced = jax.jit(jax.grad(lambda x, w: residual(x, w, fusion_barrier).sum())).trace(
        *case
    )
    count = {
        platform: traced.lower(lowering_platforms=(platform,))
        .as_text()
        .count("optimization_barrier")
        for platform in ("cpu", "cuda", "tpu")
    }
    assert count["cpu"] >= 4
    assert count["cuda"] == count["tpu"] == 0


def test_the_gradient_of_a_residual_stream_is_computed_once(case):
    def flops(between):
        grad = jax.grad(lambda x, w: (residual(x, w, between) ** 2).sum(), (0, 1))
        built = jax.jit(grad).lower(*case).compile(compilation.options("cpu"))
        return built.cost_analysis()["flops"]

    if jax.default_backend() == "cpu":
        assert flops(fusion_barrier) < flops(lambda x: x)
