"""What no machine could finish is refused with its count, before it is expanded."""

import itertools
import time

import pytest

import jaxtl as tl
from jaxtl.core import limits
from jaxtl.core.errors import UserError
from jaxtl.sweep import search_space
from jaxtl.sweep.cells import build_cells
from jaxtl.sweep.grid import build_grid
from jaxtl.training import experiment_file


def _file(tmp_path, text="", *overrides):
    path = tmp_path / "one.py"
    path.write_text(
        f"import jaxtl as tl\n{text}\ndef experiment():\n    return tl.Experiment("
        "model=tl.models.MLP(), data=tl.data.Digits())\n"
    )
    return experiment_file.read_file(path, *overrides)


@pytest.mark.parametrize(
    ("sweep", "texts", "count"),
    [
        ({}, ["seed=0..99999999"], "100,000,000"),
        ({}, ["steps=0..9999", "seed=0..9999"], "100,000,000"),
        ({}, ["optim.lr=log(1e-9,1,100000000)"], "100,000,000"),
        ({}, ["seed=0..1000000000000000000000"], "1.00e+21"),
        ({"seed": range(10**9)}, [], "1,000,000,000"),
        ({"seed": itertools.count()}, [], "1,000,001"),
        ({"steps": range(10**4), "batch": range(1, 10**4)}, [], "99,990,000"),
    ],
)
def test_a_grid_of_too_many_cells_is_refused_at_once(sweep, texts, count, tmp_path):
    start = time.process_time()
    with pytest.raises(UserError, match=f"asks for {count.replace('+', '.')} runs"):
        build_cells(_file(tmp_path), build_grid(_file(tmp_path), sweep, texts))
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("text", "override", "message"),
    [
        ("SEEDS = range(10**10)", None, "SEEDS asks for 10,000,000,000 runs"),
        ("", "SEEDS=0..99999999", "SEEDS asks for 100,000,000 runs"),
        ("SEEDS = 3.5", None, "SEEDS=3.5: expected whole numbers"),
        ("SEEDS = ('a',)", None, r"SEEDS=\('a',\): expected whole numbers"),
        ("SEEDS = ()", None, r"SEEDS=\(\): expected whole numbers"),
        ("", f"SEEDS={2**32}", "SEEDS=.*: expected whole numbers below 2³²"),
        ("", "SEEDS=true", r"SEEDS=.*True.*: expected whole numbers"),
    ],
)
def test_seeds_are_counted_and_checked(text, override, message, tmp_path):
    with pytest.raises(UserError, match=message):
        _file(tmp_path, text, *([override] if override else []))


def test_seeds_may_be_a_range_with_its_ends(tmp_path):
    assert _file(tmp_path, "", "SEEDS=1..3").seeds == (1, 2, 3)


def test_a_search_counts_its_trials_with_all_seeds(tmp_path):
    grid = build_grid(_file(tmp_path), {"steps": [1, 2], "seed": range(5)})
    with pytest.raises(UserError, match="trials=300000 asks for 1,500,000 runs"):
        search_space.check("random", grid, 300_000, None)
    search_space.check("random", grid, 3, None)


def test_as_many_as_are_taken_are_taken():
    assert limits.as_sequence(iter([1, 2]), "x") == (1, 2)
    limits.check_runs(limits.MOST_RUNS, "x")
    assert len(tl.sweep.log(1e-4, 1, 1000)) == len(list(tl.sweep.log(1e-4, 1, 1000)))
