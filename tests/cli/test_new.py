"""`jaxtl new`: the files that it writes load, train, and say what they hold."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

import jaxtl as tl
from jaxtl.cli import main, new_data
from jaxtl.core.errors import UserError

SMALL = {
    "pictures": ("model.widths=(2,)", "model.units=4"),
    "table.csv": ("model.widths=(4,)",),
    "reviews.csv": ("model.width=8", "model.layers=1", "model.hidden=8"),
}
TASKS = {
    "pictures": "image-classification",
    "table.csv": "tabular-classification",
    "prices.csv": "tabular-regression",
    "reviews.csv": "text-classification",
    "train.tsv": "text-classification",
    "lines.txt": "text-generation",
    "tags.conll": "token-classification",
    "classes": "text-classification",
    "squad.json": "question-answering",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of small data of each kind."""
    path = tmp_path_factory.mktemp("new")
    random = np.random.default_rng(0)
    for split, name, number in np.ndindex(2, 2, 8):
        file = path / "pictures" / ("train", "val")[split] / "ab"[name]
        file.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 255, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(file / f"{number}.png")
    numbers = random.normal(size=40)
    rows = [f"{x:.2f},{'red' if x > 1 else 'blue'},{x > 0}" for x in numbers]
    (path / "table.csv").write_text("\n".join(["age,color,target", *rows]))
    rows = [f"{x:.2f},{x * 3:.4f}" for x in numbers]
    (path / "prices.csv").write_text("\n".join(["age,price", *rows]))
    texts = ["a film that everyone should see", "a film that nobody should see"]
    rows = [f"{texts[i % 2]},{i % 2}" for i in range(40)]
    (path / "reviews.csv").write_text("\n".join(["review,stars", *rows]))
    rows = [f"{texts[i % 2]} today\t{i % 2}" for i in range(40)]
    (path / "train.tsv").write_text("\n".join(rows))
    (path / "dev.tsv").write_text("\n".join(rows))
    (path / "lines.txt").write_text("\n".join(texts * 8))
    (path / "tags.conll").write_text("Ada B-PER\nslept O\n\n" * 20)
    (path / "classes").mkdir()
    for name, text in zip(("good", "bad"), texts):
        (path / "classes" / f"{name}.txt").write_text(f"{text}\n" * 9)
    (path / "one.csv").write_text("label\na\nb\n")
    for name in ("LICENSE", "README"):  # which describe the folders of images
        (path / "pictures" / f"{name}.txt").write_text("Pictures of letters.")
    (path / "squad.json").write_text('{"data": [{"title": "t", "paragraphs": []}]}')
    return path


@pytest.mark.parametrize(
    "name",
    [
        "pictures",
        "table.csv",
        pytest.param("reviews.csv", marks=pytest.mark.slow),
    ],
)
def test_a_new_file_trains(folder, tmp_path, name, capsys):
    file, out = tmp_path / "one.py", tmp_path / "run"
    assert main.main(["new", str(folder / name), "--out", str(file)]) == 0
    assert f"jaxtl run {file}" in capsys.readouterr().out
    overrides = [*SMALL[name], "steps=2", "batch=4"]
    assert main.main(["run", str(file), *overrides, "--out", str(out)]) == 0
    assert "val" in json.loads((out / "result.json").read_text())


@pytest.mark.parametrize("name", TASKS)
def test_the_task_is_guessed_and_the_file_loads_with_all_its_options(
    folder, tmp_path, name, capsys
):
    file = tmp_path / "one.py"
    path = str(folder / name)
    assert main.main(["new", "--data", path, "--out", str(file)]) == 0
    text = file.read_text()
    assert text.startswith(f'"""{TASKS[name].capitalize()} on {path}')
    # Every option that is written as a comment is a valid field.
    file.write_text(re.sub(r"# (\w+=.*,  #)", r"\1", text))
    taken = tl.load(file)
    assert taken.patience == 3
    assert isinstance(taken.data, tl.data.Data)
    assert taken.data.path == (
        path if name != "classes" else tuple(f"{path}/{c}.txt" for c in ("bad", "good"))
    )


def test_splits_beside_a_train_file_and_columns_without_a_header(folder):
    data = new_data.describe(
        str(folder / "train.tsv"), "text-classification", None, None, None
    )
    arguments = dict(text.split("=", 1) for text, _ in data.arguments[1:])
    assert arguments["val_path"].strip('"') == str(folder / "dev.tsv")
    assert (arguments["text"], arguments["label"]) == ("0", "1")
    assert "test" in arguments


def test_a_table_without_a_header_is_no_text(tmp_path):
    rows = [f"{i % 7}.1,{i % 5},{i % 3}.5,{'ab'[i % 2]}" for i in range(30)]
    (tmp_path / "iris.csv").write_text("\n".join(rows))
    path = str(tmp_path / "iris.csv")
    assert new_data.guess_task(path, None, None) == "tabular-classification"
    with pytest.raises(UserError, match=r"names no columns, as '0\.1' is a number"):
        new_data.describe(path, "tabular-classification", None, None, None)
    # Years are names.
    (tmp_path / "years.csv").write_text("\n".join(["2019,2020,2021,kind", *rows]))
    path = str(tmp_path / "years.csv")
    assert new_data.guess_task(path, None, None) == "tabular-classification"
    described = new_data.describe(path, "tabular-classification", None, None, None)
    assert any("names of columns: 2019, 2020" in note for note in described.notes)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ((), "the data are missing"),
        (("--data", "pictures", "--task", "image-clas"), "did you mean"),
        (("--data", "pictures", "--model", "resnet-19"), "did you mean 'ResNet-18'?"),
        (("--data", "pictures", "--model", "a/b"), "hf:a/b"),
        (("--data", "table.csv", "--target", "ag"), "did you mean 'age'?"),
        (("--data", "table.csv", "--out", "table.csv"), "must end in .py"),
        (("--data", "nothing.csv"), "there is no 'nothing.csv'"),
        (("--data", "one.csv"), "has the column 'label' alone"),
        (("--data", "one.csv", "--image", "label"), "has the column 'label' alone"),
    ],
)
def test_what_does_not_fit_is_one_sentence(folder, monkeypatch, capsys, more, sentence):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert main.main(["new", *more]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not list(folder.glob("*.py"))


def test_a_terminal_is_asked_and_a_file_is_not_replaced(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    answers = iter(["table.csv", "", "", "mine.py"])
    monkeypatch.setattr("builtins.input", lambda question: next(answers))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert main.main(["new"]) == 0
    assert "CSV" in (folder / "mine.py").read_text()
    assert main.main(["new", "--data", "table.csv", "--out", "mine.py"]) == 1
    assert "--overwrite" in capsys.readouterr().err
    (folder / "mine.py").unlink()


def test_what_does_not_load_leaves_the_file_and_no_answer_is_one_sentence(
    folder, monkeypatch, capsys
):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("jaxtl.cli.new_file.source", lambda *_: "experiment = 3 +")
    for before in (None, "mine = 1\n"):
        if before is not None:
            (folder / "mine.py").write_text(before)
        arguments = ["--data", "table.csv", "--out", "mine.py", "--overwrite"]
        assert main.main(["new", *arguments]) == 1
        files = [file.read_text() for file in folder.glob("*.py")]
        assert files == ([] if before is None else [before])
    (folder / "mine.py").unlink()
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    capsys.readouterr()
    assert main.main(["new"]) == 1
    assert "nothing was written" in capsys.readouterr().err
