"""Plots of finished runs: a study's results, and a metric against a number."""

import pytest

from jaxtl.core.errors import UserError
from jaxtl.results.plots import runs
from jaxtl.results.records import Record
from jaxtl.results.settings import group_by_setting


def records(name, *accuracies, **facts):
    """Makes a record per seed."""
    return [
        Record(
            labels={"run": name, "seed": seed},
            result={"test": {"accuracy": accuracy}, "monitor": "accuracy", **facts},
        )
        for seed, accuracy in enumerate(accuracies)
    ]


def test_the_metric_is_drawn_against_a_number_of_the_runs(tmp_path):
    drifts = {"a/full": 2.0, "a/near": 0.5, "b/full": 3.0}
    groups = group_by_setting(
        record
        for name, drift in drifts.items()
        for record in records(name, 0.5, 0.6, drift=drift)
    )
    runs.against(groups, "drift", tmp_path / "drift.png")
    assert (tmp_path / "drift.png").stat().st_size > 5_000
    with pytest.raises(UserError, match="did you mean 'drift'"):
        runs.against(groups, "drifts", tmp_path / "no.png")


@pytest.mark.parametrize("names", [("2/a", "5/a"), ("2/a",)])
def test_a_study_is_drawn_as_lines_or_as_dots(tmp_path, names):
    failed = Record(labels={"run": f"{names[-1]}, failed", "seed": 0}, status="failed")
    cells = [record for name in names for record in records(name, 0.1, 0.2)]
    groups = group_by_setting([*cells, failed])
    runs.study(groups, tmp_path / "x.png", title="title")
    assert (tmp_path / "x.png").stat().st_size > 5_000
