"""Published tables run again: verdicts, files, and the tables themselves."""

import json
import pathlib
import sys

import numpy as np
import pytest

from jaxtl.cli import main, reproduce
from jaxtl.cli.reproduce import load_study, tables
from jaxtl.core.errors import UserError
from jaxtl.results import published

REPORTS = pathlib.Path(__file__).parents[2] / "experiments/reports/reproduce"


def row(ours, value=None, tolerance=1.0, **changes):
    figure = None
    if value is not None:
        incomparable = changes.pop("incomparable", "")
        figure = published.Published(
            value=value,
            source="A, table 1",
            tolerance=tolerance,
            incomparable=incomparable,
        )
    fields = {"method": "m", "setting": "s", "ours": ours, "published": figure}
    return published.PublishedRow(**{**fields, **changes})


@pytest.mark.parametrize(
    ("figure", "verdict"),
    [
        (row(50.0, 51.0), "reproduced"),
        (row(50.0, 49.0), "reproduced"),
        (row(50.0, 51.01), "missed, below"),
        (row(50.0, 48.9), "missed, above"),
        (row(0.3, 0.1 + 0.2, tolerance=0.0), "reproduced"),
        (row(50.0, 51.0, interval=0.1), "reproduced"),
        (row(50.0, 53.0, interval=3.0), "in our 95 % interval"),
        (row(50.0, 47.0, interval=3.0), "in our 95 % interval"),
        (row(50.0, 53.1, interval=3.0), "missed, below"),
        (row(50.0, 46.9, interval=3.0), "missed, above"),
        (row(50.0, 53.0, interval=3.0, incomparable="an SVM"), "not comparable"),
        (row(50.0, 90.0, incomparable="an SVM"), "not comparable"),
        (row(50.0), "no published figure"),
    ],
)
def test_a_verdict_is_the_difference_against_the_tolerance(figure, verdict):
    assert figure.verdict == verdict


def study(rows, **changes):
    fields = {"name": "t", "title": "T", "protocol": "P.", "run": lambda fast: rows}
    return published.Study(**{**fields, **changes})


def test_the_report_holds_every_figure_its_source_and_why_it_misses(tmp_path):
    rows = [
        row(50.0, 51.0, interval=0.25),
        row(40.0, 51.0, method="n", note="another kernel"),
        row(30.0, 60.0, method="o", incomparable="an SVM"),
        row(20.0, method="p"),
    ]
    table = study(rows, findings="F.", needs=("a.mat",))
    markdown, data = published.write(table, rows, tmp_path / "new")
    text = markdown.read_text()
    assert "| m | s | 51.00 | 50.00 ± 0.25 | -1.00 | reproduced |" in text
    assert "| n | s | 51.00 | 40.00 | -11.00 | missed, below |" in text
    assert "| p | s | – | 20.00 | – | no published figure |" in text
    assert "- m, n: A, table 1 (tolerance 1)" in text
    assert "- o: A, table 1 (tolerance 1); not comparable: an SVM" in text
    assert "- n, s: another kernel" in text
    assert "1 reproduced, 1 missed, below, 1 not comparable, 1 no pub" in text
    assert "`a.mat`" in text
    assert "jaxtl reproduce t" in text
    stored = json.loads(data.read_text())["rows"]
    assert [r["verdict"] for r in stored] == [r.verdict for r in rows]
    assert stored[0]["difference"] == -1.0
    assert stored[3]["published"] is None


def test_the_command_lists_runs_and_writes_tables(tmp_path, capsys, monkeypatch):
    with pytest.raises(UserError, match="did you mean 'office_caltech_surf'"):
        load_study("office_caltech_sruf")
    assert main.main(["reproduce"]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in tables())
    assert main.main(["reproduce", "nothing"]) == 1
    assert "no table 'nothing'" in capsys.readouterr().err
    calls = []

    def run(fast):
        calls.append(fast)
        return [row(50.0, 51.0)]

    table = study([], run=run)
    monkeypatch.setattr(reproduce, "load_study", lambda name: table)
    monkeypatch.chdir(tmp_path)
    assert main.main(["reproduce", "t", "--fast"]) == 0
    assert not any(tmp_path.iterdir())
    assert main.main(["reproduce", "t"]) == 0
    assert list(tmp_path.glob("runs/reproduce-t/*/t.md"))
    assert main.main(["reproduce", "t", "--fast", "--out", "here"]) == 0
    assert (tmp_path / "here/t.json").exists()
    assert calls == [True, False, True]


@pytest.mark.parametrize("name", sorted(tables()))
def test_a_table_has_its_name_and_a_protocol(name):
    table = load_study(name)
    assert table.name == name
    assert len(table.protocol) > 200


def test_missing_data_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXTL_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"surf_caltech10.mat.*JAXTL_DATA_DIR"):
        load_study("office_caltech_surf").run(True)


def check_against_report(rows, name):
    """Compares rows with the stored ones: equal figures, or within the interval."""
    stored = json.loads((REPORTS / f"{name}.json").read_text())["rows"]
    expected = {(r["method"], r["setting"]): r for r in stored}
    # A report may lack rows that are not measured yet; all of its own must come out.
    assert expected.keys() & {(row.method, row.setting) for row in rows}
    for result in rows:
        record = expected.get((result.method, result.setting))
        if record is None:
            continue
        # Another BLAS may change the prediction of a few examples.
        tolerance = record["interval"] or 0.5
        assert result.ours == pytest.approx(record["ours"], abs=tolerance)
        if result.ours == pytest.approx(record["ours"], abs=1e-6):
            assert result.verdict == record["verdict"]


def test_a_part_of_office_caltech(data_dir, monkeypatch):
    monkeypatch.setenv("JAXTL_DATA_DIR", str(data_dir))
    rows = load_study("office_caltech_surf").run(True)
    nearest = {r.setting: r for r in rows if r.method == "1-NN"}
    assert nearest["W→D"].ours == pytest.approx(59.24, abs=0.005)
    assert nearest["D→W"].ours == pytest.approx(63.39, abs=0.005)
    check_against_report(rows, "office_caltech_surf")


def test_a_part_of_skada_shifts():
    pytest.importorskip("skada")
    check_against_report(load_study("skada_shifts").run(True), "skada_shifts")


def test_a_missing_skada_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "skada.datasets", None)
    with pytest.raises(UserError, match=r"pip install 'jaxtl\[reproduce\]'"):
        load_study("skada_shifts").run(True)


def test_no_label_of_a_test_row_reaches_a_candidate():
    """With the test rows' labels scrambled, the same candidate predicts the same."""
    from experiments.reproduce import skada_shifts

    rng = np.random.default_rng(0)
    source = skada_shifts.Domain(rng.normal(size=(60, 2)), np.arange(60) % 2)
    target = skada_shifts.Domain(rng.normal(size=(50, 2)), np.arange(50) % 2)
    _, test = skada_shifts.split(target, 3)
    sizes = []

    def candidate(a, b):
        rows = {tuple(x) for x in b.x}
        assert not any(tuple(x) in rows for x in test.x)
        sizes.append(len(b.x))
        return lambda x: np.zeros(len(x))

    method = skada_shifts.PublishedMethod("two", (candidate, candidate), ())
    assert skada_shifts.accuracy(method, source, target, 3) == np.mean(test.y == 0)
    assert sizes == [32, 32, 40]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(tables()))
def test_a_whole_table(name, data_dir, monkeypatch):
    if name == "skada_shifts":
        pytest.importorskip("skada")
    monkeypatch.setenv("JAXTL_DATA_DIR", str(data_dir))
    check_against_report(load_study(name).run(False), name)
