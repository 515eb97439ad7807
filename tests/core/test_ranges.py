"""Every number of a configuration has a range; nothing starts outside of it."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxtl as tl
from jaxtl.core import config
from jaxtl.core.ranges import check_ranges
from jaxtl.optim.optimizer import Group
from jaxtl.sweep import cells


def _experiment(**changes):
    base = {"model": tl.models.MLP(widths=(4,)), "data": tl.data.Digits(), "steps": 1}
    return tl.Experiment(**{**base, **changes})


VALID = _experiment(
    model=tl.models.MLP(widths=(4,), dropout=0.1),
    optim=tl.optim.AdamW(
        lr=tl.optim.Cosine(peak=1e-3, warmup=0.1),
        groups={"head": 1.0, ".*": Group(lr=0.1)},
        clip=1.0,
    ),
    terms={
        "task": tl.losses.CrossEntropy(label_smoothing=0.1),
        "sp": tl.regularizers.L2SP(weight=0.1),
    },
    average=tl.optim.EMA(decay=0.9),
    peft=tl.peft.LoRA(rank=2),
)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("optim.lr", -1.0, "a finite number of at least 0"),
        ("optim.lr", math.nan, "a finite number of at least 0"),
        ("optim.lr", math.inf, "a finite number of at least 0"),
        ("optim.lr.peak", -1e-3, "at least 0"),
        ("optim.b1", 2.0, "in [0, 1)"),
        ("optim.b2", 1.0, "in [0, 1)"),
        ("optim.weight_decay", -0.1, "at least 0"),
        ("optim.clip", math.nan, "at least 0"),
        ("optim.groups.head", -2.0, "at least 0"),
        ("optim.groups..*.lr", math.nan, "at least 0"),
        ("terms.sp.weight", math.nan, "a finite number"),
        ("terms.task.label_smoothing", 1.5, "in [0, 1]"),
        ("average.decay", 1.5, "in [0, 1]"),
        ("peft.rank", -2, "at least 1"),
        ("peft.rank", 0, "at least 1"),
        ("model.stochnorm", 2.0, "in [0, 1]"),
        ("model.dropout", 1.5, "in [0, 1]"),
    ],
)
def test_a_number_out_of_its_range_is_named(path, value, expected):
    changed = _replace(VALID, path.replace("..*", ".@"), value)
    with pytest.raises(tl.UserError) as caught:
        check_ranges(changed)
    assert f"{path}={value!r}: expected " in str(caught.value)
    assert expected in str(caught.value)


def _replace(exp, path, value):
    """The configuration with one value changed; "@" stands for the key ".*"."""
    name, _, remaining = path.partition(".")
    name = name.replace("@", ".*")
    if isinstance(exp, dict):
        inner = exp[name]
        return {**exp, name: _replace(inner, remaining, value) if remaining else value}
    inner = getattr(exp, name)
    new = _replace(inner, remaining, value) if remaining else value
    return dataclasses.replace(exp, **{name: new})


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (tl.models.MLP(widths=(4, 0)), "model.widths.1=0"),
        (tl.models.CNN(units=0), "model.units=0"),
        (tl.models.ViT(layers=-1), "model.layers=-1"),
        (tl.models.GPT2(heads=0), "model.heads=0"),
        (tl.models.MLP(outputs=0), "model.outputs=0"),
    ],
)
def test_no_model_has_a_size_of_zero(model, path):
    with pytest.raises(tl.UserError, match=f"^{path}: expected a finite number of at "):
        check_ranges(_experiment(model=model))


def test_valid_configurations_pass():
    check_ranges(VALID)
    check_ranges(_experiment(terms={"away": tl.regularizers.L2SP(weight=-1.0)}))


def test_all_defaults_are_in_their_ranges():
    for package in (tl.optim, tl.regularizers, tl.domain, tl.semi, tl.noisy, tl.peft):
        for name in package.__all__:
            kind = getattr(package, name)
            if isinstance(kind, type) and dataclasses.is_dataclass(kind):
                required = [
                    f
                    for f in dataclasses.fields(kind)
                    if f.default is f.default_factory is dataclasses.MISSING
                ]
                if not required:
                    check_ranges(kind(), name)


@given(st.floats(max_value=-1e-300) | st.sampled_from([math.nan, math.inf]))
def test_every_traced_number_of_every_optimizer_refuses_it(value):
    for optimizer in (tl.optim.AdamW(), tl.optim.SGD()):
        for name in config.hyperparameters(optimizer):
            if name != "groups":
                changed = dataclasses.replace(optimizer, **{name: value})
                with pytest.raises(tl.UserError, match=f"optim.{name}="):
                    check_ranges(changed, "optim")


@dataclasses.dataclass(frozen=True)
class _Signed:
    axis: int = -1
    rate: float = -2.0


def test_fields_of_a_users_own_class_are_not_checked():
    check_ranges(_Signed())


def test_runs_and_sweeps_refuse_before_they_read_data():
    class Unread(tl.data.Digits):
        def load(self, *_):
            raise AssertionError("the data were read")

    exp = _experiment(data=Unread(), optim=tl.optim.AdamW(lr=-1.0))
    with pytest.raises(tl.UserError, match=r"optim.lr=-1.0: expected"):
        tl.setup(exp)
    with pytest.raises(tl.UserError, match=r"optim.b1=2.0: expected"):
        tl.plan_sweep(_experiment(), {"optim.b1": [0.9, 2.0]})


def test_a_sweep_checks_each_number_once_however_many_cells_it_has(monkeypatch):
    checked = []
    monkeypatch.setattr(cells, "check_ranges", checked.append)
    rates = [0.1 * i for i in range(1, 31)]
    tl.plan_sweep(_experiment(), {"optim.lr": rates, "seed": range(10)})
    assert len(checked) <= 1 + len(rates) + 10
