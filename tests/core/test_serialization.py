"""Snapshots: experiments with every kind of value come back from JSON as they were."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import optax
import pytest

import jaxtl as tl
from jaxtl.core import serialization
from jaxtl.core.errors import UserError
from jaxtl.core.types import FROZEN
from jaxtl.optim.optimizer import SGD, AdamW, Group
from jaxtl.terms.base import Term


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample(Term):
    """A term that holds anything."""

    inner: Any = None


def experiment(**changes):
    fields = {
        "model": tl.models.MLP(widths=(8, 4)),
        "data": tl.data.Digits(labels_per_class=5),
        "streams": {"source": tl.data.Digits(classes=(1, 2))},
        "terms": {"task": tl.losses.CrossEntropy(), "l2": Sample(inner=(0.1, 2))},
        "optim": AdamW(
            lr=tl.optim.Cosine(peak=1e-3, warmup=5),
            groups={
                "layer1": FROZEN,
                r".*/dense\.x|layer2": Group(lr=0.1),
                ".*": 1.0,
            },
        ),
    }
    return tl.Experiment(**{**fields, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optim": SGD(lr=math.inf, decay_to_source=0.1), "steps": 0},
        {"init": tl.pretrained.FromRun("runs/a", reset=("head",))},
        {"init": tl.Variant("source", per_seed=True)},
        {"batch": {"target": 3, "source": 4}, "monitor": None},
        {"preprocess": tl.data.Preprocess(scale=16.0, mean=(0.5,), std=(0.25,))},
        {"augment": (tl.data.Flip(), tl.data.Crop())},
        {"optim": tl.optim.Optax(make=optax.scale_by_lion)},
        {"terms": {"s": Sample(inner={"a.b": (1, None, FROZEN, "x", True)})}},
        {"terms": {"s": Sample(inner=(np.float32(0.5), np.int64(3)))}},
        {"model": tl.models.CNN(widths=(2,), norm=True, dropout=0.1)},
    ],
)
def test_snapshots_come_back(changes):
    before = experiment(**changes)
    text = json.dumps(serialization.to_json(before))
    after = serialization.from_json(json.loads(text))
    assert after == before
    assert after.optim.groups.keys() == before.optim.groups.keys()
    assert list(after.optim.groups) == list(before.optim.groups), "their order counts"


@pytest.mark.parametrize("held", [lambda: None, np.zeros(3), object()])
def test_what_json_cant_hold_says_so(held):
    stored = serialization.to_json(experiment(terms={"s": Sample(inner=held)}))
    with pytest.raises(UserError, match="only the program that made it has"):
        serialization.from_json(json.loads(json.dumps(stored)))


@pytest.mark.parametrize(
    "kind", ["jaxtl.gone:X", "jaxtl.optim.optimizer:Gone", "no_such:X"]
)
def test_classes_that_are_gone_are_named(kind):
    with pytest.raises(UserError, match=f"{kind!r}, which can't be imported"):
        serialization.from_json({"type": kind})


def test_fields_that_are_gone_are_named():
    with pytest.raises(UserError, match=r"this version's SGD.*'speed'"):
        serialization.from_json({"type": "jaxtl.optim.optimizer:SGD", "speed": 3})


def test_arrays_of_equal_shape_have_different_pictures():
    a, b = (serialization.to_json(np.full(3, v)) for v in (1.0, 2.0))
    assert a != b
    assert a["shape"] == [3]


@pytest.mark.parametrize(
    "data", [{"type": "map", "itels": []}, {"type": "map", "items": [1]}, {"tipe": "x"}]
)
def test_damaged_entries_are_told(data):
    with pytest.raises(UserError, match="the stored experiment is damaged"):
        serialization.from_json(data)
