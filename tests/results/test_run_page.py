"""The page of a single run: its worst examples of each kind, escaped; its layout."""

import base64
import io
import pathlib
import re
import shutil
import types

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from PIL import Image

import jaxtl as tl
from jaxtl.cli import main
from jaxtl.results import records, run_page

EVIL = "<script>evil()</script>"


def model_of(data, **fields):
    dataset = tl.data.prepare(data, 0)
    settings = {
        "task": dataset.task,
        "class_names": dataset.class_names,
        "thresholds": None,
        "preprocess": dataset.preprocess,
        "datasets": {"target": dataset},
    }
    return types.SimpleNamespace(**{**settings, **fields})


def worst_of(model, logits):
    dataset = model.datasets["target"]
    labels = dataset.y_clean[dataset.rows["test"]]
    return run_page.most_wrong(model, "test", logits, labels), labels


def test_images_are_ranked_by_their_loss_and_shown():
    model = model_of(tl.data.Digits(limit=200))
    dataset = model.datasets["target"]
    rows = dataset.rows["test"]
    logits = np.random.default_rng(0).normal(size=(len(rows), 10))
    worst, labels = worst_of(model, logits)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    true = shares[np.arange(len(rows)), labels]
    order = np.argsort(true)
    assert [x.probability for x in worst] == pytest.approx(true[order][: len(worst)])
    assert worst[0].true == str(labels[order[0]])
    assert worst[0].predicted == str(logits[order[0]].argmax())
    [address] = re.findall(
        r'src="data:image/png;base64,([^"]*)"', run_page._figure(worst[0])
    )
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(address))))
    stored = dataset.x[rows[order[0]], ..., 0] / 16 * 255  # of values from 0 to 16
    np.testing.assert_allclose(shown[4::9, 4::9], stored, atol=1)


def test_rows_of_tables_have_their_columns_and_quantities_their_units():
    color = [EVIL if i % 3 else "blue" for i in range(40)]
    table = {"age": np.arange(40.0), "color": color, "price": np.arange(40) * 10.5}
    model = model_of(tl.data.Frame(table, target="price"))
    worst, _ = worst_of(model, np.zeros((8, 1)))
    first = worst[0]
    assert first.probability is None
    age = int(re.search(r"age: (\d+)", first.text)[1])
    assert float(first.true) == pytest.approx(10.5 * age)
    assert f"color: {color[age]}" in first.text
    html = run_page._examples(worst)
    assert "&lt;script&gt;" in html
    assert EVIL not in html


def test_texts_are_decoded(tmp_path):
    pytest.importorskip("tokenizers")
    lines = [f"a good film number {i},{'yes' if i % 2 else 'no'}" for i in range(40)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *lines]))
    model = model_of(
        tl.data.Text(str(tmp_path / "texts.csv"), text="text", label="label")
    )
    worst, _ = worst_of(model, np.zeros((8, 2)))
    assert worst[0].text.startswith("a good film number")
    assert "texts.csv:" in worst[0].origin
    # Pairs whose texts are read one by one: (2, length) tokens, of unlike lengths.
    dataset = model.datasets["target"]
    ids, mask = (dataset.x[name][:2] for name in ("input_ids", "attention_mask"))
    mask = mask & (np.arange(mask.shape[1]) < [[mask[0].sum()], [4]])
    x = {"input_ids": ids[None], "attention_mask": mask[None]}
    pair = types.SimpleNamespace(x=x, tokenizer=dataset.tokenizer)
    text, image = run_page._shown(pair, 0)
    assert image is None
    assert text == "a good film number 0 / a good film"


@pytest.mark.parametrize(
    ("folder", "variant", "title"),
    [
        ("runs/a/seed0", None, "The run runs/a/seed0"),
        ("/home/someone/runs/a/seed0", None, "The run a/seed0"),
        ("/home/someone/runs/a/seed3", "5 labels/LoRA", "5 labels/LoRA, seed 3"),
    ],
)
def test_the_title_of_a_run_is_no_path_of_a_machine(
    folder, variant, title, monkeypatch
):
    mark = {"experiment": {"seed": 3}, "variant": variant}
    monkeypatch.setattr(run_page.run_dir, "read_mark", lambda run: mark)
    collection = records.collect([])
    titled = run_page.with_settings(collection, pathlib.Path(folder))
    assert titled.title == title


def test_labels_are_listed():
    model = types.SimpleNamespace(
        task="multilabel", class_names=("a", "b", "c"), thresholds=np.array([0.2] * 3)
    )
    words = run_page._words(model, np.array([-1.0, -3, 3]), np.array([0, 1, 1]))
    assert words[:2] == ("b, c", "a, c")  # sigmoid(−1) = 0.27


@pytest.mark.slow
def test_the_command_writes_a_page_without_overflow(tmp_path, capsys):
    exp = tl.Experiment(
        model=tl.models.MLP(widths=(4,)),
        data=tl.data.Digits(limit=200),
        steps=20,
        batch=16,
    )
    run = tmp_path / "run"
    tl.train(tl.setup(exp, run))
    assert main.main(["report", str(run)]) == 0
    page = run / "report" / "report.html"
    text = page.read_text("utf-8")
    for name in ("plots", "classes", "examples", "configuration"):
        assert f'<section id="{name}"' in text
    assert text.count('loading="lazy"') == run_page.SHOWN
    for name in ("losses", "confusion", "reliability", "learning-curves"):
        assert f'id="plot-{name}"' in text
        assert (run / "report" / f"{name}.png").exists()
    if CHROMIUM is not None:
        window = Browser(tmp_path / "profile")
        for width in (390, 1280):
            for dark in (False, True):
                window.open(page, width=width, dark=dark)
                assert window.run("document.documentElement.scrollWidth") == width
        window.close()
    # Without its weights the page has what result.json holds, and says the rest.
    shutil.rmtree(run / "checkpoints")
    assert main.main(["report", str(run), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert '<section id="classes"' in text
    assert "The examples can&#x27;t be shown" in text
