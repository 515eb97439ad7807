"""Streams: device and host give the same batches; evaluation counts each row once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl import data as datasets
from jaxtl.core.errors import UserError
from jaxtl.data import device_stream, host_stream, lazy_array, sampler, streams

take = jax.jit(device_stream.batch_at_step, static_argnums=3)


@pytest.fixture(scope="module")
def digits():
    return datasets.prepare(datasets.Digits(labels_per_class=10, label_noise=0.2), 0)


def test_device_batches_are_the_rows_of_the_order(digits):
    stream = device_stream.from_split(digits)
    batch = take(stream, 5, 3, 32)
    rows = digits.rows["train"][sampler.indices(5, 3, 32, 100)]
    np.testing.assert_array_equal(batch["x"], digits.x[rows])
    np.testing.assert_array_equal(batch["y"], digits.y[rows])
    assert batch["x"].dtype == np.uint8


def test_rows_drawn_ahead_are_the_rows_of_the_order(digits):
    # 100 rows: the steps drawn begin and end within an epoch.
    stream = device_stream.with_drawn_rows(
        device_stream.from_split(digits), jnp.uint32(5), 7, 24, 9
    )
    for step in range(7, 16):
        rows = digits.rows["train"][sampler.indices(5, step, 24, 100)]
        np.testing.assert_array_equal(
            device_stream.rows_at_step(stream, 5, step, 24), rows
        )


def test_splits_share_x_and_one_program(digits):
    parts = [
        device_stream.from_split(digits, s) for s in ("train", "unlabelled", "val")
    ]
    assert parts[0].x is parts[1].x is parts[2].x
    before = take._cache_size()
    for part in parts:
        take(part, jnp.uint32(0), jnp.int32(0), 24)
    assert take._cache_size() == before + 1


def test_device_and_host_agree(digits):
    pytest.importorskip("grain")
    stream = device_stream.from_split(digits)
    host = host_stream.batches(digits, "train", 7, 16, start_step=4)
    for step in range(4, 20):
        a, b = take(stream, 7, step, 16), next(host)
        np.testing.assert_array_equal(a["x"], b["x"])
        np.testing.assert_array_equal(a["y"], b["y"])


def test_worker_processes_keep_the_order(tmp_path):
    pytest.importorskip("grain")
    x = np.random.default_rng(0).normal(size=(200, 6, 6)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.arange(200) % 4)
    arrays = datasets.Arrays(
        str(tmp_path / "x.npy"), labels_path=str(tmp_path / "y.npy"), memory_limit=100
    )
    dataset = datasets.prepare(arrays)
    assert lazy_array.is_lazy(dataset.x)
    alone = host_stream.batches(dataset, "train", 1, 8)
    worked = host_stream.batches(dataset, "train", 1, 8, workers=2)
    for _ in range(6):
        a, b = next(alone), next(worked)
        np.testing.assert_array_equal(a["x"], b["x"])
        np.testing.assert_array_equal(a["y"], b["y"])


def test_a_dict_of_arrays_streams_as_well():
    class Text(datasets.Data):
        def read(self):
            ids = np.arange(120).reshape(40, 3)
            x = {"ids": ids, "mask": ids > 5}
            return datasets.Table(x=x, y=np.arange(40) % 2)

    dataset = datasets.prepare(Text())
    assert dataset.example_shape == {"ids": (3,), "mask": (3,)}
    assert dataset.nbytes == 40 * 3 * 8 + 40 * 3
    batch = take(device_stream.from_split(dataset), 0, 0, 8)
    np.testing.assert_array_equal(batch["x"]["mask"], batch["x"]["ids"] > 5)


def test_missing_grain_is_told(digits, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "grain", None)
    with pytest.raises(UserError, match="jaxtl\\[grain\\]"):
        next(host_stream.batches(digits, "train", 0, 4))


def test_missing_split_names_the_nearest(digits):
    with pytest.raises(UserError, match="'unlabeled'; did you mean 'unlabelled'"):
        device_stream.from_split(digits, "unlabeled")


@given(n=st.integers(1, 60), batch=st.integers(1, 70))
@settings(max_examples=50, deadline=None)
def test_evaluation_weights_give_the_plain_mean(n, batch):
    values = np.random.default_rng(n).normal(size=200)
    rows = np.random.default_rng(batch).permutation(200)[:n]
    index, weights = streams.evaluation_batches(rows, batch)
    assert index.shape == weights.shape == (-(-n // batch), batch)
    mean = (values[index] * weights).sum() / weights.sum()
    np.testing.assert_allclose(mean, values[rows].mean(), rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(index[weights > 0], rows)


def test_evaluation_needs_rows():
    with pytest.raises(UserError, match="split is empty"):
        streams.evaluation_batches([], 4)


def test_fits_counts_x_and_y(digits):
    size = 1797 * 64 + 1797 * 4
    assert device_stream.fits(digits, size)
    assert not device_stream.fits(digits, size - 1)


def test_sample_holds_each_class(digits):
    sample = datasets.sample(digits, "unlabelled", per_class=3)
    np.testing.assert_array_equal(sample["y"], np.repeat(np.arange(10), 3))
    np.testing.assert_array_equal(sample["x"], digits.x[sample["rows"]])
    assert set(sample["rows"]) <= set(digits.rows["unlabelled"])


def test_views_and_chains_index_like_numpy(tmp_path):
    values = np.arange(60).reshape(20, 3)
    np.save(tmp_path / "a.npy", values)
    mapped = lazy_array.MemoryMapped(str(tmp_path / "a.npy"))
    view = lazy_array.RowSelection(mapped, np.asarray([4, 2, 9]))
    chain = lazy_array.Concatenation((mapped, view))
    whole = np.concatenate([values, values[[4, 2, 9]]])
    for array, plain in ((mapped, values), (view, values[[4, 2, 9]]), (chain, whole)):
        assert array.shape == plain.shape
        assert len(array) == len(plain)
        np.testing.assert_array_equal(array[:], plain)
        index = np.asarray([[0, 2], [1, 1]])
        np.testing.assert_array_equal(array[index], plain[index])
        np.testing.assert_array_equal(array[1], plain[1])
        mask = np.arange(len(plain)) % 2 == 0
        np.testing.assert_array_equal(array[mask], plain[mask])
