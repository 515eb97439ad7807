"""Dropout of whole channels in CNN's last block, as torch's Dropout2d."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.models import CNN

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(5, 6, 6, 2)), jnp.float32)
FIELDS = {
    "outputs": 3,
    "widths": (4, 40),
    "units": 6,
    "kernel": 1,
    "pool": 0,
    "activation": "identity",
}


def _blocks(rate, train):
    network = CNN(**FIELDS, channel_dropout=rate).pure()
    params, stats = network.init(jax.random.key(0), IMAGES)
    train = network.stages if train else ()
    out = network.apply(params, stats, IMAGES, train=train, key=jax.random.key(1))
    return out.features["block1"], out.features["block2"]


def test_a_channel_of_an_example_is_dropped_as_a_whole_in_training_alone():
    _, plain = _blocks(0.0, train=True)
    first, dropped = _blocks(0.25, train=True)
    kept = np.any(np.asarray(dropped) != 0, axis=(1, 2))  # (5, 40)
    expected = np.asarray(plain) * kept[:, None, None, :] / 0.75
    np.testing.assert_allclose(dropped, expected, rtol=1e-5)
    assert 0.6 < kept.mean() < 0.9  # 200 draws of 0.75: within 5 standard errors
    assert len({tuple(row) for row in kept}) == 5  # each example draws its own
    np.testing.assert_array_equal(first, _blocks(0.0, train=False)[0])
    np.testing.assert_array_equal(_blocks(0.25, train=False)[1], plain)
