"""Directories that others made: read without running their code."""

import json
import sys

import pytest

import jaxtl as tl
from jaxtl.cli import main
from jaxtl.core import serialization
from jaxtl.training import run_dir, variants

PLAIN = """
import pathlib
import jaxtl as tl

with open({log!r}, "a") as file:
    file.write("ran;")


def experiment():
    return tl.Experiment(
        model=tl.models.MLP(widths=(4,)), data=tl.data.Digits(), steps=0, batch=16
    )
"""
OWN_CLASS = (
    PLAIN.replace(
        "def experiment",
        """import dataclasses


@dataclasses.dataclass(frozen=True)
class Mine(tl.data.Digits):
    pass


def experiment""",
    )
).replace("data=tl.data.Digits()", "data=Mine()")
STUDY = PLAIN.replace("return tl", "return {{'a': tl").replace(
    "batch=16\n    )", "batch=16)}}"
)


def _make(tmp_path, text, monkeypatch):
    """A directory that another user made: (directory, log of the file's runs)."""
    log = tmp_path / "log"
    file = tmp_path / "theirs.py"
    file.write_text(text.format(log=str(log)))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "their-state"))
    assert main.main(["run", str(file), "--out", str(tmp_path / "run")]) == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "my-state"))
    monkeypatch.delitem(sys.modules, "jaxtl_experiment_theirs")
    log.write_text("")
    return tmp_path / "run", log


@pytest.mark.parametrize("text", [PLAIN, STUDY], ids=["run", "study"])
def test_showing_and_evaluating_runs_none_of_their_code(
    tmp_path, monkeypatch, capsys, text
):
    directory, log = _make(tmp_path, text, monkeypatch)
    assert main.main(["show", str(directory)]) == 0
    assert "MLP" in capsys.readouterr().out
    run = next(directory.rglob("experiment.json")).parent
    assert main.main(["eval", str(run)]) == 0
    assert main.main(["resume", str(directory)]) == 0
    assert log.read_text() == ""


def test_a_class_of_their_file_needs_trust(tmp_path, monkeypatch, capsys):
    directory, log = _make(tmp_path, OWN_CLASS, monkeypatch)
    assert main.main(["show", str(directory)]) == 1
    error = capsys.readouterr().err
    assert "was not made by this user" in error
    assert "experiment.py" in error
    assert "--trust" in error
    assert log.read_text() == ""
    assert main.main(["show", str(directory), "--trust"]) == 0
    assert log.read_text() == "ran;"


def test_a_changed_copy_of_the_file_is_not_trusted(tmp_path, monkeypatch, capsys):
    directory, log = _make(tmp_path, OWN_CLASS, monkeypatch)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "their-state"))
    run_dir.read_experiment(directory)
    assert log.read_text() == "ran;", "its maker may run it"
    monkeypatch.delitem(sys.modules, "jaxtl_experiment_theirs")
    with open(directory / "experiment.py", "a") as file:
        file.write("\nprint('planted')\n")
    with pytest.raises(tl.UserError, match="not made by this user"):
        run_dir.read_experiment(directory)
    assert "planted" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["os.system", "shutil.rmtree", "pathlib.os.getpid"])
def test_a_name_does_not_lead_through_a_module_to_another(name):
    stored = {"type": "named", "name": f"jaxtl.training.run_dir:{name}"}
    assert serialization.foreign_modules(stored) == set()
    with pytest.raises(tl.UserError, match="is a module"):
        serialization.from_json(stored)


@pytest.mark.parametrize("kind", ["os:system", "subprocess:Popen", "builtins:eval"])
def test_json_calls_nothing_but_dataclasses(kind):
    with pytest.raises(tl.UserError, match="is no dataclass"):
        serialization.from_json({"type": kind, "command": "echo"})


def test_the_modules_that_json_would_import_are_named(tmp_path):
    exp = tl.Experiment(model=tl.models.MLP(), data=tl.data.Digits(), steps=1)
    stored = serialization.to_json(exp)
    assert serialization.foreign_modules(stored) == set()
    planted = {"type": "map", "items": [["f", {"type": "named", "name": "evil:f"}]]}
    assert serialization.foreign_modules({**stored, "terms": planted}) == {"evil"}
    stored = {"experiment": {**stored, "terms": planted}, "file": None}
    (tmp_path / "experiment.json").write_text(json.dumps(stored))
    with pytest.raises(tl.UserError, match="the code of module 'evil'"):
        run_dir.read_experiment(tmp_path)


def test_a_study_from_elsewhere_has_its_seeds_and_overrides(tmp_path, monkeypatch):
    directory, _ = _make(tmp_path, STUDY, monkeypatch)
    file = variants.reopen(directory)
    assert list(file.variants) == ["a"]
    assert file.variants["a"].batch == 16
