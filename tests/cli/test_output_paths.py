"""Every path that a command writes to is looked at before its work begins."""

import argparse
import itertools
import pathlib
import re
import time

import pytest

from jaxtl.cli import arguments, main
from jaxtl.core import output_paths
from jaxtl.core.errors import UserError


def _outputs():
    """(command, option string or "", its type) of every argument for an output."""
    [subparsers] = [
        action
        for action in main._parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    for command, parser in subparsers.choices.items():
        for action in parser._actions:
            is_output = action.dest in ("out", "plot")
            if is_output or (command, action.dest) == ("convert", "target"):
                yield command, action


def test_every_output_is_declared_as_one():
    outputs = list(_outputs())
    assert len(outputs) > 15
    for command, action in outputs:
        assert issubclass(action.type, output_paths.OutputPath), (command, action.dest)


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("run one.py --out", "file/run"),
        ("sweep one.py --out", "file"),
        ("worker one.py --storage x --out", "file/x/y"),
        ("compare run --plot", "missing/x.png"),
        ("compare run --plot", "folder"),
        ("wise run --plot", "missing/x.png"),
        ("wise run --out", "file/weights"),
        ("wise run --out", "missing/curve.png"),
        ("lr one.py --out", "file/x.png"),
        ("probe one.py --out", "missing/x.json"),
        ("ensemble run --out", "folder"),
        ("data one.py --out", "missing/x.png"),
        ("convert run", "missing/x.safetensors"),
        ("convert run", "file/x"),
        ("export run", "file/bundle"),
        ("report run --out", "file"),
        ("diagnose run --out", "file"),
        ("labels run --out", "file"),
        ("soup run run --out", "file/x"),
        ("importance run --out", "file/x.safetensors"),
        ("reproduce x --out", "file/x"),
    ],
)
def test_a_place_that_can_t_be_written_is_told_at_once(
    command, output, tmp_path, monkeypatch, capsys
):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    words = [*command.split(), output]

    def work(_):
        raise AssertionError("the work has begun")

    monkeypatch.setattr(main._module(words[0]), "main", work)
    assert main.main(words) == 1
    error = capsys.readouterr().err
    option = f"{words[-2]}: " if words[-2].startswith("--") else ""
    assert error.startswith(f"jaxtl {words[0]}: {option}")
    assert "can't be written: " in error or "a directory is needed" in error


def test_what_the_user_may_not_write_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(output_paths.os, "access", lambda *_: False)
    for kind in (output_paths.OutputFile, output_paths.OutputFolder):
        with pytest.raises(UserError, match="can't be written to by this user"):
            kind(tmp_path / "x").check()


def test_what_can_be_written_passes(tmp_path):
    output_paths.OutputFile(tmp_path / "x.png").check()
    output_paths.OutputFileOfNewFolder(tmp_path / "a" / "b" / "x.png").check()
    output_paths.OutputFolder(tmp_path / "a" / "b").check()
    output_paths.OutputBySuffix(tmp_path / "a" / "b").check()
    assert not any(pathlib.Path(tmp_path).iterdir())


def test_runs_that_begin_at_once_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "time_ns", itertools.count(10**18, 4 * 10**5).__next__)
    folders = []
    for _ in range(5):
        folders.append(arguments.default_folder("mine"))
        folders[-1].mkdir(parents=True)
    assert {f.parent for f in folders} == {pathlib.Path("runs/mine")}
    assert all(re.fullmatch(r"\d{8}-\d{6}-\d{3}", f.name) for f in folders)
    assert sorted(set(folders)) == folders
