"""Options of data sets: those that are not valid are named."""

import dataclasses

import numpy as np
import pytest

from jaxtl import data
from jaxtl.core.errors import UserError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels_per_class": 25}, "labels_per_class=25 .* '0' has 21"),
        ({"labels": 100}, "labels=100 is more than the 86"),
        ({"val": 0.001}, "data.val=0.001 of 96 train examples leaves an empty val"),
        ({"val": -1}, "data.val must be a fraction"),
        ({"test": 1.5}, "data.test must be a fraction"),
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
    y = np.repeat(np.arange(3), (30, 40, 50))
    x = np.arange(len(y), dtype=np.float32)[:, None]
    with pytest.raises(UserError, match=message):
        data.prepare(data.Arrays(x=x, y=y, **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels_per_class": 2}, "labels= counts labels in all"),
        ({"label_noise": 0.1}, "needs at least two classes"),
        ({"classes": (1,)}, "needs classification"),
    ],
)
def test_options_of_classes_are_refused_for_regression(options, message):
    arrays = data.Arrays(x=np.zeros((40, 2)), y=np.linspace(0, 1, 40), **options)
    with pytest.raises(UserError, match=message):
        data.prepare(arrays)


def test_data_sets_compare_and_hash_by_their_options():
    a = data.Digits(labels_per_class=3)
    assert a == data.Digits(labels_per_class=3)
    assert hash(dataclasses.replace(a, val=5)) != hash(a)
    assert data.Digits(classes=[1, 2]).classes == (1, 2)


@pytest.mark.parametrize("share", [0, 0.0])
def test_a_share_of_0_makes_no_split(share):
    arrays = data.Arrays(x=np.zeros((40, 2)), y=np.arange(40) % 2, val=share)
    rows = data.prepare(arrays).rows
    assert len(rows["train"]) + len(rows["test"]) == 40
