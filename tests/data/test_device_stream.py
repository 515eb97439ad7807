"""Streams on the device give the rows of the order, and share memory and programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import data
from jaxtl.core.errors import UserError
from jaxtl.data import device_stream, sampler

batch_at_step = jax.jit(device_stream.batch_at_step, static_argnums=3)


@pytest.fixture(scope="module")
def digits():
    """The digits with 10 noisy labels per class: 100 labelled train rows."""
    return data.prepare(data.Digits(labels_per_class=10, label_noise=0.2), 0)


def test_batches_are_the_rows_of_the_order(digits):
    stream = device_stream.from_split(digits)
    batch = batch_at_step(stream, 5, 3, 32)
    rows = digits.rows["train"][sampler.indices(5, 3, 32, 100)]
    np.testing.assert_array_equal(batch["x"], digits.x[rows])
    np.testing.assert_array_equal(batch["y"], digits.y[rows])
    assert batch["x"].dtype == np.uint8


def test_rows_drawn_ahead_are_the_rows_of_the_order(digits):
    # 100 rows: the first and the last step lie within an epoch.
    stream = device_stream.from_split(digits)
    stream = device_stream.with_drawn_rows(stream, jnp.uint32(5), 7, 24, 9)
    for step in range(7, 16):
        expected = digits.rows["train"][sampler.indices(5, step, 24, 100)]
        batch = device_stream.batch_at_step(stream, 5, step, 24)
        np.testing.assert_array_equal(batch["row"], expected)


def test_splits_share_x_and_one_program(digits):
    traces = []

    def counted(stream, seed, step):
        traces.append(1)
        return device_stream.batch_at_step(stream, seed, step, 24)

    splits = ("train", "unlabelled", "val")
    streams = [device_stream.from_split(digits, split) for split in splits]
    assert streams[0].x is streams[1].x is streams[2].x
    compiled = jax.jit(counted)
    for stream in streams:
        compiled(stream, jnp.uint32(0), jnp.int32(0))
    assert len(traces) == 1


def test_an_array_that_changes_is_put_on_the_device_again():
    x, y = np.zeros((20, 3), np.float32), np.arange(20) % 2
    old = device_stream.from_split(data.prepare(data.Arrays(x=x, y=y)))
    x[:] = np.arange(60).reshape(20, 3)
    new = device_stream.from_split(data.prepare(data.Arrays(x=x, y=y)))
    np.testing.assert_array_equal(new.x, x)
    assert new.x is not old.x


def test_a_dict_of_arrays_streams_as_well():
    class Tokens(data.Data):
        def read(self):
            ids = np.arange(120).reshape(40, 3)
            x = {"ids": ids, "mask": ids > 5}
            return data.Table(x=x, y=np.arange(40) % 2)

    dataset = data.prepare(Tokens())
    assert dataset.example_shape == {"ids": (3,), "mask": (3,)}
    assert dataset.nbytes == 40 * 3 * 8 + 40 * 3
    batch = batch_at_step(device_stream.from_split(dataset), 0, 0, 8)
    np.testing.assert_array_equal(batch["x"]["mask"], batch["x"]["ids"] > 5)


def test_the_error_for_an_unknown_split_names_the_nearest(digits):
    with pytest.raises(UserError, match="'unlabeled'; did you mean 'unlabelled'"):
        device_stream.from_split(digits, "unlabeled")


def test_fits_counts_the_bytes_of_x_and_y(digits):
    size = 1797 * 64 + 1797 * 4
    assert device_stream.fits(digits, size)
    assert not device_stream.fits(digits, size - 1)
