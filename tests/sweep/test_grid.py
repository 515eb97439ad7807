"""Grids: axes of files and command lines, and the cells that they span."""

import dataclasses
import itertools
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxtl as tl
from jaxtl.core import config
from jaxtl.core.errors import UserError
from jaxtl.sweep import axes_from_text, plan
from jaxtl.sweep.axes import Grid, Halving, Range, When, label_of, linear, log
from jaxtl.sweep.cells import build_cells
from jaxtl.sweep.grid import build_grid
from jaxtl.training import experiment_file

ROOT = pathlib.Path(tl.__file__).parent.parent


def exp(**changes):
    fields = {"model": tl.models.MLP(widths=(4,)), "data": tl.data.Digits()}
    return tl.Experiment(
        **{**fields, "terms": {"task": tl.losses.CrossEntropy()}, **changes}
    )


def file(variants=None, seeds=None):
    variants = {"": exp()} if variants is None else variants
    return experiment_file.File(pathlib.Path("x.py"), variants, seeds, (), "")


def cells(axes, *texts, of=None, **settings):
    """The cells of axes, with axes of the command line and settings of the Grid."""
    of = file() if of is None else of
    grid = build_grid(of, Grid(axes, **settings) if settings else axes, texts)
    return build_cells(of, grid)


def labels(axes, *texts, **settings):
    return [dict(cell.labels) for cell in cells(axes, *texts, **settings)]


def column(name, axes, *texts, **settings):
    return [cell.get(name) for cell in labels(axes, *texts, **settings)]


# --- what axes span ------------------------------------------------------------------


def test_the_last_axis_changes_fastest_and_seeds_are_innermost():
    rows = labels({"seed": range(2), "optim.lr": [0.1, 0.2], "steps": [3, 5]})
    expected = itertools.product([0.1, 0.2], [3, 5], [0, 1])
    assert [tuple(row.values()) for row in rows] == list(expected)
    assert list(rows[0]) == ["optim.lr", "steps", "seed"]


def test_cells_hold_the_experiments_that_overrides_make():
    axes = {"optim.lr": [0.1], "terms.task.label_smoothing": [0.2], "seed": [7]}
    [cell] = cells(axes)
    expected = exp()
    for path, value in (("optim.lr", 0.1), ("terms.task.label_smoothing", 0.2)):
        expected = config.override(expected, path, value)
    assert cell.exp == dataclasses.replace(expected, seed=7)
    assert cell.changes == (
        ("optim.lr", 0.1),
        ("terms.task.label_smoothing", 0.2),
        ("seed", 7),
    )


def test_a_range_needs_its_count():
    with pytest.raises(TypeError, match="count"):
        Range(0.0, 1.0)


@pytest.mark.parametrize(
    ("build", "expected"), [(log, np.geomspace), (linear, np.linspace)]
)
def test_ranges_are_those_of_numpy(build, expected):
    values = build(1e-4, 1e-2, 5)
    np.testing.assert_allclose(list(values), expected(1e-4, 1e-2, 5), rtol=1e-5)
    assert column("optim.lr", {"optim.lr": values}) == list(values)


def test_zipped_fields_change_together():
    zipped = cells({("batch", "steps"): [(32, 400), (64, 200)]})
    assert [(c.exp.batch, c.exp.steps) for c in zipped] == [(32, 400), (64, 200)]
    assert [c.labels for c in zipped] == [
        {"batch, steps": "32, 400"},
        {"batch, steps": "64, 200"},
    ]


def test_named_variants_change_fields_and_add_terms():
    near = tl.regularizers.L2SP(weight=0.5)
    method = {"full": {}, "L2-SP": {"terms.near": near, "optim.lr": 0.3}}
    full, tuned = cells({"method": method})
    assert full.exp == exp()
    assert tuned.exp.terms == {**exp().terms, "near": near}
    assert tuned.exp.optim.lr == 0.3
    assert tuned.labels == {"method": "L2-SP"}


METHOD = {"full": {}, "L2-SP": {"terms.near": tl.regularizers.L2SP()}}


def test_a_conditional_axis_exists_in_some_cells_only():
    when = When({"method": "L2-SP"}, [0.01, 0.1])
    conditional = cells({"method": METHOD, "terms.near.weight": when})
    assert [c.labels for c in conditional] == [
        {"method": "full"},
        {"method": "L2-SP", "terms.near.weight": 0.01},
        {"method": "L2-SP", "terms.near.weight": 0.1},
    ]
    assert [c.exp.terms["near"].weight for c in conditional[1:]] == [0.01, 0.1]


def test_a_condition_may_name_several_labels_and_axes():
    when = When({"method": ("full", "L2-SP"), "optim.lr": 0.2}, [1, 2])
    rows = labels({"method": METHOD, "optim.lr": [0.1, 0.2], "batch": when})
    assert len(rows) == 2 * (1 + 2)
    assert all(("batch" in row) == (row["optim.lr"] == 0.2) for row in rows)


def test_excluded_cells_are_left_out():
    axes = {"method": METHOD, "optim.lr": [0.1, 0.2, 0.3]}
    rule = {"method": "full", "optim.lr": (0.2, 0.3)}
    rows = labels(axes, exclude=(rule,))
    assert [tuple(row.values()) for row in rows] == [
        ("full", 0.1),
        ("L2-SP", 0.1),
        ("L2-SP", 0.2),
        ("L2-SP", 0.3),
    ]


def test_exclusions_name_objects_as_well_as_their_labels():
    near, far = tl.regularizers.L2SP(), tl.regularizers.L2SP(weight=2.0)
    axes = {"terms.near": [near, far]}
    assert len(labels(axes, exclude=({"terms.near": far},))) == 1
    assert len(labels(axes, exclude=({"terms.near": "L2SP(weight=2.0)"},))) == 1


def test_the_variants_of_a_file_are_an_axis():
    of = file({"a": exp(steps=1), "b": exp(steps=2)}, (3, 4))
    of_variants = cells({"optim.lr": [0.1]}, of=of)
    assert [(c.variant, c.exp.steps, c.exp.seed) for c in of_variants] == [
        ("a", 1, 3),
        ("a", 1, 4),
        ("b", 2, 3),
        ("b", 2, 4),
    ]
    assert list(of_variants[0].labels) == ["variant", "optim.lr", "seed"]
    assert column("variant", {"variant": ["b"]}, of=of) == ["b", "b"]


def test_variants_that_others_start_from_are_no_cells():
    of = file({"base": exp(), "tuned": exp(init=tl.Variant("base"))})
    assert column("variant", {"optim.lr": [0.1]}, of=of) == ["tuned"]
    both = column("variant", {"variant": ["base", "tuned"]}, of=of)
    assert both == ["base", "tuned"]


@pytest.mark.parametrize("iterable", [iter, np.asarray])
def test_any_iterable_is_an_axis(iterable):
    rates = iterable([0.1, 0.2])
    assert column("optim.lr", {"optim.lr": rates, "seed": iterable([1, 2])}) == [
        *(0.1, 0.1),
        *(0.2, 0.2),
    ]


def test_labels_show_what_differs_from_the_defaults():
    assert label_of(tl.regularizers.L2SP(weight=0.1)) == "L2SP(weight=0.1)"
    schedule = tl.optim.Cosine(peak=0.1)
    assert label_of(tl.optim.AdamW(lr=schedule)) == "AdamW(lr='Cosine(peak=0.1)')"
    assert label_of((3, "a")) == "3, a"
    for value in (None, True, 3, 0.1, "a"):
        assert label_of(value) is value
    assert label_of(np.float64(0.1)) == 0.1


# --- properties of cells and their keys ----------------------------------------------


VALUES = {
    "optim.lr": st.floats(1e-6, 1e3),
    "optim.weight_decay": st.floats(0, 1),
    "steps": st.integers(0, 10**6),
    "terms.task.label_smoothing": st.floats(0, 0.9),
    "data.labels_per_class": st.integers(1, 50),
    "monitor": st.sampled_from(["accuracy", "nll", "macro_f1"]),
    "seed": st.integers(0, 2**32 - 1),
}
AXES = st.fixed_dictionaries(
    {},
    optional={
        path: st.lists(values, min_size=1, max_size=4, unique=True)
        for path, values in VALUES.items()
    },
).filter(bool)


@settings(max_examples=60, deadline=None)
@given(AXES, st.randoms())
def test_cells_are_the_product_and_their_keys_are_unique(axes, random):
    product = cells(axes)
    assert len(product) == np.prod([len(values) for values in axes.values()])
    keys = [cell.key for cell in product]
    assert len(set(keys)) == len(keys)
    for cell in product:
        expected = exp()
        for path, value in cell.changes:
            expected = config.override(expected, path, value)
        assert cell.exp == expected
    order = list(axes)
    random.shuffle(order)
    assert {c.key for c in cells({k: axes[k] for k in order})} == set(keys)


def test_keys_depend_on_the_experiment_only():
    def keys(axes, of=None):
        return [cell.key for cell in cells(axes, of=of)]

    assert keys({"optim.lr": [1]}) == keys({"optim.lr": [1.0]})
    assert keys({"optim.lr": [0.1]}) == keys({"optim.lr": np.array([0.1])})
    named = {"method": {"any": {"optim.lr": 0.1}}}
    assert keys({"optim.lr": [0.1]}) == keys(named)
    assert keys({"optim.lr": [0.1]}) != keys({"optim.eps": [0.1]})
    assert keys(named) != keys(named, file({"": exp(steps=3)}))


KEYS = """
import json, sys
sys.path.insert(0, "tests/sweep")
import test_grid
print(json.dumps([cell.key for cell in test_grid.cells(test_grid.various_axes())]))
"""


def various_axes():
    """Axes with values of many kinds."""
    arrays = [tl.data.Arrays(x=np.ones((9, i)), y=np.arange(9) % 3) for i in (1, 2)]
    return {
        "method": {**METHOD, "set": {"optim.groups": {"head": 1.0, ".*": tl.FROZEN}}},
        "data": arrays,
        "model": [tl.models.MLP(widths=(4,)), tl.models.MLP(widths=(5, 6))],
        "seed": range(2),
    }


def test_keys_are_the_same_in_every_process():
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    process = subprocess.run(
        [sys.executable, "-c", KEYS],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    keys = json.loads(process.stdout)
    assert keys == [cell.key for cell in cells(various_axes())]
    assert len(set(keys)) == 3 * 2 * 2 * 2


def test_different_arrays_of_one_shape_have_different_keys():
    data = [tl.data.Arrays(x=np.full((9, 2), i), y=np.arange(9) % 3) for i in (1, 2)]
    assert len(cells({"data": data})) == 2


def test_different_values_of_one_label_are_refused():
    big = np.zeros((2, 600, 5))
    big[1, 300] = 1  # numpy writes neither half's inner rows
    data = [tl.data.Arrays(x=x, y=np.arange(600) % 3) for x in big]
    one_label = r"'data' has two values that tables show alike, as Arrays\(x=.*mapping"
    with pytest.raises(UserError, match=one_label) as error:
        cells({"data": data})
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="that tables show alike"):
        cells({("data", "steps"): [(x, 5) for x in data]})
    named = {name: {"data": x} for name, x in zip("ab", data)}
    assert len(cells({"data": named})) == 2


def test_functions_without_a_name_are_told_apart_by_their_variants():
    nets = {
        name: {"model": tl.Network(lambda key, x: {}, lambda *args: None, (name,))}
        for name in ("a", "b")
    }
    assert len(cells({"net": nets})) == 2


def test_ten_thousand_cells_read_each_value_once(monkeypatch):
    calls = {"parse": 0, "is_traced": 0}

    def count(module, name):
        original = getattr(module, name)

        def counted(*args, **settings):
            calls[name] += 1
            return original(*args, **settings)

        monkeypatch.setattr(module, name, counted)

    count(config, "parse")
    count(plan, "is_traced")
    axes = {
        "terms.task.label_smoothing": linear(0, 0.5, 10),
        "optim.lr": log(1e-4, 1, 10),
        "optim.weight_decay": linear(0, 1, 10),
        "steps": [10, 20],
        "seed": range(5),
    }
    all_cells = cells(axes)
    assert len(all_cells) == 10_000
    assert calls["parse"] == 10 + 10 + 10 + 2
    assert len(plan.group_by_program(all_cells)) == 2
    # One call per field, kind of value and combination of static values.
    assert calls["is_traced"] <= 8


# --- the command line ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("a.b=0,0.01", "a.b", [0, 0.01]),
        ("seed=0..4", "seed", [0, 1, 2, 3, 4]),
        ("seed=3", "seed", [3]),
        ("SEEDS=1,2", "seed", [1, 2]),
        ("lr=log(1e-4,1e-2,3)", "lr", [1e-4, 1e-3, 1e-2]),
        ("lr = linear(0, 1, 3)", "lr", [0.0, 0.5, 1.0]),
        ("lr=tl.sweep.log(1, 100, 3)", "lr", [1.0, 10.0, 100.0]),
        ("monitor=nll,accuracy", "monitor", ["nll", "accuracy"]),
        ("a=(1,2),(3,4)", "a", [(1, 2), (3, 4)]),
        ("a='x,y',z", "a", ["x,y", "z"]),
        ("t=none,tl.losses.CrossEntropy()", "t", [None, tl.losses.CrossEntropy()]),
    ],
)
def test_axes_of_the_command_line_are_read(text, name, values):
    assert axes_from_text.split_axes(None, [text]) == ([text], [])
    parsed_name, parsed_values = axes_from_text.parse_axis(text)
    assert (parsed_name, list(parsed_values)) == (name, values)


@pytest.mark.parametrize(
    "text", ["optim.lr=0.1", "wise_ft=(0.0,0.5)", "init=tl.pretrained.FromRun('a,b')"]
)
def test_single_values_are_overrides(text):
    assert axes_from_text.split_axes({"optim.eps": [1]}, [text]) == ([], [text])


def test_an_axis_of_the_command_line_replaces_the_files():
    axes = {"optim.lr": [0.1, 0.2], "seed": range(5)}
    assert column("optim.lr", axes, "optim.lr=3,4", "seed=7") == [3, 4]
    assert column("seed", axes, "seed=7") == [7, 7]


def test_a_single_value_replaces_an_axis_of_the_file():
    axes = {"optim.lr": [0.1, 0.2], "method": METHOD}
    assert axes_from_text.split_axes(
        axes, ["optim.lr=0.3", "steps=5", "method=full"]
    ) == (
        ["optim.lr=0.3", "method=full"],
        ["steps=5"],
    )
    assert labels(axes, "optim.lr=0.3", "method=full") == [
        {"optim.lr": 0.3, "method": "full"}
    ]
    assert column("method", axes, "method=L2-SP,full")[:2] == ["L2-SP", "full"]


def test_an_axis_that_is_replaced_keeps_its_condition():
    when = When({"method": "L2-SP"}, [0.01, 0.1])
    axes = {"method": METHOD, "terms.near.weight": when}
    assert labels(axes, "terms.near.weight=5") == [
        {"method": "full"},
        {"method": "L2-SP", "terms.near.weight": 5},
    ]


# --- errors -----------------------------------------------------------------

ERRORS = {
    "no such field": ({"optm.lr": [1]}, r"no field 'optm'; did you mean 'optim'"),
    "no such term": ({"terms.tsk.weight": [1]}, r"no 'tsk'; did you mean 'task'"),
    "a value that does not fit": (
        {"steps": ["x"]},
        r"steps='x': expected a whole number, such as",
    ),
    "no values": ({"optim.lr": []}, r"the axis 'optim\.lr' has no values"),
    "no list": ({"optim.lr": 0.1}, r"'optim\.lr' is 0\.1; expected a list of values"),
    "a text": ({"monitor": "nll"}, r"the axis 'monitor' is 'nll'; expected a list"),
    "no mapping": ([1, 2], r"SWEEP=\[1, 2\]: expected a mapping"),
    "zipped of a wrong length": (
        {("batch", "steps"): [(1, 2), (3,)]},
        r"'batch, steps' zips 2 fields, but one of its values is \(3,\)",
    ),
    "zipped numbers": ({("batch", "steps"): [1, 2]}, r"zips 2 fields"),
    "an unknown condition": (
        {"method": METHOD, "steps": When({"methd": "full"}, [1])},
        r"depends on 'methd', which is no axis before it; did you mean 'method'",
    ),
    "a condition on a later axis": (
        {"steps": When({"method": "full"}, [1]), "method": METHOD},
        r"'steps' depends on 'method', which is no axis before it",
    ),
    "a condition that never holds": (
        {"method": METHOD, "steps": When({"method": "L2SP"}, [1])},
        r"the axis 'steps': 'method' is never 'L2SP'; did you mean 'L2-SP'",
    ),
    "a value twice": (
        {"optim.lr": [0.1, 0.2, 0.1]},
        r"two cells of the sweep are the same experiment.*names a value twice",
    ),
    "a number written in two ways": ({"optim.lr": [1, 1.0]}, r"the same experiment"),
    "no changes": ({"method": {"a": 3}}, r"'method': 'a' is 3; expected a mapping"),
    "no variant": ({"variant": ["a"]}, r"names 'a', which is no variant of x\.py"),
    "a negative seed": ({"seed": [-1]}, r"seed=-1"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_wrong_axes_are_refused_in_one_sentence(case):
    axes, message = ERRORS[case]
    with pytest.raises(UserError, match=message) as error:
        cells(axes)
    assert str(error.value).endswith((".", "?"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"optim.rl": 1}, r"exclude: 'optim\.rl' is no axis; did you mean 'optim\.lr'"),
        ({"optim.lr": 0.3}, r"'optim\.lr' is never 0\.3.* \(values: 0\.1, 0\.2\)"),
        ({"optim.lr": (0.1, 0.2)}, r"the sweep has no cells: everything is excluded"),
    ],
)
def test_wrong_exclusions_are_refused(rule, message):
    with pytest.raises(UserError, match=message):
        cells({"optim.lr": [0.1, 0.2]}, exclude=(rule,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim.lr=", r"the axis 'optim\.lr' has no values"),
        ("optim.lr=log(0,1,3)", r"tl\.sweep\.log\(0, 1\): expected 0 < low < high"),
        ("optim.lr=log(a,b,3)", r"tl\.sweep\.log\('a', 'b'\): expected two numbers"),
        ("optim.lr=linear(0,1,1)", r"count=1; expected at least 2 values"),
        ("optim.lr=log(1,2)", r"optim\.lr='log\(1,2\)': expected"),
        ("seed=4..0", r"the axis 'seed' has no values"),
        ("method=full,L2SP", r"'method' has no 'L2SP'; did you mean 'L2-SP'"),
        ("0.1,0.2", r"the axis '0\.1,0\.2' has no '='"),
    ],
)
def test_wrong_axes_of_the_command_line_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        cells({"method": METHOD}, text)


def test_one_field_of_a_zipped_axis_can_not_be_overridden():
    with pytest.raises(UserError, match="changes batch, steps together"):
        axes_from_text.split_axes({("batch", "steps"): [(1, 2)]}, ["batch=3"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rungs": ()}, r"halving\.rungs=\(\): expected rising shares"),
        ({"rungs": (0.5, 0.25)}, r"expected rising shares"),
        ({"rungs": (0.5, 1.0)}, r"expected rising shares"),
        ({"keep": 0}, r"halving\.keep=0: expected a share"),
    ],
)
def test_wrong_halvings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Halving(**settings)
