"""Splits, labels and label noise: sizes, nesting, seeds, and their file."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl import data
from jaxtl.core.errors import UserError
from jaxtl.data import splits


def prepared(seed=0, counts=(30, 40, 50), **options):
    """A data set whose x is the row number, with given numbers of rows per class."""
    y = np.repeat(np.arange(len(counts)), counts)
    x = np.arange(len(y), dtype=np.float32)[:, None]
    return data.prepare(data.Arrays(x=x, y=y, **options), seed)


def per_class(dataset, split):
    return np.bincount(dataset.y_clean[dataset.rows[split]], minlength=dataset.outputs)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data())
def test_splits_lie_one_after_the_other(lengths, draw):
    names = ["train", "val", "test"][: len(lengths)]
    owner = [name for name, n in zip(names, lengths) for _ in range(n)]
    kept = draw.draw(st.sets(st.integers(0, len(owner) - 1), min_size=1))
    for read in (None, np.array(sorted(kept))):
        of_rows = owner if read is None else [owner[i] for i in read]
        rows = splits.consecutive(dict(zip(names, lengths)), read)
        assert {name: part.tolist() for name, part in rows.items()} == {
            name: [i for i, split in enumerate(of_rows) if split == name]
            for name in names
        }


class_counts = st.lists(st.integers(12, 60), min_size=2, max_size=6)


@given(
    counts=class_counts,
    seed=st.integers(0, 2**40),
    val=st.one_of(st.floats(0.1, 0.4), st.integers(2, 8)),
    test=st.one_of(st.floats(0.1, 0.4), st.integers(2, 8)),
    labels=st.one_of(st.none(), st.integers(1, 2)),
)
@settings(max_examples=60, deadline=None)
def test_splits_are_disjoint_complete_and_stratified(counts, seed, val, test, labels):
    dataset = prepared(seed, counts, val=val, test=test, labels_per_class=labels)
    everything = np.concatenate(list(dataset.rows.values()))
    np.testing.assert_array_equal(np.sort(everything), np.arange(sum(counts)))
    remaining = np.asarray(counts)
    for split in ("test", "val"):
        sizes = per_class(dataset, split)
        quota = remaining / remaining.sum() * sizes.sum()
        assert (np.abs(sizes - quota) < 1).all()
        remaining = remaining - sizes
    if labels:
        assert (per_class(dataset, "train") == labels).all()


@given(seed=st.integers(0, 1000), counts=class_counts)
@settings(max_examples=25, deadline=None)
def test_fewer_labels_are_a_subset_and_do_not_change_val_and_test(seed, counts):
    few, more = (prepared(seed, counts, labels_per_class=k) for k in (2, 5))
    full = prepared(seed, counts)
    assert set(few.rows["train"]) < set(more.rows["train"]) < set(full.rows["train"])
    for split in ("val", "test"):
        np.testing.assert_array_equal(few.rows[split], full.rows[split])
        np.testing.assert_array_equal(more.rows[split], full.rows[split])


@given(
    counts=st.lists(st.integers(0, 200), min_size=1, max_size=8).filter(any),
    drawn=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_apportion_stays_within_quota_and_is_monotone(counts, drawn):
    """The two laws of Balinski & Young's quota method."""
    total = drawn.draw(st.integers(0, sum(counts) - 1))
    seats = np.asarray(splits.apportion(tuple(counts), total))
    share = np.asarray(counts) * total / sum(counts)
    assert seats.sum() == total
    assert (np.floor(share) <= seats).all()
    assert (seats <= np.ceil(share)).all()
    more = np.asarray(splits.apportion(tuple(counts), total + 1))
    assert (more >= seats).all()


def test_label_sets_of_a_total_number_are_nested():
    row_sets = [set(prepared(labels=k).rows["train"]) for k in (3, 10, 31)]
    assert row_sets[0] < row_sets[1] < row_sets[2]
    assert [len(rows) for rows in row_sets] == [3, 10, 31]


def test_the_seed_decides_and_split_seed_overrides_it():
    a, b = prepared(0), prepared(1)
    assert (a.rows["test"] != b.rows["test"]).any()
    fixed = [prepared(seed, split_seed=5).rows["test"] for seed in (0, 1)]
    np.testing.assert_array_equal(*fixed)
    np.testing.assert_array_equal(fixed[0], prepared(5).rows["test"])


def test_seeds_share_test_and_val_with_a_split_seed_but_not_their_labels():
    a, b = (prepared(seed, split_seed=5, labels_per_class=5) for seed in (0, 1))
    for split in ("test", "val"):
        np.testing.assert_array_equal(a.rows[split], b.rows[split])
    assert set(a.rows["train"]) != set(b.rows["train"])


def test_zero_gives_no_split():
    assert prepared(val=0, test=0).rows.keys() == {"train"}
    assert len(prepared(val=0, test=0).rows["train"]) == 120


def test_limit_is_stratified_and_comes_first():
    dataset = prepared(counts=(100, 200, 300), limit=60, test=0.2, val=0.1)
    sizes = {name: len(rows) for name, rows in dataset.rows.items()}
    assert sizes == {"test": 12, "val": 5, "train": 43}
    used = sum(per_class(dataset, split) for split in dataset.rows)
    np.testing.assert_array_equal(used, [10, 20, 30])


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.5, 1.0])
def test_label_noise_has_its_rate_and_changes_every_noisy_label(noise):
    dataset = prepared(counts=(300, 300, 300), label_noise=noise)
    train = dataset.rows["train"]
    changed = dataset.y != dataset.y_clean
    assert changed.sum() == round(noise * len(train))
    assert changed[train].sum() == changed.sum()
    if noise == 1.0:
        shift = (dataset.y - dataset.y_clean)[train] % 3
        # Uniform over the two other classes: binomial, four standard deviations.
        assert abs((shift == 1).mean() - 0.5) < 4 * 0.5 / np.sqrt(len(train))


def test_noise_of_a_row_does_not_depend_on_the_number_of_labels():
    few = prepared(labels_per_class=5, label_noise=1.0)
    more = prepared(labels_per_class=15, label_noise=1.0)
    rows = few.rows["train"]
    np.testing.assert_array_equal(few.y[rows], more.y[rows])


def test_splits_round_trip_with_noise_and_refuse_other_data(tmp_path):
    path = tmp_path / "splits.npz"
    dataset = prepared(3, labels_per_class=5, label_noise=0.4)
    splits.save_splits(path, dataset)
    again = splits.load_splits(path, prepared(99))
    assert again.rows.keys() == dataset.rows.keys()
    for name, rows in dataset.rows.items():
        np.testing.assert_array_equal(again.rows[name], rows)
    np.testing.assert_array_equal(again.y, dataset.y)
    with pytest.raises(UserError, match="splits of other data"):
        splits.load_splits(path, prepared(counts=(30, 40, 51)))
    with pytest.raises(UserError, match="no splits file"):
        splits.load_splits(tmp_path / "none.npz", dataset)


def test_regression_is_split_and_its_targets_are_counted():
    x, y = np.zeros((50, 3)), np.linspace(0, 1, 50)
    dataset = data.prepare(data.Arrays(x=x, y=y, labels=10))
    assert dataset.task == "regression"
    assert (dataset.outputs, dataset.class_names) == (1, ())
    assert {k: len(v) for k, v in dataset.rows.items()} == {
        "test": 10,
        "val": 4,
        "train": 10,
        "unlabelled": 26,
    }
    two = data.Arrays(x=x, y=np.stack([y, y + 0.5], 1))
    assert data.prepare(two).outputs == 2
