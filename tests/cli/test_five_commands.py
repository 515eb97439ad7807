"""The commands of "your folder of images in five commands", on small drawn data."""

import csv
import json
import pathlib
import re
import shlex

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from jaxtl.cli import main

PAGE = pathlib.Path(__file__).parents[2] / "docs/howto/five_commands.md"
COLORS = {"blue": (20, 40, 200), "red": (200, 40, 20)}
TEXTS = {"negative": "a dull and lifeless film", "positive": "a warm and funny film"}


def commands(section):
    """The words of the commands of jaxtl in the first block below a heading."""
    text = PAGE.read_text().partition(f"# {section}\n")[2]
    lines = re.search(r"```bash\n(.*?)```", text, re.DOTALL)[1].splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line[0] == "jaxtl"]


def draw_images(folder):
    """Ten images of each of two classes and two new ones; returns their classes."""
    random, labels = np.random.default_rng(0), {}
    for name, color in COLORS.items():
        for number in range(11):
            below = f"photos/{name}" if number < 10 else "new_photos"
            file = folder / below / f"{name}{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = random.normal(color, 12, (12, 16, 3)).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(file)
            if number == 10:
                labels[f"new_photos/{file.name}"] = name
    (folder / "new_photos/notes.txt").write_text("taken in May")
    return labels


def draw_table(folder):
    """The wines of scikit-learn, and every tenth without its label."""
    wine = datasets.load_wine()
    names, labels = [*wine.feature_names, "cultivar"], {}
    with (
        open(folder / "wine.csv", "w", newline="") as known,
        open(folder / "new_wines.csv", "w", newline="") as new,
    ):
        to_known, to_new = csv.writer(known), csv.writer(new)
        to_known.writerow(names)
        to_new.writerow(names[:-1])
        for row, (x, y) in enumerate(zip(wine.data, wine.target)):
            label = str(wine.target_names[y])
            if row % 10:
                to_known.writerow([*x, label])
            else:
                to_new.writerow(x)
                labels[f"new_wines.csv:{len(labels) + 2}"] = label
    return labels


def draw_texts(folder):
    """Reviews of two kinds, and one of each without its label."""
    rows = [
        f"{text} of {n} minutes,{name}"
        for n in range(90)
        for name, text in TEXTS.items()
    ]
    (folder / "reviews.csv").write_text("\n".join(["review,sentiment", *rows]))
    news = [f"{text} of 100 minutes" for text in TEXTS.values()]
    (folder / "new_reviews.csv").write_text("\n".join(["review", *news]))
    return {f"new_reviews.csv:{i + 2}": name for i, name in enumerate(TEXTS)}


@pytest.mark.parametrize(
    ("section", "draw", "least"),
    [
        ("Your folder of images in five commands", draw_images, 1.0),
        ("A table", draw_table, 0.9),
        pytest.param("Texts", draw_texts, 1.0, marks=pytest.mark.slow),
    ],
)
def test_the_commands_of_the_page_lead_to_predictions(
    section, draw, least, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    labels, lines = draw(tmp_path), commands(section)
    assert len(lines) == 4
    follows = ""
    for words in lines:
        assert follows in f"jaxtl {' '.join(words)} "
        if words[0] == "run" and draw is draw_images:
            words = [*words, "steps=40"]  # of 100, to save time
        assert main.main(words) == 0, capsys.readouterr().err
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        # A command's last line names the page's next one.
        hint = re.search(r"; next: (jaxtl [^,\n]*)", printed.out)
        assert hint or words[0] not in ("new", "run")
        follows = hint[1] if hint else ""
    with open("predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["origin"] for row in rows} == set(labels)
    right = [row["label"] == labels[row["origin"]] for row in rows]
    assert np.mean(right) >= least
    result = json.loads(next(pathlib.Path("runs").glob("*/result.json")).read_text())
    assert result["test"]["accuracy"] >= 0.9


def test_what_is_no_model_is_told_with_the_command_that_makes_one(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    draw_images(tmp_path)
    assert main.main(["new", "photos"]) == 0
    for words, sentence in (
        (("predict", "photos.py", "new_photos"), "`jaxtl run photos.py` trains it"),
        (("predict", "photos", "new_photos"), "nor the files of a run"),
        (("predict", "runs/photos", "new_photos"), "nor a directory of this name"),
        (("new", "photos", "--data", "new_photos"), "two data"),
    ):
        assert main.main(list(words)) == 1
        error = capsys.readouterr().err
        assert sentence in error
        assert error.count("\n") == 1
