"""Streams on the host give the batches of the device, in threads and in processes."""

import sys

import jax
import numpy as np
import pytest

from jaxtl import data
from jaxtl.core.errors import UserError
from jaxtl.data import device_stream, host_stream, lazy_array


@pytest.fixture(scope="module")
def digits():
    """The digits with 10 noisy labels per class: 100 labelled train rows."""
    return data.prepare(data.Digits(labels_per_class=10, label_noise=0.2), 0)


def test_device_and_host_give_equal_batches(digits):
    pytest.importorskip("grain")
    batch_at_step = jax.jit(device_stream.batch_at_step, static_argnums=3)
    stream = device_stream.from_split(digits)
    host_batches = host_stream.batches(digits, "train", 7, 16, start_step=4)
    for step in range(4, 20):
        on_device, on_host = batch_at_step(stream, 7, step, 16), next(host_batches)
        np.testing.assert_array_equal(on_device["x"], on_host["x"])
        np.testing.assert_array_equal(on_device["y"], on_host["y"])


def test_worker_processes_keep_the_order(tmp_path):
    pytest.importorskip("grain")
    x = np.random.default_rng(0).normal(size=(200, 6, 6)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.arange(200) % 4)
    arrays = data.Arrays(
        str(tmp_path / "x.npy"), labels_path=str(tmp_path / "y.npy"), memory_limit=100
    )
    dataset = data.prepare(arrays)
    assert lazy_array.is_lazy(dataset.x)
    threads = host_stream.batches(dataset, "train", 1, 8)
    processes = host_stream.batches(dataset, "train", 1, 8, workers=2)
    for _ in range(6):
        expected, batch = next(threads), next(processes)
        np.testing.assert_array_equal(batch["x"], expected["x"])
        np.testing.assert_array_equal(batch["y"], expected["y"])


def test_the_error_without_grain_names_the_package(digits, monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(UserError, match="jaxtl\\[grain\\]"):
        next(host_stream.batches(digits, "train", 0, 4))
