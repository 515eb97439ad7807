"""Preparation: classes, splits of the data, fingerprints, and tables read only once."""

import dataclasses

import numpy as np
import pytest

from jaxtl import data
from jaxtl.core.errors import UserError
from jaxtl.data.preparation import clear_table_cache


def test_classes_are_a_subset_renumbered_in_the_given_order():
    dataset = data.prepare(data.Digits(classes=(8, "3")))
    original = data.prepare(data.Digits())
    assert dataset.class_names == ("8", "3")
    assert dataset.outputs == 2
    rows = np.isin(original.y, (3, 8))
    np.testing.assert_array_equal(dataset.x, original.x[rows])
    np.testing.assert_array_equal(dataset.y, (original.y[rows] == 3).astype(int))


def test_splits_of_the_data_are_used_and_restricted_to_the_classes(tmp_path):
    path = tmp_path / "a.npz"
    rng = np.random.default_rng(0)
    y = {"train": np.arange(60) % 3, "test": np.arange(30) % 3, "val": np.arange(9) % 3}
    arrays = {f"y_{k}": v for k, v in y.items()}
    arrays |= {f"x_{k}": rng.normal(size=(len(v), 2)) for k, v in y.items()}
    np.savez(path, **arrays)
    dataset = data.prepare(data.Arrays(str(path), classes=(2, 0)))
    assert {k: len(v) for k, v in dataset.rows.items()} == {
        "train": 40,
        "val": 6,
        "test": 20,
    }
    expected = arrays["x_test"][np.isin(y["test"], (0, 2))]
    np.testing.assert_array_equal(dataset.x[dataset.rows["test"]], expected)


def test_the_fingerprint_depends_on_values_labels_and_shape():
    y = np.arange(40) % 2
    x = np.random.default_rng(0).normal(size=(40, 3))
    changed = x.copy()
    changed[0, 0] += 1
    fingerprints = [
        data.prepare(data.Arrays(x=a, y=b)).fingerprint
        for a, b in ((x, y), (changed, y), (x, 1 - y), (x[:, :2], y), (x.copy(), y))
    ]
    assert fingerprints[0] == fingerprints[4]
    assert len(set(fingerprints)) == 4


def test_runs_of_other_seeds_and_splits_share_one_table(monkeypatch):
    calls = []
    read = data.Digits.read
    monkeypatch.setattr(data.Digits, "read", lambda self: calls.append(1) or read(self))
    clear_table_cache()
    for seed in range(3):
        a = data.prepare(data.Digits(labels_per_class=2 + seed), seed)
    b = data.prepare(data.Digits(val=50), 9)
    assert a.x is b.x
    assert len(calls) == 1
    data.prepare(data.Digits(size=4))
    assert len(calls) == 2


def test_sources_that_cannot_be_compared_are_read_each_time():
    def source_class(**options):
        @dataclasses.dataclass(frozen=True, kw_only=True, **options)
        class Rows(data.Data):
            rows: np.ndarray

            def read(self):
                y = np.arange(len(self.rows)) % 2
                return data.Table(x=self.rows, y=y)

        return Rows

    for source in (source_class(), source_class(eq=False)):
        for value in range(3):
            rows = np.full((10, 2), value, np.float32)
            np.testing.assert_array_equal(data.prepare(source(rows=rows)).x, rows)


def test_an_edited_file_is_read_again(tmp_path):
    path = tmp_path / "a.npz"
    for count in (40, 80):
        np.savez(path, x=np.zeros((count, 2)), y=np.arange(count) % 2)
        assert len(data.prepare(data.Arrays(str(path))).y) == count


def test_multilabel_targets_have_an_output_per_column():
    y = np.eye(3)[np.arange(30) % 3]
    y[:, 0] = 1
    dataset = data.prepare(data.Arrays(x=np.zeros((30, 2)), y=y))
    assert (dataset.task, dataset.outputs) == ("multilabel", 3)
    assert dataset.y.dtype == np.float32


def test_the_error_for_an_unknown_class_names_the_nearest():
    y = np.asarray(["cat", "dog", "horse"] * 10)
    arrays = data.Arrays(x=np.zeros((30, 1)), y=y, classes=("cat", "hoarse"))
    with pytest.raises(UserError, match="'hoarse'; did you mean 'horse'"):
        data.prepare(arrays)


def test_prepare_refuses_a_value_that_is_no_data_set():
    with pytest.raises(UserError, match="must be a data set such as Digits"):
        data.prepare("mnist")
