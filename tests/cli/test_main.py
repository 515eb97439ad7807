"""The command line, called in this process; one file of variants serves all tests."""

import importlib
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import jaxtl as tl
from jaxtl.cli import main

FILE = '''
"""A tiny study."""
import jaxtl as tl

SEEDS = (0, 1)

def experiment():
    model = tl.models.MLP(widths=(8,))
    data = tl.data.Digits(labels_per_class=5, split_seed=0)
    common = dict(model=model, data=data, steps=6, batch=16)
    return {
        "source": tl.Experiment(model=model, data=tl.data.Digits(), steps=6, batch=16),
        "5/scratch": tl.Experiment(**common),
        "5/tuned": tl.Experiment(**common, init=tl.Variant("source")),
        "all/tuned": tl.Experiment(
            **{**common, "data": tl.data.Digits(split_seed=0)},
            init=tl.Variant("source", reset="head"),
            optim=tl.optim.AdamW(groups={"head": 1.0, ".*": tl.FROZEN}),
        ),
    }
'''
ONE = """
import jaxtl as tl

def experiment():
    return tl.Experiment(
        model=tl.models.MLP(widths=(8,)), data=tl.data.Digits(), steps=4, batch=16
    )
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Returns a folder with a finished study in `study` and a finished run in `run`."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "many.py").write_text(FILE)
    (folder / "one.py").write_text(ONE)
    study, run = str(folder / "study"), str(folder / "run")
    assert main.main(["run", str(folder / "many.py"), "--out", study]) == 0
    assert (
        main.main(["run", str(folder / "one.py"), "optim.lr=0.01", "--out", run]) == 0
    )
    return folder


def text(capsys, *arguments, code=0):
    assert main.main([str(a) for a in arguments]) == code
    out, err = capsys.readouterr()
    return err if code else out


def test_study_leaves_tables_plot_and_one_directory_per_seed(place):
    study = place / "study"
    found = {str(p.parent.relative_to(study)) for p in study.rglob("result.json")}
    # The source is trained once, with its own seed, since others start from it.
    assert found == {
        "source/seed0",
        "5/scratch/seed0",
        "5/scratch/seed1",
        "5/tuned/seed0",
        "5/tuned/seed1",
        "all/tuned/seed0",
        "all/tuned/seed1",
    }
    assert Image.open(study / "results.png").size[0] > 600
    rows = json.loads((study / "summary.json").read_text())
    assert [r["name"] for r in rows] == ["source", "5/scratch", "5/tuned", "all/tuned"]
    entry = rows[1]["test"]["accuracy"]
    values = np.array(entry["values"])
    # Student's t with one degree of freedom: 12.706 at 97.5 %.
    half = 12.7062 * values.std(ddof=1) / np.sqrt(2)
    assert entry["half_width_95"] == pytest.approx(half, rel=1e-4)


def test_second_run_is_refused_and_resume_runs_nothing_again(place, capsys):
    study = place / "study"
    message = text(capsys, "run", place / "many.py", "--out", study, code=1)
    assert "exists already" in message
    assert "--overwrite" in message
    stamp = (study / "5" / "tuned" / "seed1" / "result.json").stat().st_mtime_ns
    out = text(capsys, "resume", study)
    assert "5/tuned" in out or "tuned" in out
    after = (study / "5" / "tuned" / "seed1" / "result.json").stat().st_mtime_ns
    assert after == stamp


def test_resume_runs_what_is_missing(place, capsys):
    import shutil

    gone = place / "study" / "5" / "scratch" / "seed1"
    before = json.loads((gone / "result.json").read_text())
    shutil.rmtree(gone)
    text(capsys, "resume", place / "study")
    after = json.loads((gone / "result.json").read_text())
    assert after["test"] == before["test"]


def test_overrides_reach_the_stored_experiment(place):
    stored = json.loads((place / "run" / "experiment.json").read_text())
    assert stored["experiment"]["optim"]["lr"] == 0.01
    assert stored["overrides"] == ["optim.lr=0.01"]


def test_eval_repeats_the_result(place, capsys):
    out = text(capsys, "eval", place / "run", "--split", "test")
    result = json.loads((place / "run" / "result.json").read_text())
    assert f"{100 * result['test']['accuracy']:.1f}" in out
    assert f"{result['test']['nll']:.4f}" in out


def test_nothing_is_written_unasked_into_the_current_folder(
    place, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    one, run = place / "one.py", place / "run"
    text(capsys, "data", one)
    # Three steps find no rate, which is exit code 1.
    text(capsys, "lr", one, "--steps", 3, "--low", 1e-3, "--high", 1e-2, code=1)
    for command in ("show", "inspect", "eval", "compare", "watch"):
        text(capsys, command, run)
    text(capsys, "models")
    assert not any(tmp_path.iterdir())


def test_eval_of_all_runs_prints_the_means_of_the_study(place, capsys):
    out = text(capsys, "eval", place / "study", "--all")
    [_, scratch, *_] = json.loads((place / "study" / "summary.json").read_text())
    [line] = [x for x in out.splitlines() if "5/scratch" in x]
    mean = scratch["test"]["accuracy"]["mean"]
    assert line.split()[1] == f"{100 * mean:.1f}"
    assert line.split()[-1] == "2"


def test_show_lists_every_parameter_with_its_rate(place, capsys):
    out = text(capsys, "show", place / "one.py", "optim.lr=0.25")
    for path in ("layer1/dense/kernel", "layer1/dense/bias", "head/dense/kernel"):
        assert path in out
    assert "0.25" in out
    out = text(capsys, "show", place / "many.py")
    assert "those of 'source'" in out


def test_show_marks_what_is_frozen(place, capsys):
    out = text(
        capsys,
        "show",
        place / "one.py",
        'optim=tl.optim.AdamW(groups={"head": 1.0, ".*": tl.FROZEN})',
    )
    [line] = [x for x in out.splitlines() if "layer1/dense/kernel" in x]
    assert "frozen" in line
    [line] = [x for x in out.splitlines() if "head/dense/kernel" in x]
    assert "frozen" not in line


def test_compare_groups_seeds(place, capsys):
    plot = place / "compare.png"
    out = text(capsys, "compare", place / "study", place / "run", "--plot", plot)
    [line] = [x for x in out.splitlines() if "5/tuned" in x]
    assert "±" in line
    assert Image.open(plot).size[0] > 600


def test_what_was_read_is_printed_and_stored(place, tmp_path, capsys):
    run = tmp_path / "run"
    file = str(place / "one.py")
    assert main.main(["run", file, "steps=0", "--out", str(run)]) == 0
    [line] = json.loads((run / "data.json").read_text())["target"]
    assert line.startswith("Digits: 1,797 examples, classification, 10 classes: 0 178,")
    assert f"target: {line}\n" in capsys.readouterr().out
    assert main.main(["show", str(run)]) == 0
    assert f"target: {line}\n" in capsys.readouterr().out
    assert main.main(["data", file, "--out", str(tmp_path / "d.png")]) == 0
    assert line in capsys.readouterr().out


def test_data_writes_a_contact_sheet(place, capsys):
    sheet = place / "sheet.png"
    out = text(capsys, "data", place / "one.py", "--out", sheet)
    assert "1,294" in out  # train rows of the 1,797 digits, after 20 % and 10 %
    assert Image.open(sheet).size[1] > 300
    assert "RenderedDigits" in text(capsys, "data")
    # Where no row is to train on with its label, the next split is shown.
    for number, option in enumerate(("data.test=1.0", "data.labels=0")):
        sheet = place / f"sheet{number}.png"
        options = (option, "data.labels_per_class=None", "--out", sheet)
        text(capsys, "data", place / "one.py", *options)
        assert sheet.exists()


def test_export_and_predict(place, capsys):
    folder = place / "exported"
    text(capsys, "export", place / "run", folder)
    digits = np.zeros((8, 8), np.uint8)
    digits[1:7, 3:5] = 255
    Image.fromarray(digits).save(place / "one.png")
    out = text(capsys, "predict", folder, place / "one.png")
    assert "one.png" in out
    # A run in place of its export gives the same rows, a folder those of its pictures.
    (place / "pictures" / "below").mkdir(parents=True)
    for name in ("b.png", "below/a.png"):
        Image.fromarray(digits).save(place / "pictures" / name)
    (place / "pictures" / "notes.txt").write_text("no picture")
    by_run = text(capsys, "predict", place / "run", place / "one.png")
    assert f"`jaxtl export {place / 'run'} OUT` keeps it" in by_run
    assert by_run.splitlines()[-3:] == out.splitlines()[-3:]
    several = text(capsys, "predict", folder, place / "pictures")
    assert 0 < several.index("b.png") < several.index("below/a.png")
    assert "notes" not in several
    (place / "table.csv").write_text("a,b\n1,2\n")
    said = text(capsys, "predict", place / "run", place / "table.csv", code=1)
    assert f"is a table, but {place / 'run'} takes examples of shape" in said
    (place / "empty").mkdir()
    said = text(capsys, "predict", folder, place / "empty", code=1)
    assert "there are no images" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere.py"], "no experiment file"),
        (["run", "{one}", "stepz=3"], "did you mean 'steps'"),
        (["run", "{one}", "steps=many"], "steps='many'"),
        (["run", "{one}", "steps"], "has no '='"),
        (["run", "{many}", "5/tuned.optim.lrr=1"], "did you mean 'lr'"),
        (["resume", "nowhere"], "experiment.json"),
        (["eval", "nowhere"], "experiment.json"),
        (["compare", "nowhere"], "no directory"),
        (["export", "nowhere", "out"], "nowhere"),
        (["predict", "nowhere", "x.png"], "nowhere"),
        (["predict", "{study}", "x.png"], "holds 7 runs"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_1(
    place, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    names = {"one": str(place / "one.py"), "many": str(place / "many.py")}
    names["study"] = str(place / "study")
    arguments = [a.format(**names) for a in arguments]
    said = text(capsys, *arguments, code=1)
    assert message in said
    assert "Traceback" not in said
    assert not list(tmp_path.rglob("*.json"))


STARTUP = """
import contextlib, io, sys, time
from jaxtl.cli import main
for command in (None, *main.COMMANDS):
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main.main(["--help"] if command is None else [command, "--help"])
heavy = "jax flax optax numpy scipy sklearn pandas pyarrow rich matplotlib optuna"
heavy = f"{heavy} pydantic PIL orbax transformers torch".split()
print(time.process_time(), *[name for name in heavy if name in sys.modules])
"""


def test_help_of_every_command_starts_quickly_and_imports_no_library():
    output = subprocess.run(
        [sys.executable, "-c", STARTUP], capture_output=True, text=True, check=True
    ).stdout
    seconds, *imported = output.split()
    assert imported == []
    # About 0.2 s for all 25 in one process; jax alone takes longer to import.
    assert float(seconds) < 1


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_has_help_of_one_line(name, capsys):
    with pytest.raises(SystemExit) as exit_:
        main.main([name, "--help"])
    assert exit_.value.code == 0
    command = importlib.import_module(f"jaxtl.cli.{name}")
    assert "\n" not in command.HELP
    assert command.HELP in " ".join(capsys.readouterr().out.split())


def test_wrong_usage_is_exit_code_2(capsys):
    assert main.main([]) == 2
    with pytest.raises(SystemExit) as stopped:
        main.main(["run", "x.py", "--outt", "y"])
    assert stopped.value.code == 2


def test_a_failed_run_fails_the_command_and_not_the_others(place, tmp_path, capsys):
    out = tmp_path / "failing"
    arguments = ["run", place / "many.py", "SEEDS=0", "5/scratch.optim.lr=1e38"]
    said = text(capsys, *arguments, "--out", out, code=1)
    assert "5/scratch seed 0 failed" in said
    assert (out / "5" / "tuned" / "seed0" / "result.json").exists()
    assert (
        "failed" in json.dumps(json.loads((out / "summary.json").read_text()))
        or (json.loads((out / "summary.json").read_text())[1]["errors"])
    )


def test_models_lists_published_sizes(capsys):
    out = text(capsys, "models")
    [line] = [x for x in out.splitlines() if "ResNet-50 " in x]
    assert "25,557,032" in line  # He et al. 2016; torchvision's count


def test_inspect_says_what_a_file_would_load_into(place, tmp_path, capsys):
    from jaxtl.models import ResNet
    from jaxtl.pretrained import write_file

    model = ResNet(depth=8, outputs=10)
    params, stats = model.pure().init(jax.random.key(0), np.zeros((1, 16, 16, 3)))
    write_file(tmp_path / "a.safetensors", model, params, stats)
    out = text(capsys, "inspect", tmp_path / "a.safetensors")
    assert "tl.models.ResNet(outputs=10, depth=8)" in out
    assert "stem/conv/kernel" in out
    assert "layer1/dense/kernel" in text(capsys, "inspect", place / "run")


def test_convert_changes_the_container_and_no_value(tmp_path, capsys):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4)}
    np.savez(tmp_path / "a.npz", **arrays)
    text(capsys, "convert", tmp_path / "a.npz", tmp_path / "a.safetensors")
    found = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    for name, value in arrays.items():
        np.testing.assert_array_equal(found[name], value)
    again = ("convert", tmp_path / "a.npz", tmp_path / "a.safetensors")
    said = text(capsys, *again, code=1)
    assert "exists already" in said
    assert "convert: convert:" not in said


def test_convert_writes_a_run_back_in_its_own_layout(tmp_path, capsys):
    file = tmp_path / "resnet.py"
    file.write_text(
        "import numpy as np\n"
        "import jaxtl as tl\n"
        "def experiment():\n"
        "    return tl.Experiment(model=tl.models.ResNet(depth=8, width=4),\n"
        "        data=tl.data.Digits(limit=200), steps=2, batch=8)\n"
    )
    text(capsys, "run", file, "--out", tmp_path / "run")
    text(capsys, "convert", tmp_path / "run", tmp_path / "out.safetensors")
    found = safetensors.numpy.load_file(tmp_path / "out.safetensors")
    best = tl.pretrained.FromRun(str(tmp_path / "run")).read().params
    # akamaster's layout: kernels OIHW, linear (out, in).
    kernel = np.transpose(best["stem"]["conv"]["kernel"], (3, 2, 0, 1))
    np.testing.assert_array_equal(found["conv1.weight"], kernel)
    np.testing.assert_array_equal(
        found["linear.weight"], np.transpose(best["head"]["dense"]["kernel"])
    )
    said = text(capsys, "convert", tmp_path / "run", tmp_path / "folder", code=1)
    assert ".safetensors" in said


def test_every_argument_of_every_command_is_described():
    parser = main._parser()
    [subparsers] = parser._subparsers._group_actions
    assert tuple(subparsers.choices) == main.COMMANDS
    for name, command in subparsers.choices.items():
        for action in command._actions:
            assert action.help, f"jaxtl {name}: {action.dest} has no help"


def test_help_lists_each_command_once_under_its_purpose(capsys):
    with pytest.raises(SystemExit):
        main.main(["--help"])
    text = capsys.readouterr().out
    for name in main.COMMANDS:
        assert text.count(f"\n  {name} ") == 1
    for purpose in main.GROUPS:
        assert f"\n{purpose}:\n" in text
