"""Tables of a study's runs, and their JSON."""

import numpy as np
import pytest
from scipy import stats

from jaxtl.results import study_tables
from jaxtl.results.database import FAILED
from jaxtl.results.records import Record
from jaxtl.results.settings import Setting


def setting(name, *accuracies, errors=(), **facts):
    records = []
    for seed, accuracy in enumerate(accuracies):
        result = {
            "test": {"accuracy": accuracy},
            "val": {"accuracy": accuracy},
            "monitor": "accuracy",
            "steps_per_second": 10.0 + seed,
            "trainable_parameters": 5,
            **facts,
        }
        records.append(Record(labels={"run": name, "seed": seed}, result=result))
    for error in errors:
        records.append(Record(labels={"run": name}, status=FAILED, error=error))
    return Setting(labels={"run": name}, records=tuple(records))


def test_cell_is_mean_and_student_interval_in_percent():
    values = [0.71, 0.74, 0.78]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    cell = study_tables.metric_cell(setting("x", *values), "test", "accuracy")
    assert cell == f"{100 * np.mean(values):.1f} ± {50 * (high - low):.1f}"
    single = setting("x", 0.5)
    assert study_tables.metric_cell(single, "test", "accuracy") == "50.0"
    assert study_tables.metric_cell(setting("x"), "test", "accuracy") == "–"
    failed = setting("x", errors=["it diverged"])
    assert study_tables.metric_cell(failed, "test", "accuracy") == "failed"


def test_nan_is_shown_and_not_left_out():
    cell = study_tables.metric_cell(setting("x", 0.5, np.nan), "test", "accuracy")
    assert cell == "nan ± nan"


def test_names_with_one_slash_make_a_grid():
    groups = [
        setting("source", 0.9),
        setting("2/a", 0.1),
        setting("2/b", 0.2),
        setting("5/a", 0.3),
    ]
    rows, columns, cells = study_tables.name_grid(groups)
    assert (rows, columns) == (["a", "b"], ["2", "5"])
    assert set(cells) == {("a", "2"), ("b", "2"), ("a", "5")}
    ungrouped, grid = study_tables.study_tables(groups, "A study.")
    assert [row[0] for row in ungrouped.rows] == ["source"]
    assert grid.columns == ("", "2", "5", "seeds")
    assert grid.rows == (("a", "10.0", "30.0", "1"), ("b", "20.0", "", "1"))


@pytest.mark.parametrize("names", [("a", "b"), ("2/a", "2/b")])
def test_names_without_a_second_column_make_no_grid(names):
    groups = [setting(name, 0.1) for name in names]
    assert study_tables.name_grid(groups) is None
    [table] = study_tables.study_tables(groups, "A study.")
    assert table.rows[0] == (names[0], "10.0", "10.0", "1", "5", "10")


def test_json_holds_the_values_of_all_seeds():
    [entry] = study_tables.study_json([setting("x", 0.25, 0.75, errors=["no"])])
    assert (entry["name"], entry["n"], entry["errors"]) == ("x", 2, ["no"])
    accuracy = entry["test"]["accuracy"]
    assert (accuracy["mean"], accuracy["values"]) == (0.5, [0.25, 0.75])
    assert accuracy["half_width_95"] == pytest.approx(stats.t.ppf(0.975, 1) * 0.25)
