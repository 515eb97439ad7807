"""Batches of episodes, and splits of which none shares a class."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxtl as tl
from jaxtl.data import class_splits, description, device_stream, host_stream, sampler

SIZES = (9, 5, 7, 30, 5, 12, 6, 8)


def _data(sizes=SIZES, val=0, test=0, **options):
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    x = np.arange(len(y), dtype=np.float32)[:, None]
    shape = {"ways": 3, "shots": 2, "queries": 3, "tasks": 2, **options}
    sampling = tl.data.Episodes(**shape)
    return tl.data.Arrays(x=x, y=y, val=val, test=test, sampling=sampling)


def test_a_batch_is_laid_out_by_episode_class_and_shot():
    dataset = tl.data.prepare(_data())
    stream = device_stream.from_split(dataset)
    stream = device_stream.with_drawn_rows(stream, 7, 0, 30, 20)
    for step in range(20):
        batch = device_stream.batch_at_step(stream, 7, step, 30)
        labels = dataset.y[np.asarray(batch["row"])].reshape(2, 3, 5)
        assert (labels == labels[:, :, :1]).all()
        assert all(len(set(task)) == 3 for task in labels[:, :, 0])
        assert len(set(np.asarray(batch["row"][:15]))) == 15
        places = np.broadcast_to(np.arange(3)[:, None], (2, 3, 5))
        np.testing.assert_array_equal(batch["y"].reshape(2, 3, 5), places)
        np.testing.assert_array_equal(batch["x"][:, 0], batch["row"])


def test_device_and_host_draw_the_same_episodes():
    pytest.importorskip("grain")
    dataset = tl.data.prepare(_data())
    stream = device_stream.from_split(dataset)
    drawn = device_stream.with_drawn_rows(stream, 5, 2, 30, 3)
    host = host_stream.batches(dataset, "train", 5, 30, start_step=2)
    for step in (2, 3, 4):
        expected = next(host)
        for source in (stream, drawn) if step == 2 else (drawn,):
            batch = device_stream.batch_at_step(source, 5, step, 30)
            for name in ("row", "y"):
                np.testing.assert_array_equal(batch[name], expected[name])


def test_classes_pairs_and_rows_are_drawn_alike():
    """χ² of 12,000 episodes stays below the 99.99 % quantile of its distribution."""
    from scipy import stats

    sizes, count = np.array([5, 9, 4, 7], np.int32), 12_000
    rows = sampler.episode_indices(3, 0, count * 4, sizes, 2, 2).reshape(count, 2, 2)
    labels = np.repeat(np.arange(4), sizes)[rows]
    ordered = labels[:, 0, 0] * 4 + labels[:, 1, 0]
    pairs = [a * 4 + b for a, b in itertools.permutations(range(4), 2)]
    for values, options in (
        (ordered, pairs),
        *(
            (rows[labels == k], np.flatnonzero(labels_of == k))
            for k, labels_of in ((k, np.repeat(np.arange(4), sizes)) for k in range(4))
        ),
    ):
        observed = np.array([(values == option).sum() for option in options])
        assert observed.sum() == values.size
        expected = values.size / len(options)
        statistic = np.square(observed - expected).sum() / expected
        assert statistic < stats.chi2.ppf(0.9999, len(options) - 1)


@given(st.integers(0, 50), st.integers(3, 9), st.integers(0, 4), st.integers(3, 5))
def test_no_two_splits_share_a_class(seed, val, test, train):
    count = val + train + (test if test > 2 else 0)
    data = _data((5,) * count, val=val, test=test if test > 2 else 0)
    dataset = tl.data.prepare(data, seed)
    classes = {n: set(dataset.y[rows]) for n, rows in dataset.rows.items()}
    assert sum(map(len, classes.values())) == count == len(set.union(*classes.values()))
    assert len(classes["val"]) == val
    again = tl.data.prepare(dataclasses.replace(data, split_seed=seed), seed + 1)
    for name, rows in dataset.rows.items():
        np.testing.assert_array_equal(rows, again.rows[name])


def test_classes_of_one_split_are_not_missed_in_the_others():
    dataset = tl.data.prepare(_data(val=4))
    assert "has the class" not in "; ".join(description.lines_of(dataset))


def test_classes_of_a_split_can_be_named():
    dataset = tl.data.prepare(
        _data(val_classes=("1", "3", "5"), test_classes=(0, 2, 4), ways=2)
    )
    assert set(dataset.y[dataset.rows["val"]]) == {1, 3, 5}
    assert set(dataset.y[dataset.rows["test"]]) == {0, 2, 4}
    assert set(dataset.y[dataset.rows["train"]]) == {6, 7}


def test_evaluation_episodes_are_of_the_split_and_always_the_same():
    dataset = tl.data.prepare(_data(val=4, val_episodes=30))
    rows = class_splits.evaluation_episodes(dataset, "val")
    assert rows.shape == (30, 3, 5)
    assert set(rows.ravel()) <= set(dataset.rows["val"])
    np.testing.assert_array_equal(
        rows, class_splits.evaluation_episodes(dataset, "val")
    )
    assert all(len(set(task.ravel())) == 15 for task in rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": 9}, "in the split 'train', ways=9: there are 8 classes"),
        ({"val": 2}, "in the split 'val', ways=3: there are 2 classes"),
        ({"shots": 4}, "class '1' has 5 examples; 4 shots and 3 queries need 7"),
        (
            {"val_classes": ("1", "2", "3"), "test_classes": ("3", "4", "5")},
            r"val and test overlap in 1 classes \('3'\)",
        ),
        ({"val_classes": ("x",)}, "data.sampling.val_classes: there is no class 'x'"),
        ({"shots": 0}, "data.sampling.shots=0: expected a whole number of at least 1"),
        ({"ways": 1}, "data.sampling.ways=1: expected a whole number of at least 2"),
    ],
)
def test_episodes_that_cannot_be_drawn(options, message):
    with pytest.raises(tl.UserError, match=message):
        tl.data.prepare(_data(**options))


@pytest.mark.parametrize(
    "option",
    [{"labels_per_class": 3}, {"labels": 9}, {"limit": 9}, {"label_noise": 0.1}],
)
def test_options_about_rows_are_refused(option):
    [name] = option
    with pytest.raises(tl.UserError, match=rf"data\.{name}=.*data\.sampling=Episodes"):
        dataclasses.replace(_data(), **option)


def test_own_splits_must_not_share_a_class(tmp_path):
    from PIL import Image

    for split, classes in (("train", "abc"), ("val", "cde")):
        for name in classes:
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(5):
                Image.new("L", (4, 4), i).save(tmp_path / split / name / f"{i}.png")
    sampling = tl.data.Episodes(ways=2, shots=1, queries=1)
    data = tl.data.ImageFolder(path=str(tmp_path), sampling=sampling, test=0)
    with pytest.raises(
        tl.UserError, match=r"val and train overlap in 1 classes \('c'\)"
    ):
        tl.data.prepare(data)
