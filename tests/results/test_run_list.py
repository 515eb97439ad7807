"""The list of runs, from directories in known states."""

import json
import os
import time

import pytest

from jaxtl.cli import main
from jaxtl.results import run_list
from jaxtl.results.database import Database, Outcome


def result(val, test=None, seed=0):
    splits = {"val": {"accuracy": val, "nll": 1 - val}, "monitor": "accuracy"}
    return {**splits, "seed": seed, **({"test": {"accuracy": test}} if test else {})}


def write_run(folder, content=None, age=0.0, steps=10):
    folder.mkdir(parents=True)
    mark = {"experiment": {"steps": steps}, "file": None}
    (folder / "experiment.json").write_text(json.dumps(mark))
    lines = [{"step": i, "kind": "train", "loss": 1.0} for i in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "ki'
    )
    if content is not None:
        (folder / "result.json").write_text(json.dumps(content))
        when = time.time() - age
        os.utime(folder / "result.json", (when, when))


@pytest.fixture
def folder(tmp_path):
    write_run(tmp_path / "old", result(0.5, 0.4), age=1e6)
    write_run(tmp_path / "deep" / "er" / "new", result(0.75, 0.7))
    write_run(tmp_path / "stopped")
    write_run(tmp_path / "running")
    (tmp_path / "running" / "lock").write_text(str(os.getpid()))
    write_run(tmp_path / "broken")
    (tmp_path / "broken" / "result.json").write_text('{"val": ')
    study = tmp_path / "study"
    for name, val, test in (("a", 0.5, 0.9), ("b", 0.75, 0.5)):
        for seed in (0, 1):
            write_run(study / name / f"seed{seed}", result(val, test + seed / 10, seed))
    planned = [f"{n}/seed{s}" for n in "abc" for s in (0, 1)]
    (study / "study.json").write_text(json.dumps({"runs": planned}))
    failure = {"run": "c/seed0", "variant": "c", "seed": 0, "error": "no"}
    (study / "failures.json").write_text(json.dumps([failure]))
    (tmp_path / "sweep").mkdir()
    with Database(tmp_path / "sweep", create=True) as database:
        cells = [(str(i), {"optim.lr": i // 2, "seed": i % 2}) for i in range(5)]
        database.add(cells)
        for i, value in enumerate((0.5, 0.7, 0.8, 0.9)):
            database.finish([Outcome(str(i), "done", result(value, value), {}, "")])
    return tmp_path


def test_each_directory_has_its_state_and_metrics(folder):
    listed = run_list.read([folder, folder / "deep"])
    rows = {row.path.relative_to(folder).as_posix(): row for row in listed}
    assert list(rows)[-1] == "old"  # the newest first
    assert len(listed) == len(rows) == 7
    new = rows["deep/er/new"]
    assert (new.kind, new.status, new.metric) == ("run", "done", "accuracy")
    assert (new.val, new.test) == (0.75, 0.7)
    assert rows["stopped"].status == "interrupted"
    assert rows["stopped"].progress == "step 3 of 10"
    assert rows["running"].status == "running"
    assert rows["broken"].status == "damaged"
    assert "result.json is damaged" in rows["broken"].note
    study = rows["study"]
    assert (study.kind, study.status) == ("study", "failed")
    assert study.progress == "4 done, 1 failed, 1 waiting"
    # The best on val, not on test, with the mean of its own test values.
    assert (study.val, study.test) == (0.75, pytest.approx(0.55))
    assert "b" in study.note
    sweep = rows["sweep"]
    assert (sweep.kind, sweep.progress) == ("sweep", "4 done, 1 waiting")
    assert sweep.val == sweep.test == pytest.approx(0.85)


def test_the_command_prints_rows_or_json(folder, capsys, monkeypatch):
    assert main.main(["list", str(folder / "study"), "--each"]) == 0
    assert capsys.readouterr().out.count("seed") == 4
    assert main.main(["list", str(folder), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["kind"] for row in rows} == {"run", "study", "sweep"}
    monkeypatch.chdir(folder)
    assert main.main(["list"]) == 1
    assert "there is no directory 'runs' to list" in capsys.readouterr().err
    (folder / "runs").mkdir()
    assert main.main(["list"]) == 0
    assert "no run, study or sweep in runs" in capsys.readouterr().out
