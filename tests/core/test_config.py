"""Configuration: overrides, snapshots, and numbers taken out and put back."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxtl as tl
from jaxtl.core import config
from jaxtl.core.config import traced
from jaxtl.core.errors import UserError
from jaxtl.core.types import FROZEN
from jaxtl.optim.optimizer import SGD, AdamW, Group
from jaxtl.optim.schedules import Schedule
from jaxtl.terms.base import Term


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample(Term):
    """A term with a field of every kind."""

    rate: float = traced(0.5)
    maybe: float | None = traced(None)
    count: int = 3
    flag: bool = False
    fixed: float = 2.0
    name: str = "plain"
    mode: Literal["mean", "sum"] = "mean"
    rows: tuple[float, ...] = traced(())
    widths: tuple[int, ...] = (1, 2)
    parts: Mapping[str, float] = traced({})
    inner: Any = None


def experiment(**changes):
    fields = {
        "model": tl.models.MLP(widths=(8, 4)),
        "data": tl.data.Digits(labels_per_class=5),
        "streams": {"source": tl.data.Digits(classes=(1, 2))},
        "terms": {"task": tl.losses.CrossEntropy(), "l2": Sample(rows=(0.1, 0.2))},
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


def override(value, path, text):
    return config.override(value, path, text, names={"tl": tl})


# --- overrides ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "text", "get"),
    [
        ("steps", "7", lambda e: e.steps == 7),
        ("optim.lr.peak", "1e-2", lambda e: e.optim.lr.peak == 0.01),
        ("optim.lr", "3", lambda e: e.optim.lr == 3.0),
        ("optim.lr", "tl.optim.Linear(peak=1)", lambda e: e.optim.lr.peak == 1),
        ("optim", "tl.optim.SGD(lr=0.1)", lambda e: e.optim == SGD(lr=0.1)),
        ("optim.clip", "1", lambda e: e.optim.clip == 1.0),
        ("optim.clip", "none", lambda e: e.optim.clip is None),
        ("optim.groups.layer1", "0.5", lambda e: e.optim.groups["layer1"] == 0.5),
        ("optim.groups..*", "FROZEN", lambda e: e.optim.groups[".*"] is FROZEN),
        (
            r"optim.groups..*/dense\.x|layer2.lr",
            "0.7",
            lambda e: e.optim.groups[r".*/dense\.x|layer2"].lr == 0.7,
        ),
        (
            "optim.groups",
            "{'head': 1.0, '.*': tl.FROZEN}",
            lambda e: e.optim.groups == {"head": 1.0, ".*": FROZEN},
        ),
        (
            "augment",
            "(tl.data.Flip(),)",
            lambda e: e.augment == (tl.data.Flip(),),
        ),
        ("model.widths", "(3,)", lambda e: e.model.widths == (3,)),
        ("model.widths", "[3, 4]", lambda e: e.model.widths == (3, 4)),
        ("model.widths.1", "9", lambda e: e.model.widths == (8, 9)),
        ("model.activation", "gelu", lambda e: e.model.activation == "gelu"),
        ("terms.l2.weight", "0", lambda e: e.terms["l2"].weight == 0.0),
        ("terms.l2.flag", "TRUE", lambda e: e.terms["l2"].flag is True),
        ("terms.l2.name", "12", lambda e: e.terms["l2"].name == "12"),
        ("terms.l2.name", "none", lambda e: e.terms["l2"].name == "none"),
        ("terms.l2.mode", "sum", lambda e: e.terms["l2"].mode == "sum"),
        ("streams.source.val", "0.3", lambda e: e.streams["source"].val == 0.3),
        ("streams.source.val", "30", lambda e: e.streams["source"].val == 30),
        ("batch", "{'target': 8, 'source': 4}", lambda e: e.batch["source"] == 4),
        ("dtype", "bfloat16", lambda e: e.dtype == "bfloat16"),
        ("monitor", "null", lambda e: e.monitor is None),
    ],
)
def test_overrides(path, text, get):
    before = experiment()
    after = override(before, path, text)
    assert get(after)
    assert before == experiment(), "the value itself never changes"


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("stepz", "3", "no field 'stepz'; did you mean 'steps'?"),
        ("optim.lrr", "3", "optim: AdamW has no field 'lrr'; did you mean 'lr'?"),
        ("terms.tusk.weight", "1", "terms: there is no 'tusk'; did you mean 'task'?"),
        ("terms.l2.wieght", "1", "terms.l2: Sample has no field 'wieght'; did you me"),
        ("steps", "abc", "steps='abc': expected a whole number, such as steps=10."),
        ("steps", "1.5", "steps='1.5': expected a whole number"),
        ("steps", "true", "steps='true': expected a whole number"),
        ("steps", "-1", "steps=-1: expected a whole number of at least 0"),
        (
            "optim.lr",
            "fast",
            "a number or a tl.optim.Schedule, such as optim.lr=0.1 or",
        ),
        ("optim.lr", "false", "optim.lr='false': expected a number or"),
        ("optim.weight_decay", "none", "optim.weight_decay='none': expected a number"),
        (
            "model.widths",
            "3",
            "expected whole numbers in brackets, such as model.widths=(10,).",
        ),
        ("model.widths", "(3, 'a')", "expected whole numbers in brackets"),
        ("model.widths.5", "3", "model.widths: expected an index below 2, got '5'"),
        ("terms.l2.mode", "max", "terms.l2.mode='max': expected one of 'mean', 'sum'"),
        ("optim", "tl.optim.SDG()", "can't evaluate 'tl.optim.SDG()'"),
        (
            "optim",
            "3",
            "optim='3': expected a tl.optim.Optimizer, such as optim=tl.optim.AdamW()",
        ),
        ("steps.x", "3", "steps is 1000 and has no fields"),
        ("data.val", "-1", "data.val must be"),
        ("terms.l2", "3", "terms.l2='3': expected a tl.Term, such as terms.l2="),
        (
            "dtype",
            "float17",
            "expected one of 'float32', 'bfloat16'; did you mean 'bfloat16'?",
        ),
    ],
)
def test_wrong_overrides_say_what_was_expected(path, text, expected):
    with pytest.raises(UserError) as caught:
        override(experiment(), path, text)
    assert expected in str(caught.value)


def test_a_python_value_needs_no_text():
    assert override(experiment(), "optim.lr", 0.5).optim.lr == 0.5
    assert override(experiment(), "model.widths", (1,)).model.widths == (1,)


def test_longer_keys_win():
    value = {"a": {"b": 1}, "a.b": 2}
    assert config.override(value, "a.b", "3") == {"a": {"b": 1}, "a.b": 3}


# --- numbers ------------------------------------------------------------------------


FLOATS = st.floats(-1e6, 1e6)
SAMPLES = st.builds(
    Sample,
    weight=st.one_of(
        FLOATS,
        st.builds(tl.optim.Cosine, peak=FLOATS, warmup=st.integers(0, 9)),
        st.builds(tl.optim.Ramp),
    ),
    rate=FLOATS,
    maybe=st.none() | FLOATS,
    count=st.integers(0, 5),
    rows=st.lists(FLOATS, max_size=3).map(tuple),
    parts=st.dictionaries(st.sampled_from(["a", "a.b", ".*"]), FLOATS),
)


@given(SAMPLES)
def test_fill_puts_back_what_numbers_took(value):
    assert config.with_hyperparameters(value, config.hyperparameters(value)) == value
    assert (
        config.with_hyperparameters(
            config.without_hyperparameters(value), config.hyperparameters(value)
        )
        == value
    )


@given(SAMPLES, SAMPLES)
def test_shells_agree_where_only_numbers_differ(a, b):
    def kinds(tree):
        return {k: kinds(v) if isinstance(v, dict) else 0 for k, v in tree.items()}

    alike = (
        kinds(config.hyperparameters(a)) == kinds(config.hyperparameters(b))
        and type(a.weight) is type(b.weight)
        and a.count == b.count
    )
    # Mappings are compared in order, since the first group that matches decides.
    alike = alike and list(a.parts) == list(b.parts)
    same = config.key(config.without_hyperparameters(a)) == config.key(
        config.without_hyperparameters(b)
    )
    assert same == alike
    if same:
        assert hash(config.key(config.without_hyperparameters(a))) == hash(
            config.key(config.without_hyperparameters(b))
        )


def test_only_float_fields_are_numbers():
    found = config.hyperparameters(Sample(rate=1, maybe=2, parts={"a": 3}, rows=(4,)))
    assert found == {
        "weight": 1.0,
        "rate": 1.0,
        "maybe": 2.0,
        "parts": {"a": 3.0},
        "rows": {"0": 4.0},
    }
    assert config.hyperparameters(tl.models.MLP(dropout=0.5)) in ({}, {"dropout": 0.5})


def test_numbers_of_an_optimizer_are_its_rates_and_groups():
    found = config.hyperparameters(experiment().optim)
    assert found["lr"] == {"peak": 1e-3, "warmup": 5.0, "final": 0.0}
    assert found["groups"] == {r".*/dense\.x|layer2": {"lr": 0.1}, ".*": 1.0}
    assert "clip" not in found


def test_keys_tell_apart_what_means_something_else():
    assert config.key(SGD()) != config.key(AdamW())
    assert config.key(SGD(nesterov=True)) != config.key(SGD())
    assert config.key({"a": 1, "b": 2}) != config.key({"b": 2, "a": 1})
    assert config.key((1, True)) != config.key((1, 1))


def test_keys_keep_alive_what_they_compare_by_identity():
    keys = [config.key(np.zeros(2)) for _ in range(20)]
    assert len(set(keys)) == 20, "an id is used again once its object is gone"
    held = np.zeros(2)
    assert config.key(held) == config.key(held)


def test_a_schedule_of_ones_own_is_a_number_too():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Step(Schedule):
        height: float = traced(0.5)

    assert config.hyperparameters(SGD(lr=Step()))["lr"] == {"height": 0.5}
