"""Every command on every kind of directory: what `run` wrote is taken or named."""

import argparse
import json
import pathlib

import pytest

from jaxtl.cli import main, run_argument
from jaxtl.core.errors import UserError
from jaxtl.results.database import Database
from jaxtl.training import run_dir, run_paths

OF_ONE_RUN = (
    *("eval", "probe", "diagnose", "labels", "importance", "inspect", "wise"),
    *("export", "convert", "show", "resume"),
)
OF_SEVERAL = ("soup", "ensemble")
SECOND = {"export": ["out"], "convert": ["x.safetensors"]}
ALSO_FILES = ("probe", "importance", "inspect", "convert", "show")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a directory of each kind; nothing in it was trained."""
    folder = tmp_path_factory.mktemp("kinds")
    for name in ("many/seed0", "many/seed10", "many/seed9", "study/a/seed0", "empty"):
        (folder / name).mkdir(parents=True)
        if name != "empty":
            (folder / name / "experiment.json").write_text("{}")
    (folder / "study" / "study.json").write_text("{}")
    (folder / "exported").mkdir()
    (folder / "exported" / "export.json").write_text("{}")
    (folder / "sweep").mkdir()
    with Database(folder / "sweep", create=True):
        pass
    (folder / "search" / "worker-0").mkdir(parents=True)
    with Database(folder / "search" / "worker-0", create=True):
        pass
    (folder / "file.txt").write_text("no run")
    (folder / "file.py").write_text("def experiment(): ...")
    return folder


def error(capsys, command, directory, *options):
    """What a command says of a directory: one line of standard error, exit code 1."""
    arguments = [command, str(directory), *SECOND.get(command, ()), *options]
    assert main.main(arguments) == 1
    out, err = capsys.readouterr()
    assert err.startswith(f"jaxtl {command}: ")
    assert len(err.splitlines()) == 1
    assert out == ""
    return err


@pytest.fixture
def subparsers():
    [actions] = main._parser()._subparsers._group_actions
    return actions.choices


def test_the_commands_of_one_run_are_those_that_offer_all(subparsers):
    offering = {n for n, p in subparsers.items() if "--all" in p.format_help()}
    assert offering == set(OF_ONE_RUN)


@pytest.mark.parametrize("command", OF_ONE_RUN)
def test_several_runs_are_listed_and_the_way_to_name_one(place, capsys, command):
    text = error(capsys, command, place / "many")
    assert "holds 3 runs: seed0, seed9, seed10; name one of them, such as" in text
    assert text.endswith(f"{place}/many/seed0, or take each of them with --all.\n")


@pytest.mark.parametrize("command", [*OF_ONE_RUN, *OF_SEVERAL])
def test_a_sweep_keeps_no_models(place, capsys, command):
    for name in ("sweep", "search"):
        assert f"{name} is a sweep" in error(capsys, command, place / name)


@pytest.mark.parametrize("command", [*OF_ONE_RUN, *OF_SEVERAL])
def test_a_run_that_is_not_in_a_study_is_compared_with_those_that_are(
    place, capsys, command
):
    text = error(capsys, command, place / "study" / "a" / "sed0")
    assert "there is no run 'a/sed0' in" in text
    assert "(its runs: a/seed0); did you mean 'a/seed0'?" in text


@pytest.mark.parametrize("command", [*OF_ONE_RUN, *OF_SEVERAL])
@pytest.mark.parametrize("kind", ["nowhere", "empty", "exported", "file.txt"])
def test_what_is_no_run_is_one_sentence(place, capsys, command, kind):
    text = error(capsys, command, place / kind)
    if command not in ALSO_FILES:
        export = "is an exported model, for `jaxtl predict`"
        if command == "eval":  # which takes one, with the data of an experiment
            export = "is an export, which does not say how to read data: --data"
        words = {
            "exported": export,
            "file.txt": "is a file; expected the directory of a run",
        }
        assert words.get(kind, "is no directory of a run") in text


@pytest.mark.parametrize("command", [*OF_ONE_RUN, *OF_SEVERAL])
def test_a_study_with_a_run_that_lost_its_mark_is_refused(tmp_path, capsys, command):
    for seed in (0, 1):
        (tmp_path / f"seed{seed}").mkdir()
        (tmp_path / f"seed{seed}" / "experiment.json").write_text("{}")
        (tmp_path / f"seed{seed}" / "result.json").write_text("{}")
    (tmp_path / "seed1" / "experiment.json").unlink()
    text = error(capsys, command, tmp_path)
    assert f"{tmp_path}/seed1 holds the result of a run and no experiment.json" in text
    if command in ("inspect", "convert"):  # without any mark, a folder of weights
        return
    (tmp_path / "seed0" / "experiment.json").unlink()  # the first one is named
    assert f"{tmp_path}/seed0 holds the result" in error(capsys, command, tmp_path)


def test_results_below_a_run_or_of_the_sources_of_a_sweep_are_no_lost_runs(tmp_path):
    for name in ("seed0/kept", "grid/sources/a"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "result.json").write_text("{}")
    (tmp_path / "seed0" / "experiment.json").write_text("{}")
    with Database(tmp_path / "grid", create=True):
        pass
    assert run_paths.runs_of(tmp_path) == [tmp_path / "seed0"]


@pytest.mark.parametrize("command", ["eval", "export", "soup", "resume"])
@pytest.mark.parametrize("file", [run_dir.MARK, run_dir.STUDY])
def test_a_killed_overwrite_is_told(tmp_path, capsys, monkeypatch, command, file):
    (tmp_path / "seed0").mkdir()
    (tmp_path / file).write_text("{}")
    (tmp_path / "result.json").write_text("{}")
    for name in ("experiment.json", "result.json"):
        (tmp_path / "seed0" / name).write_text("{}")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_dir.shutil, "rmtree", killed)
    monkeypatch.setattr(run_dir.pathlib.Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        run_dir.create(tmp_path, overwrite=True)
    monkeypatch.undo()
    text = error(capsys, command, tmp_path)
    assert f"the run in {tmp_path} was stopped before it began; start it again" in text


def test_an_experiment_file_is_to_be_run_first(place, capsys):
    text = error(capsys, "eval", place / "file.py")
    assert f"`jaxtl run {place}/file.py` trains it" in text


def test_each_run_gets_outputs_of_its_own_and_one_that_fails_stops_no_other(
    place, capsys
):
    calls = []

    def command(args):
        calls.append((args.dir.name, str(args.out), str(args.plot)))
        if args.dir.name == "seed9":
            raise UserError("no checkpoint.")
        return 0

    args = argparse.Namespace(dir=place / "many", all=True)
    args.out, args.plot = pathlib.Path("v1.2"), pathlib.Path("a/p.png")
    assert run_argument.for_each_run(args, command, outputs=("out", "plot")) == 1
    assert calls == [
        (name, f"v1.2/{name}", f"a/p-{name}.png")
        for name in ("seed0", "seed9", "seed10")
    ]
    assert f"{place}/many/seed9 failed: no checkpoint." in capsys.readouterr().err


def test_the_only_run_of_a_study_is_taken_and_said(place, capsys):
    args = argparse.Namespace(dir=place / "study", all=False)
    assert run_argument.for_each_run(args, lambda args: args.dir.name == "seed0") == 1
    assert "study holds one run" in capsys.readouterr().out
    assert run_paths.find_runs([place / "many", place / "study"])[1].name == "seed9"
    with pytest.raises(UserError, match="is named twice"):
        run_paths.find_runs([place / "many", place / "many" / "seed9"])


def test_out_and_plot_write_nothing_where_they_are_not_given(subparsers):
    """A default would lie in the current folder; runs and sweeps go to runs/."""
    for name, parser in subparsers.items():
        for action in parser._actions:
            if {"--out", "--plot", "--save"} & set(action.option_strings):
                assert action.default in (None, []), name
                assert action.help, name


def test_watch_shows_the_runs_of_a_study(tmp_path, capsys):
    (tmp_path / "study.json").write_text(json.dumps({"runs": ["a/seed0", "b/seed0"]}))
    assert main.main(["watch", str(tmp_path)]) == 0
    assert "2 waiting" in capsys.readouterr().out
    run = tmp_path / "a" / "seed0"
    run.mkdir(parents=True)
    stored = {"experiment": {"steps": 40}, "file": "x.py"}
    (run / "experiment.json").write_text(json.dumps(stored))
    rows = [{"step": 20, "kind": "train", "loss": 0.5}]
    rows += [{"step": 20, "kind": "val", "accuracy": 0.25, "nll": 1.0}]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main.main(["watch", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "1 stopped, 1 waiting" in out
    [line] = [line for line in out.splitlines() if "a/seed0" in line]
    assert "a/seed0 stopped 20/40 0.5000 accuracy 25.0 %" in " ".join(line.split())
    (run / "lock").write_text("1\n")  # process 1 lives
    assert main.main(["watch", str(run)]) == 0
    assert "1 running" in capsys.readouterr().out
    for damaged in (b"9" * 30, b"\xff\xfe", "²".encode(), b""):
        (run / "lock").write_bytes(damaged)
        assert main.main(["watch", str(run)]) == 0
        assert "1 stopped" in capsys.readouterr().out
    (run / "metrics.jsonl").write_text("")
    (run / "result.json").write_text(json.dumps({"steps": 30}))  # it stopped early
    assert main.main(["watch", str(run)]) == 0
    assert " done 30/40 – – " in " ".join(capsys.readouterr().out.split()) + " "
