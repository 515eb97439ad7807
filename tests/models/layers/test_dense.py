"""Dense layers and broadcast parameters: values, and gradients in half precision."""

import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtl
from jaxtl.models.layers.dense import Dense, broadcast


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_has_the_parameters_and_outputs_of_flax(dtype, use_bias):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 5)), dtype)
    ours, theirs = Dense(4, use_bias=use_bias), nn.Dense(4, use_bias=use_bias)
    params = theirs.init(jax.random.key(0), x)
    same = ours.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, same, params)
    params = jax.tree.map(lambda w: (w + 0.5).astype(dtype), params)
    out = ours.apply(params, x)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, theirs.apply(params, x))


def test_the_gradient_is_summed_in_float32():
    # Reduced in bfloat16, 16,384 ones are 8,192 on a CPU.
    def loss(bias):
        repeated = broadcast(bias.astype(jnp.bfloat16), (128, 128, 4))
        return jnp.sum(repeated.astype(jnp.float32))

    gradient = jax.jit(jax.grad(loss))(jnp.ones(4))
    np.testing.assert_array_equal(gradient, np.full(4, 16_384.0))


def test_no_model_uses_the_dense_layer_of_flax():
    for path in (pathlib.Path(jaxtl.__file__).parent / "models").rglob("*.py"):
        if path.name not in ("dense.py", "staged.py"):
            assert "nn.Dense(" not in path.read_text(), path.name
