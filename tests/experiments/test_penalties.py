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


def test_table_compares_at_the_same_rate_and_corrects_for_many(tmp_path, capsys):
    base = np.array([0.8, 0.81, 0.79, 0.8, 0.82])
    noise = 1e-3 * np.array([1.0, -1.0, 2.0, -2.0, 0.0])

    def results(target, source, **numbers):
        return {"numbers": numbers, "target": list(target), "source": list(source)}

    plain = {c: results(base, base, rate=0.003) for c in penalties.CRITERIA}
    plain["rate 0.001"] = results(base - 0.02 + noise, base - 0.1 + noise, rate=0.001)
    # t = 2.1e-3 / (1e-3 √2.5 / √5) = 2.97, p = 0.041: not below 0.05 after Holm.
    shifts = (base + 0.0021 + noise, base + 0.03 + noise)
    term = {c: results(*shifts, rate=0.001) for c in penalties.CRITERIA}
    for method, stored in (("fine-tuning", plain), ("EWC", term)):
        (tmp_path / f"{method}.json").write_text(json.dumps(stored))
    rows = penalties_table.read_rows(tmp_path)
    penalties_table.print_table(rows, penalties_table.read_plain(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert "+0.2 ± 0.2   +3.0 ± 0.2*   +2.2 ± 0.0  +13.0 ± 0.0" in lines[2]
    assert lines[4].split()[:3] == ["fine-tuning", "rate", "0.001"]
    assert "-2.0 ± 0.2" in lines[4]
    assert lines[5] == "target: 2 gains and 0 losses of 2 without 0"


def test_pareto_front_leaves_out_what_another_point_beats():
    points = [(1.0, 5.0), (2.0, 4.0), (1.5, 4.0), (1.0, 4.5), (2.0, 4.0)]
    front = penalties_table.pareto_front(points)
    assert front == [True, True, False, False, True]
