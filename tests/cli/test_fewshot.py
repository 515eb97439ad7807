"""`jaxtl fewshot` on an experiment file, and what it refuses."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import jaxtl as tl
from jaxtl.analysis import episodes
from jaxtl.cli import main

FILE = """
import jaxtl as tl

def experiment():
    return tl.Experiment(model=tl.models.MLP(widths=(12,)), data=tl.data.Digits())
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("fewshot") / "digits.py"
    path.write_text(FILE)
    return path


def test_a_file_gives_a_table_and_a_file_of_results(file, tmp_path, capsys):
    out = tmp_path / "few.json"
    options = "--ways 3 --shots 1,2 --queries 4 --episodes 4 --val-episodes 3"
    command = ["fewshot", str(file), *options.split(), "--methods"]
    assert main.main([*command, "protonet,simpleshot,nearest,tim,finetune"]) == 0
    text = capsys.readouterr().out
    assert "3-way 1-shot" in text
    assert "the network has random weights" in text
    assert "5 test classes (drawn with seed 0)" in text
    named = ["--test-classes", "1,2,3", "--val-classes", "4,5,6", "--out"]
    assert main.main([*command, "nearest,bdcspn", *named, str(out)]) == 0
    content = json.loads(out.read_text())
    assert content["test_classes"] == ["1", "2", "3"]
    assert [row["shots"] for row in content["results"]] == [1, 1, 2, 2]
    assert content["results"][1]["transductive"]
    table = tmp_path / "few.csv"
    assert main.main([*command, "nearest,bdcspn", *named, str(table)]) == 0
    with table.open() as lines:
        rows = list(csv.DictReader(lines))
    settings = [json.loads(row["settings"]) for row in rows]
    assert settings == [row["settings"] for row in content["results"]]
    assert [float(row["accuracy"]) for row in rows] == [
        row["accuracy"] for row in content["results"]
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--ways 11", "there are 10 classes"),
        ("--shots one", "--shots 'one': expected whole numbers"),
        ("--shots 500", "need 515"),
        ("--methods protonett", "did you mean 'protonet'"),
        ("--test-classes 1,2,3,4,5 --val-classes 5,6", "overlap in 1 classes ('5')"),
        ("--test-classes 1,2,x", "there is no class 'x'"),
        ("--variable --ways 5", "--ways 5 does not go with --variable"),
        ("--out few.txt", "ends in .json or .csv"),
        ("--weights a.pth", "--weights does not go with an experiment file"),
        ("--stage nose", "no such stage"),
    ],
)
def test_what_does_not_go_is_refused_in_one_sentence(
    options, words, file, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main.main(["fewshot", str(file), *options.split()]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_options_of_a_path_do_not_go_with_what_is_in_memory(file):
    exp = tl.Experiment(model=tl.models.MLP(), data=tl.data.Digits())
    for options in ({"data": "x"}, {"variant": "x"}, {"overrides": ["seed=1"]}):
        with pytest.raises(tl.UserError, match="does not go with an experiment or run"):
            episodes.study(exp, **options)


def test_a_folder_needs_weights(tmp_path, capsys):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    assert main.main(["fewshot", str(tmp_path)]) == 1
    assert "--weights names pretrained weights" in capsys.readouterr().err
    assert main.main(["fewshot", str(tmp_path / "none")]) == 1
    assert "there is no file or folder" in capsys.readouterr().err


def _images(folder, names):
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def test_a_run_is_evaluated_on_classes_that_it_was_not_trained_on(tmp_path, capsys):
    _images(tmp_path / "old", "abcd")
    _images(tmp_path / "new", "defgh")
    file, run = tmp_path / "images.py", tmp_path / "run"
    file.write_text(
        "import jaxtl as tl\n\n\ndef experiment():\n"
        "    return tl.Experiment(model=tl.models.MLP(widths=(6,)), steps=1,\n"
        f"        data=tl.data.ImageFolder({str(tmp_path / 'old')!r}))\n"
    )
    assert main.main(["run", str(file), "--out", str(run)]) == 0
    text = "--ways 2 --shots 1 --queries 2 --episodes 3 --methods protonet"
    options = text.split()
    capsys.readouterr()
    new = str(tmp_path / "new")
    assert main.main(["fewshot", str(run), "--data", new, *options]) == 0
    by_data = capsys.readouterr().out
    assert main.main(["fewshot", new, "--weights", str(run), *options]) == 0
    by_weights = capsys.readouterr().out
    rows = [
        next(line for line in text.splitlines() if "protonet" in line)
        for text in (by_data, by_weights)
    ]
    assert rows[0] == rows[1]
    assert main.main(["fewshot", str(run), *options]) == 1
    assert "class 'a' has" in capsys.readouterr().err
