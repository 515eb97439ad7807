"""Tables: how numbers are shown, and grids made of names."""

import numpy as np
import pytest
from scipy import stats

from jaxtl.core.errors import UserError
from jaxtl.results import format_number, run_table
from jaxtl.results.plots import base


def row(name, *accuracies):
    results = [
        {"test": {"accuracy": a}, "val": {"accuracy": a}, "monitor": "accuracy"}
        for a in accuracies
    ]
    for result in results:
        result |= {"steps_per_second": 10.0, "trainable_parameters": 5}
    return run_table.Row(name, results)


def test_cell_is_mean_and_student_interval_in_percent():
    values = [0.71, 0.74, 0.78]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    cell = row("x", *values).cell("test", "accuracy")
    assert cell == f"{100 * np.mean(values):.1f} ± {50 * (high - low):.1f}"
    assert row("x", 0.5).cell("test", "accuracy") == "50.0"
    assert row("x").cell("test", "accuracy") == "–"
    assert format_number.number("nll", 0.12345, 0.01) == "0.1235 ± 0.0100"


def test_names_with_one_slash_make_a_grid():
    rows = [row("source", 0.9), row("2/a", 0.1), row("2/b", 0.2), row("5/a", 0.3)]
    lines, columns, cells = run_table.pivoted(rows)
    assert (lines, columns) == (["a", "b"], ["2", "5"])
    assert set(cells) == {("a", "2"), ("b", "2"), ("a", "5")}
    assert run_table.pivoted([row("a", 0.1), row("b", 0.2)]) is None
    assert run_table.pivoted([row("2/a", 0.1), row("2/b", 0.2)]) is None


def test_the_metric_is_drawn_against_a_fact_of_the_runs(tmp_path):
    rows = []
    for name, drift in (("a/full", 2.0), ("a/near", 0.5), ("b/full", 3.0)):
        found = row(name, 0.5, 0.6)
        for i, result in enumerate(found.results):
            result["drift"] = drift + 0.1 * i
        rows.append(found)
    base.against(rows, "drift", tmp_path / "drift.png")
    assert (tmp_path / "drift.png").stat().st_size > 5_000
    with pytest.raises(UserError, match="did you mean 'drift'"):
        base.against(rows, "drifts", tmp_path / "no.png")


@pytest.mark.parametrize("grid", [True, False])
def test_plots_are_drawn(tmp_path, grid):
    rows = [row("2/a", 0.1, 0.2), row("5/a", 0.3, 0.4), row("5/b")]
    rows = rows if grid else rows[:1]
    base.study(rows, tmp_path / "x.png", title="title")
    assert (tmp_path / "x.png").stat().st_size > 5_000
