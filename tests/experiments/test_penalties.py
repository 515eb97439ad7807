"""The study of penalties: equal search budgets, its table and its Pareto front."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest

from experiments import penalties, penalties_table


@pytest.mark.parametrize("name", penalties.SETTINGS)
def test_every_method_is_searched_with_eight_candidates(name):
    setting = penalties.SETTINGS[name]()
    for method in penalties.METHODS:
        candidates = penalties.candidates(setting, method)
        assert len({json.dumps(c) for c in candidates}) == 8, method
        exp = penalties.experiment_of(setting, method, "source", **candidates[0])
        assert exp.optim.lr.peak == candidates[0]["rate"]


def test_table_and_plot_read_what_the_study_writes(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for shift, method in enumerate(("fine-tuning", "LwF")):
        stored = {
            criterion: {
                "numbers": {"rate": 0.001},
                "target": list(0.8 + 0.01 * shift + 0.001 * rng.random(5)),
                "source": list(0.7 + 0.02 * shift + 0.001 * rng.random(5)),
            }
            for criterion in penalties.CRITERIA
        }
        (tmp_path / f"{method}.json").write_text(json.dumps(stored))
    rows = penalties_table.read_rows(tmp_path)
    assert [(r.method, r.criterion) for r in rows[::2]] == [
        ("fine-tuning", "for the target"),
        ("LwF", "for the target"),
    ]
    penalties_table.print_table(rows)
    lines = capsys.readouterr().out.splitlines()
    assert "+" not in lines[0]
    difference = np.subtract(rows[2].target, rows[0].target)
    half = 2.7764451 * difference.std(ddof=1) / np.sqrt(5)  # Student's t, 4 degrees
    assert f"{difference.mean():+.1f} ± {half:.1f}" in lines[2]
    root = ElementTree.fromstring(penalties_table.svg(rows))
    marks = [e for e in root.iter() if e.get("stroke-width") == "2"]
    assert len(marks) == 4
    # LwF is better in both, so its mark lies right of and above the other one.
    assert float(marks[2].get("cx")) > float(marks[0].get("cx"))
    assert float(marks[2].get("cy")) < float(marks[0].get("cy"))


def test_pareto_front_leaves_out_what_another_point_beats():
    points = [(1.0, 5.0), (2.0, 4.0), (1.5, 4.0), (1.0, 4.5), (2.0, 4.0)]
    front = penalties_table.pareto_front(points)
    assert front == [True, True, False, False, True]
