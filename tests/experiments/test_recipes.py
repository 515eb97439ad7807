"""The recipes of docs/recipes.md run as they stand, on small data of their kinds."""

import contextlib
import itertools
import json
import pathlib
import re
import zipfile

import numpy as np
import PIL.Image
import pytest

from jaxtl.cli.main import main

PAGE = pathlib.Path(__file__).parents[2] / "docs/recipes.md"
RECIPES = {
    code.split("\n", 1)[0].removeprefix("# "): code
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
}


def _encoder(folder):
    """Writes a small BERT of random weights, with its vocabulary."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", "##a", "##b"]
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": len(words)}
    sizes |= {"hidden_size": 8, "intermediate_size": 8, "max_position_embeddings": 128}
    model = transformers.BertModel(transformers.BertConfig(**sizes))
    model.save_pretrained(folder / "minilm")
    (folder / "minilm/vocab.txt").write_text("\n".join(words))


def _entities(folder):
    _encoder(folder)
    text = "a NN B-X\nab NN I-X\nc VB O\n\nd NN B-Y\nc VB O\n\n"
    (folder / "train.conll").write_text(text * 10)
    (folder / "test.conll").write_text(text)


def _answers(folder):
    """40 questions in 10 articles, every fourth without an answer."""
    _encoder(folder)
    articles = []
    for i in range(12):
        context = " ".join("abcdefgh"[(i * k) % 8] for k in range(1, 40))
        qas = [{"id": f"{i}-{k}", "question": f"a b {k} ?", "is_impossible": k == 3,
                "answers": [{"text": context[k : k + 3], "answer_start": k}] * (k != 3)}
               for k in (0, 2, 3, 4)]  # fmt: skip
        paragraphs = [{"context": context, "qas": qas}]
        articles.append({"title": f"article {i}", "paragraphs": paragraphs})
    for name, part in (("train", articles[:10]), ("dev", articles[10:])):
        content = {"version": "v2.0", "data": part}
        (folder / f"{name}-v2.0.json").write_text(json.dumps(content))


def _topics(folder):
    _encoder(folder)
    rows = [
        {"text": f"a {c}", "topics": ["sea", "war"][i % 3 :]}
        for i, c in enumerate("abcdefgh" * 5)
    ]
    (folder / "news.jsonl").write_text("\n".join(map(json.dumps, rows)))


def _pairs(folder):
    _encoder(folder)
    rows = [f'"a b {c}",{c} b,{i / 2}' for i, c in enumerate("abcdefgh")] * 5
    (folder / "sts.csv").write_text("\n".join(["sentence1,sentence2,score", *rows]))


def _captions(folder):
    _encoder(folder)
    rows = ["image,text"]
    for i, (a, b) in enumerate(itertools.product("abcdefgh", repeat=2)):
        x = np.full((8, 8, 3), [20 * ord(a) % 255, 31 * ord(b) % 255, i], np.uint8)
        PIL.Image.fromarray(x).save(folder / f"{i}.png")
        rows.append(f"{i}.png,{a} {b}")
    (folder / "captions.csv").write_text("\n".join(rows))


def _table(folder):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 2))
    return {"a": x[:, 0], "b": x[:, 1], "y": np.where(x[:, 0] > 0.8, "ill", "well")}


def _parquet(folder):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(arrow.table(_table(folder)), folder / "table.parquet")


def _csv(folder):
    rows = zip(*_table(folder).values())
    lines = ["a,b,y", *(",".join(map(str, row)) for row in rows)]
    (folder / "table.csv").write_text("\n".join(lines))


def _evaluation(folder):
    """Trains the recipe of the CSV file on it, and writes a test set."""
    _csv(folder)
    code = re.sub(r"steps=\d+", "steps=2", RECIPES["imbalanced.py"])
    (folder / "imbalanced.py").write_text(code)
    lines = (folder / "table.csv").read_text().splitlines()
    (folder / "new.csv").write_text("\n".join(lines[:40]))
    with contextlib.chdir(folder):
        assert main(["run", "imbalanced.py", "--out", "runs/imbalanced"]) == 0
        for line in re.findall(r"```bash\njaxtl (.*?)\n```", PAGE.read_text()):
            assert main(line.split()) == 0


DATA = {
    "evaluate.py": _evaluation,
    "entities.py": _entities,
    "answers.py": _answers,
    "topics.py": _topics,
    "similarity.py": _pairs,
    "embeddings.py": _pairs,
    "captions.py": _captions,
    "parquet.py": _parquet,
    "imbalanced.py": _csv,
}


def _run(folder, name, code):
    """Trains a recipe and writes its report."""
    (folder / name).write_text(code)
    assert main(["run", name, "--out", "runs/recipe"]) == 0
    assert main(["report", "runs/recipe"]) == 0
    assert (folder / "runs/recipe/report/report.html").is_file()


def test_every_recipe_is_at_most_ten_lines():
    assert set(RECIPES) == {*DATA, "photos.py"}
    for code in RECIPES.values():
        body = [line for line in code.splitlines() if line and line[0] != "#"]
        assert len(body) <= 10


# Pairs are trained on by the other recipe of them.
SLOW = ("similarity.py",)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in DATA]
)
def test_a_recipe_goes_from_a_file_to_a_report(tmp_path, monkeypatch, capsys, name):
    DATA[name](tmp_path)
    monkeypatch.chdir(tmp_path)
    _run(tmp_path, name, re.sub(r"steps=\d+", "steps=2", RECIPES[name]))
    assert "test" in capsys.readouterr().out


@pytest.mark.slow
def test_ants_are_told_from_bees(tmp_path, monkeypatch, data_dir, capsys):
    with zipfile.ZipFile(data_dir / "photos/hymenoptera.zip") as archive:
        archive.extractall(tmp_path / "hymenoptera")
    monkeypatch.chdir(tmp_path)
    _run(tmp_path, "photos.py", RECIPES["photos.py"])
    assert "test accuracy" in capsys.readouterr().out
