"""Embedding tables: rows, and gradients that half precision does not cut short."""

import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtl
from jaxtl.models.layers.embedding import look_up


@pytest.mark.parametrize("rows", [2, 50], ids=["product", "gather"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_are_those_of_the_table(rows, dtype):
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(rows, 8)), dtype)
    ids = rng.integers(0, rows, (3, 5))
    out = look_up(table, jnp.asarray(ids))
    assert out.dtype == table.dtype
    np.testing.assert_array_equal(out, np.asarray(table)[ids])


@pytest.mark.parametrize("rows", [2, 50], ids=["product", "gather"])
def test_the_gradient_is_summed_in_float32(rows):
    # Added one by one in bfloat16, 16,384 ones are 256.
    ids = jnp.zeros(16_384, jnp.int32)

    def loss(table):
        return jnp.sum(look_up(table.astype(jnp.bfloat16), ids).astype(jnp.float32))

    gradient = jax.grad(loss)(jnp.ones((rows, 4)))
    np.testing.assert_array_equal(gradient[0], np.full(4, 16_384.0))
    assert not gradient[1:].any()


def test_no_model_uses_the_table_of_flax():
    assert issubclass(jaxtl.models.layers.embedding.Embed, nn.Embed)
    for path in (pathlib.Path(jaxtl.__file__).parent / "models").rglob("*.py"):
        if path.name != "embedding.py":
            assert "nn.Embed(" not in path.read_text(), path.name
