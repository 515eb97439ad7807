"""Batches in which classes have other shares than in the data."""

import numpy as np
import pytest

import jaxtl as tl
from jaxtl.data import device_stream, host_stream, sampler, streams


def _dataset(sizes, **options):
    y = np.repeat(np.arange(len(sizes)), sizes)
    x = np.arange(len(y), dtype=np.float32)[:, None]
    data = tl.data.Arrays(x=x, y=y, val=0, test=0, **options)
    return tl.data.prepare(data)


SIZES = (40, 7, 3)


@pytest.mark.parametrize(
    ("sampling", "seats"),
    [("balanced", (40, 40, 40)), ("square_root", (40, 17, 11))],  # √(40·7), √(40·3)
)
def test_an_epoch_has_the_shares_and_every_row_in_turn(sampling, seats):
    dataset = _dataset(SIZES, sampling=sampling)
    rows, sizes, per_class = streams.sampled_rows(dataset, "train")
    np.testing.assert_array_equal(sizes, SIZES)
    np.testing.assert_array_equal(per_class, seats)
    total = sum(seats)
    visits = np.zeros(len(rows), int)
    for epoch in range(12):
        index = sampler.class_indices(3, epoch, total, sizes, per_class)
        labels = dataset.y[rows[index]]
        np.testing.assert_array_equal(np.bincount(labels), seats)
        visits += np.bincount(rows[index], minlength=len(rows))
    for label, (size, seat) in enumerate(zip(SIZES, seats)):
        of_class = visits[dataset.y == label]
        assert of_class.max() - of_class.min() <= 1
        assert of_class.sum() == 12 * seat, size


def test_device_and_host_draw_the_same_rows():
    pytest.importorskip("grain")
    dataset = _dataset(SIZES, sampling="balanced")
    stream = device_stream.from_split(dataset)
    drawn = device_stream.with_drawn_rows(stream, 5, 2, 16, 3)
    host = host_stream.batches(dataset, "train", 5, 16, start_step=2)
    for step in (2, 3, 4):
        expected = next(host)["row"]
        for source in (stream, drawn):
            batch = device_stream.batch_at_step(source, 5, step, 16)
            np.testing.assert_array_equal(batch["row"], expected)
            np.testing.assert_array_equal(batch["y"], dataset.y[expected])


def test_uniform_batches_stay():
    dataset = _dataset(SIZES)
    rows, sizes, seats = streams.sampled_rows(dataset, "train")
    assert sizes is None
    assert seats is None
    np.testing.assert_array_equal(rows, dataset.rows["train"])


def test_errors_name_the_option():
    with pytest.raises(tl.UserError, match="did you mean 'balanced'"):
        _dataset(SIZES, sampling="balance")
    x = np.zeros((9, 1), np.float32)
    data = tl.data.Arrays(x=x, y=np.linspace(0, 1, 9), sampling="balanced")
    with pytest.raises(tl.UserError, match="the task is regression"):
        tl.data.prepare(data)
