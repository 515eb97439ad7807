"""A run's directory: never overwritten by accident, one process at a time."""

import json
import subprocess
import sys

import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core.errors import RunLocked, UserError
from jaxtl.training import run_dir, setup


def test_json_is_written_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    run_dir.write_json(path, {"x": [1, 2.5, float("inf")]})
    assert run_dir.read_json(path) == {"x": [1, 2.5, float("inf")]}

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_dir.os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_dir.write_json(path, {"x": "new"})
    assert run_dir.read_json(path)["x"][0] == 1, "the old one stands"
    with pytest.raises(TypeError):
        run_dir.write_json(path, object())
    assert run_dir.read_json(path)["x"][0] == 1


def test_missing_and_damaged_files_are_told(tmp_path):
    with pytest.raises(UserError, match=r"there is no result\.json in"):
        run_dir.read_json(tmp_path / "result.json")
    (tmp_path / "experiment.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"experiment\.json is damaged"):
        run_dir.read_experiment(tmp_path)
    (tmp_path / "experiment.json").write_text("[]")
    with pytest.raises(UserError, match=r"it holds \[\], expected an object"):
        run_dir.read_experiment(tmp_path)
    (tmp_path / "experiment.json").write_text("{}")
    with pytest.raises(UserError, match="holds no experiment"):
        run_dir.read_experiment(tmp_path)


def test_a_directory_that_holds_anything_is_refused(tmp_path, digits):
    (tmp_path / "notes.txt").write_text("mine")
    for overwrite, message in (
        (False, "never overwritten"),
        (True, "no run directory"),
    ):
        with pytest.raises(UserError, match=message):
            tl.setup(digits(), tmp_path, overwrite=overwrite)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(UserError, match="is a file; a directory is needed"):
        tl.setup(digits(), tmp_path / "notes.txt")


def test_a_run_is_replaced_only_when_asked(tmp_path, digits):
    tl.train(tl.setup(digits(steps=0), tmp_path / "run"))
    before = (tmp_path / "run" / "result.json").read_text()
    with pytest.raises(UserError, match="--overwrite"):
        tl.setup(digits(steps=0), tmp_path / "run")
    assert (tmp_path / "run" / "result.json").read_text() == before
    tl.setup(digits(steps=1), tmp_path / "run", overwrite=True)
    assert not (tmp_path / "run" / "result.json").exists()
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert run_dir.read_experiment(tmp_path / "run").steps == 1


def test_an_experiment_that_cant_be_leaves_no_directory(tmp_path, digits):
    wrong = digits(optim=tl.optim.AdamW(groups={"heed": 1.0}))
    with pytest.raises(UserError):
        tl.setup(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()


HOLDER = """
import pathlib, sys
from jaxtl.training import run_dir
with run_dir.lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_never_share_a_directory(tmp_path, digits):
    run = tl.setup(digits(steps=0), tmp_path / "run")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=run_dir.pathlib.Path(run_dir.__file__).parents[2],
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"another process \(pid {other.pid}\)"):
            tl.train(run)
        with pytest.raises(UserError, match="another process"):
            tl.setup(digits(steps=0), tmp_path / "run", overwrite=True)
        other.kill()  # the lock goes with its holder, however that ends
    assert "test" in tl.train(run)


def test_the_experiment_and_what_it_came_from_are_stored(tmp_path, digits):
    file = tmp_path / "mine.py"
    file.write_text("# an experiment\n")
    run_dir.create(tmp_path / "run", overwrite=False)
    run_dir.write_experiment(
        tmp_path / "run", digits(), file=file, overrides=("steps=6",), variant="a"
    )
    stored = json.loads((tmp_path / "run" / "experiment.json").read_text())
    assert stored["file"] == "mine.py"
    assert stored["overrides"] == ["steps=6"]
    assert stored["variant"] == "a"
    assert (tmp_path / "run" / "experiment.py").read_text() == "# an experiment\n"
    assert run_dir.read_experiment(tmp_path / "run") == digits()


def test_another_experiment_does_not_continue_a_run(tmp_path, digits):
    arrays = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    labels = np.arange(60) % 3

    def exp(x=arrays, **changes):
        return digits(data=tl.data.Arrays(x=x, y=labels), steps=2, **changes)

    tl.train(tl.setup(exp(), tmp_path / "run"))
    with pytest.raises(UserError, match="only the program that made it has"):
        tl.resume(tmp_path / "run")
    assert tl.resume(tmp_path / "run", exp()).steps_done == 2
    with pytest.raises(UserError, match="another experiment: seed differ"):
        tl.resume(tmp_path / "run", exp(seed=5))
    with pytest.raises(UserError, match="another experiment: data differ"):
        tl.resume(tmp_path / "run", exp(arrays + 1))


def test_what_a_kill_before_the_first_step_leaves_can_be_run_and_replaced(
    tmp_path, digits
):
    out = tmp_path / "run"
    for overwrite in (False, True):
        run_dir.create(out, overwrite=overwrite)
        (out / "experiment.py").write_text("# the copy of the file")
        with pytest.raises(UserError, match="stopped before it began; start it again"):
            tl.resume(out)
        tl.setup(digits(steps=0), out, overwrite=overwrite)
        assert (out / "experiment.json").exists()
        assert not (out / "experiment.py").exists()
        (out / "experiment.json").unlink()
        (out / "splits.npz").unlink()
        (out / "loaded.json").unlink()
        (out / "data.json").unlink()


def test_a_folder_with_an_experiment_file_of_ones_own_is_not_taken(tmp_path, digits):
    (tmp_path / "experiment.py").write_text("# mine")
    for overwrite in (False, True):
        with pytest.raises(UserError):
            tl.setup(digits(steps=0), tmp_path, overwrite=overwrite)
    assert (tmp_path / "experiment.py").read_text() == "# mine"


def test_a_directory_that_can_not_be_made_is_refused_before_the_set_up(
    tmp_path, digits, monkeypatch
):
    def no_setup(*_, **__):
        raise AssertionError("the run was set up first")

    monkeypatch.setattr(setup, "Run", no_setup)
    (tmp_path / "file").write_text("")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"file is a file.*a/b can't be made"):
        tl.setup(digits(), tmp_path / "file" / "a" / "b")
    with pytest.raises(UserError, match="is no run directory"):
        tl.setup(digits(), tmp_path / "mine", overwrite=True)
    monkeypatch.setattr(run_dir.os, "access", lambda *_: False)
    with pytest.raises(UserError, match="can't be written to by this user"):
        tl.setup(digits(), tmp_path / "new")


def test_resuming_a_run_in_progress_names_its_process(tmp_path, digits):
    out = tmp_path / "run"
    tl.setup(digits(steps=0), out)
    (out / "experiment.json").write_text("is being written")
    with run_dir.lock(out), pytest.raises(RunLocked, match="in use by another process"):
        tl.resume(out)
