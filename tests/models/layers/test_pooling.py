"""Gradients of maxima in compiled code, against their closed form in numpy."""

import jax
import numpy as np
import pytest

from jaxtl.core.types import Tokens
from jaxtl.models.layers import pooling, sequences

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 36, 8)).astype(np.float32)
SCALE, BIAS = RNG.normal(size=(2, 8)).astype(np.float32)
WEIGHT = RNG.normal(size=(6, 8)).astype(np.float32)
LENGTHS = np.arange(31, 37)


def of_images(y):
    return pooling.global_max_pool(y.reshape(6, 6, 6, 8))


def of_texts(y):
    return sequences.max_state(Tokens(y, np.arange(36) < LENGTHS[:, None]))


@pytest.mark.parametrize(("pool", "is_padded"), [(of_images, False), (of_texts, True)])
def test_maxima_behind_an_activation_have_the_gradient_of_their_places(pool, is_padded):
    y = (X - BIAS) * SCALE * 1.3 + BIAS
    if is_padded:
        y[np.arange(36) >= LENGTHS[:, None]] = -np.inf
    shares = WEIGHT * (y.max(1) > 0)
    places = np.take_along_axis(X, y.argmax(1)[:, None], 1)[:, 0]

    def loss(scale, bias):
        y = jax.nn.relu((X - bias) * scale * 1.3 + bias)
        return (pool(y) * WEIGHT).sum()

    got = jax.jit(jax.grad(loss, (0, 1)))(SCALE, BIAS)
    of_scale = (shares * (places - BIAS) * 1.3).sum(0)
    np.testing.assert_allclose(got[0], of_scale, rtol=1e-5, atol=1e-5)
    of_bias = shares.sum(0) * (1 - 1.3 * SCALE)
    np.testing.assert_allclose(got[1], of_bias, rtol=1e-5, atol=1e-5)
