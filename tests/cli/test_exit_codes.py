"""No exception leaves the command line: exit codes, sentences and the log."""

import os
import pathlib
import re
import signal

import pytest

from jaxtl.cli import main, models
from jaxtl.core.errors import Stopped, UserError


def _run(monkeypatch, capsys, error):
    """Exit code and standard error of a command that raises."""

    def raises(args):
        raise error

    monkeypatch.setattr(models, "main", raises)
    return main.main(["models"]), capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (UserError("steps=-1: expected 0 or more."), 1, "steps=-1: expected"),
        (IsADirectoryError(21, "Is a directory", "a/b"), 1, "a/b: is a directory."),
        (PermissionError(13, "Permission denied", "x"), 1, "x: permission denied."),
        (OSError(28, "No space left on device"), 1, ": no space left on device."),
        (MemoryError(), 1, "out of memory; a smaller batch"),
        (RuntimeError("RESOURCE_EXHAUSTED: 5 GiB"), 1, "out of memory"),
        (KeyboardInterrupt(), 130, "stopped."),
        (Stopped("stopped after step 3.", signal.SIGTERM), 143, "after step 3."),
    ],
)
def test_each_error_is_one_sentence(monkeypatch, capsys, error, code, sentence):
    status, text = _run(monkeypatch, capsys, error)
    assert status == code
    assert sentence in text
    assert len(text.strip().splitlines()) == 1
    assert "Traceback" not in text


def test_an_unforeseen_error_names_the_file_with_its_traceback(monkeypatch, capsys):
    status, text = _run(monkeypatch, capsys, KeyError("axis"))
    assert status == main.INTERNAL_ERROR == 70
    assert len(text.strip().splitlines()) == 1
    log = pathlib.Path(re.search(r"traceback is in (.*)\.$", text)[1])
    assert "KeyError: 'axis'" in log.read_text()
    assert "Traceback (most recent call last)" in log.read_text()
    log.unlink()


@pytest.mark.usefixtures("default_hangup")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_outside_of_training_ends_the_command(monkeypatch, capsys, number):
    monkeypatch.setattr(models, "main", lambda args: os.kill(os.getpid(), number))
    assert main.main(["models"]) == 128 + number
    assert capsys.readouterr().err.strip() == "stopped."
    assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.parametrize("statement", ["import sys; sys.exit(0)", "raise SystemExit"])
def test_a_file_that_exits_is_an_error(tmp_path, capsys, statement):
    file = tmp_path / "leaves.py"
    file.write_text(f"x = 1\n{statement}\n")
    assert main.main(["run", str(file), "--out", str(tmp_path / "out")]) == 1
    assert "leaves.py, line 2: the file ends the program" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
