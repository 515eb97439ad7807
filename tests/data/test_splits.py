"""Carving, labels, noise and the checks of what a source reads."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl import data as datasets
from jaxtl.core.errors import UserError
from jaxtl.data import splits
from jaxtl.data.preparation import clear_table_cache


def make(counts=(30, 40, 50), **options):
    """Arrays whose x is the row number, with a given number of rows per class."""
    y = np.repeat(np.arange(len(counts)), counts)
    x = np.arange(len(y), dtype=np.float32)[:, None]
    return datasets.Arrays(x=x, y=y, **options)


def prepared(seed=0, counts=(30, 40, 50), **options):
    return datasets.prepare(make(counts, **options), seed)


def per_class(dataset, split):
    return np.bincount(dataset.y_clean[dataset.rows[split]], minlength=dataset.outputs)


class_counts = st.lists(st.integers(12, 60), min_size=2, max_size=6)


@given(
    counts=class_counts,
    seed=st.integers(0, 2**40),
    val=st.one_of(st.floats(0.1, 0.4), st.integers(2, 8)),
    test=st.one_of(st.floats(0.1, 0.4), st.integers(2, 8)),
    labels=st.one_of(st.none(), st.integers(1, 2)),
)
@settings(max_examples=60, deadline=None)
def test_splits_are_disjoint_cover_all_and_stratified(counts, seed, val, test, labels):
    dataset = prepared(seed, counts, val=val, test=test, labels_per_class=labels)
    everything = np.concatenate(list(dataset.rows.values()))
    np.testing.assert_array_equal(np.sort(everything), np.arange(sum(counts)))
    left = np.asarray(counts)
    for split in ("test", "val"):
        taken = per_class(dataset, split)
        fair = left / left.sum() * taken.sum()
        assert (np.abs(taken - fair) < 1).all()
        left = left - taken
    if labels:
        assert (per_class(dataset, "train") == labels).all()


@given(seed=st.integers(0, 1000), counts=class_counts)
@settings(max_examples=25, deadline=None)
def test_fewer_labels_are_a_subset_and_leave_val_and_test(seed, counts):
    few, more = (prepared(seed, counts, labels_per_class=k) for k in (2, 5))
    full = prepared(seed, counts)
    assert set(few.rows["train"]) < set(more.rows["train"]) < set(full.rows["train"])
    for split in ("val", "test"):
        np.testing.assert_array_equal(few.rows[split], full.rows[split])
        np.testing.assert_array_equal(more.rows[split], full.rows[split])


@given(
    counts=st.lists(st.integers(0, 200), min_size=1, max_size=8).filter(any),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_apportion_stays_within_quota_and_never_takes_a_seat_back(counts, data):
    """The two laws of Balinski & Young's quota method."""
    total = data.draw(st.integers(0, sum(counts) - 1))
    seats = np.asarray(splits.apportion(tuple(counts), total))
    share = np.asarray(counts) * total / sum(counts)
    assert seats.sum() == total
    assert (np.floor(share) <= seats).all()
    assert (seats <= np.ceil(share)).all()
    more = np.asarray(splits.apportion(tuple(counts), total + 1))
    assert (more >= seats).all()


def test_total_labels_are_nested_too():
    sets = [set(prepared(labels=k).rows["train"]) for k in (3, 10, 31)]
    assert sets[0] < sets[1] < sets[2]
    assert [len(s) for s in sets] == [3, 10, 31]


def test_the_seed_decides_and_split_seed_overrides_it():
    a, b = prepared(0), prepared(1)
    assert (a.rows["test"] != b.rows["test"]).any()
    fixed = [prepared(seed, split_seed=5).rows["test"] for seed in (0, 1)]
    np.testing.assert_array_equal(*fixed)
    np.testing.assert_array_equal(fixed[0], prepared(5).rows["test"])


def test_seeds_share_test_and_val_under_a_split_seed_and_draw_their_own_labels():
    a, b = (prepared(seed, split_seed=5, labels_per_class=5) for seed in (0, 1))
    for split in ("test", "val"):
        np.testing.assert_array_equal(a.rows[split], b.rows[split])
    assert set(a.rows["train"]) != set(b.rows["train"])


def test_no_split_is_asked_for_by_zero():
    assert prepared(val=0, test=0).rows.keys() == {"train"}
    assert len(prepared(val=0, test=0).rows["train"]) == 120


def test_limit_is_stratified_and_comes_first():
    dataset = prepared(counts=(100, 200, 300), limit=60, test=0.2, val=0.1)
    sizes = {name: len(rows) for name, rows in dataset.rows.items()}
    assert sizes == {"test": 12, "val": 5, "train": 43}
    used = sum(per_class(dataset, split) for split in dataset.rows)
    np.testing.assert_array_equal(used, [10, 20, 30])


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.5, 1.0])
def test_label_noise_has_its_rate_and_never_the_own_class(noise):
    dataset = prepared(counts=(300, 300, 300), label_noise=noise)
    train = dataset.rows["train"]
    changed = dataset.y != dataset.y_clean
    assert changed.sum() == round(noise * len(train))
    assert changed[train].sum() == changed.sum()
    if noise == 1.0:
        shift = (dataset.y - dataset.y_clean)[train] % 3
        # Uniform over the two other classes: binomial, four standard deviations.
        assert abs((shift == 1).mean() - 0.5) < 4 * 0.5 / np.sqrt(len(train))


def test_noise_of_a_row_does_not_depend_on_how_many_labels_there_are():
    few = prepared(labels_per_class=5, label_noise=1.0)
    more = prepared(labels_per_class=15, label_noise=1.0)
    rows = few.rows["train"]
    np.testing.assert_array_equal(few.y[rows], more.y[rows])


def test_classes_are_a_subset_relabelled_in_the_given_order():
    dataset = datasets.prepare(datasets.Digits(classes=(8, "3")))
    original = datasets.prepare(datasets.Digits())
    assert dataset.class_names == ("8", "3")
    assert dataset.outputs == 2
    keep = np.isin(original.y, (3, 8))
    np.testing.assert_array_equal(dataset.x, original.x[keep])
    np.testing.assert_array_equal(dataset.y, (original.y[keep] == 3).astype(int))


def test_given_splits_are_used_and_follow_the_classes(tmp_path):
    path = tmp_path / "a.npz"
    rng = np.random.default_rng(0)
    y = {"train": np.arange(60) % 3, "test": np.arange(30) % 3, "val": np.arange(9) % 3}
    arrays = {f"y_{k}": v for k, v in y.items()}
    arrays |= {f"x_{k}": rng.normal(size=(len(v), 2)) for k, v in y.items()}
    np.savez(path, **arrays)
    dataset = datasets.prepare(datasets.Arrays(str(path), classes=(2, 0)))
    assert {k: len(v) for k, v in dataset.rows.items()} == {
        "train": 40,
        "val": 6,
        "test": 20,
    }
    wanted = arrays["x_test"][np.isin(y["test"], (0, 2))]
    np.testing.assert_array_equal(dataset.x[dataset.rows["test"]], wanted)


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


def test_fingerprint_sees_values_labels_and_shape():
    y = np.arange(40) % 2
    x = np.random.default_rng(0).normal(size=(40, 3))
    other = x.copy()
    other[0, 0] += 1
    prints = [
        datasets.prepare(datasets.Arrays(x=a, y=b)).fingerprint
        for a, b in ((x, y), (other, y), (x, 1 - y), (x[:, :2], y), (x.copy(), y))
    ]
    assert prints[0] == prints[4]
    assert len(set(prints)) == 4


def test_reading_happens_once_for_many_runs(monkeypatch):
    calls = []
    read = datasets.Digits.read
    monkeypatch.setattr(
        datasets.Digits, "read", lambda self: calls.append(1) or read(self)
    )
    clear_table_cache()
    for seed in range(3):
        a = datasets.prepare(datasets.Digits(labels_per_class=2 + seed), seed)
    b = datasets.prepare(datasets.Digits(val=50), 9)
    assert a.x is b.x
    assert len(calls) == 1
    datasets.prepare(datasets.Digits(size=4))
    assert len(calls) == 2


def test_sources_of_your_own_are_never_taken_for_each_other():
    def kind(**options):
        @dataclasses.dataclass(frozen=True, kw_only=True, **options)
        class Mine(datasets.Data):
            rows: np.ndarray

            def read(self):
                y = np.arange(len(self.rows)) % 2
                return datasets.Table(x=self.rows, y=y)

        return Mine

    for mine in (kind(), kind(eq=False)):
        for value in range(3):
            rows = np.full((10, 2), value, np.float32)
            np.testing.assert_array_equal(datasets.prepare(mine(rows=rows)).x, rows)


def test_an_edited_file_is_read_again(tmp_path):
    path = tmp_path / "a.npz"
    for count in (40, 80):
        np.savez(path, x=np.zeros((count, 2)), y=np.arange(count) % 2)
        assert len(datasets.prepare(datasets.Arrays(str(path))).y) == count


def test_regression_carves_and_counts_targets():
    x, y = np.zeros((50, 3)), np.linspace(0, 1, 50)
    dataset = datasets.prepare(datasets.Arrays(x=x, y=y, labels=10))
    assert dataset.task == "regression"
    assert (dataset.outputs, dataset.class_names) == (1, ())
    assert {k: len(v) for k, v in dataset.rows.items()} == {
        "test": 10,
        "val": 4,
        "train": 10,
        "unlabelled": 26,
    }
    two = datasets.Arrays(x=x, y=np.stack([y, y + 0.5], 1))
    assert datasets.prepare(two).outputs == 2


def test_multilabel_keeps_its_columns():
    y = np.eye(3)[np.arange(30) % 3]
    y[:, 0] = 1
    dataset = datasets.prepare(datasets.Arrays(x=np.zeros((30, 2)), y=y))
    assert (dataset.task, dataset.outputs) == ("multilabel", 3)
    assert dataset.y.dtype == np.float32


def bad_arrays():
    x, y = np.zeros((30, 2), np.float32), np.arange(30) % 3
    nan, fraction, infinite = x.copy(), y.astype(float), np.linspace(0, 1, 30)
    nan[7, 1] = np.nan
    nan[9] = np.inf
    fraction[4] = 0.5
    infinite[3] = np.inf
    negative = np.where(y == 1, -1, y)
    classes = {"task": "classification"}
    return [
        ({"x": x[:-1], "y": y}, "x has 29 examples, but y has 30"),
        ({"x": nan, "y": y}, "x has 3 NaN or infinite values, the first in row 7"),
        ({"x": x, "y": infinite}, "y has 1 NaN or infinite values, the first in row 3"),
        ({"x": x, "y": fraction, **classes}, "whole numbers; 1 rows .* row 4 with 0.5"),
        ({"x": x, "y": negative}, "must not be negative; 10 rows .* row 1 with -1"),
        ({"x": x, "y": y, "class_names": ("a", "b")}, "below 2, .* row 2 with 2"),
        ({"x": x, "y": y, "class_names": ("a", "b", "a")}, "'a' comes twice"),
        ({"x": x, "y": y * 10**6}, "if y is a number to predict"),
        ({"x": x, "y": y, "task": "clasification"}, "did you mean 'classification'"),
        ({"x": x, "y": np.eye(3)[y] * 2, "task": "multilabel"}, "must be 0 or 1"),
        ({"x": x[:0], "y": y[:0]}, "no examples"),
        ({"x": x.astype(str), "y": y}, "must be numbers"),
        ({"x": x, "y": y, "classes": ("0", "7")}, "there is no class '7'"),
        ({"x": x, "y": y, "size": 8}, "concern images"),
    ]


@pytest.mark.parametrize(("options", "message"), bad_arrays())
def test_bad_data_are_told_in_one_sentence(options, message):
    with pytest.raises(UserError, match=message):
        datasets.prepare(datasets.Arrays(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels_per_class": 25}, "labels_per_class=25 .* '0' has 21"),
        ({"labels": 100}, "labels=100 is more than the 86"),
        ({"val": 0.001}, "data.val=0.001 of 96 train examples leaves an empty val"),
        ({"val": -1}, "data.val must be a fraction"),
        ({"test": 1.0}, "data.test must be a fraction"),
        ({"test": 120}, "data.test=120 asks for 120 of 120"),
        ({"labels": 5, "labels_per_class": 5}, "exclude each other"),
        ({"labels_per_class": -1}, "labels_per_class must be a whole number"),
        ({"limit": 2.5}, "limit must be a whole number"),
        ({"label_noise": 1.5}, "label_noise must be a fraction"),
        ({"split_seed": -3}, "split_seed must be"),
        ({"classes": (0, 0)}, "names a class twice"),
        ({"classes": (0, "0")}, "names a class twice"),
        ({"channels": 2}, "channels must be 1"),
        ({"size": 0}, "size must be"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        prepared(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels_per_class": 2}, "labels= counts labels in all"),
        ({"label_noise": 0.1}, "needs at least two classes"),
        ({"classes": (1,)}, "needs classification"),
    ],
)
def test_options_of_classes_are_refused_for_regression(options, message):
    arrays = datasets.Arrays(x=np.zeros((40, 2)), y=np.linspace(0, 1, 40), **options)
    with pytest.raises(UserError, match=message):
        datasets.prepare(arrays)


def test_unknown_class_names_the_nearest():
    y = np.asarray(["cat", "dog", "horse"] * 10)
    arrays = datasets.Arrays(x=np.zeros((30, 1)), y=y, classes=("cat", "hoarse"))
    with pytest.raises(UserError, match="'hoarse'; did you mean 'horse'"):
        datasets.prepare(arrays)


def test_prepare_says_what_is_no_data_set():
    with pytest.raises(UserError, match="must be a data set such as Digits"):
        datasets.prepare("mnist")


def test_options_are_values():
    a = datasets.Digits(labels_per_class=3)
    assert a == datasets.Digits(labels_per_class=3)
    assert hash(dataclasses.replace(a, val=5)) != hash(a)
    assert datasets.Digits(classes=[1, 2]).classes == (1, 2)
