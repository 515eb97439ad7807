"""Predictions for files: against evaluation and numpy, and without the model's code."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import textwrap

import exported_runs
import numpy as np
import PIL.Image
import pytest
from safetensors.numpy import load_file
from scipy import special

import jaxtl as tl
from jaxtl.core.errors import UserError
from jaxtl.data.dataset import Data, Table
from jaxtl.export import bundle, predict, write_bundle

# Makes the import of some modules fail.
BLOCK = """
import sys, json
class Block:
    def find_spec(self, name, *_):
        for module in {blocked!r}:
            if name == module or name.startswith(module + "."):
                raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A trained CNN with batch statistics, as its run and its export."""
    return exported_runs.exported_digits(tmp_path_factory.getbasetemp() / "digits")


@pytest.fixture(scope="module")
def predictor(digits):
    """The export, loaded."""
    return bundle.load(digits[1])


def run_without(blocked, code, cwd):
    """Runs Python code where some modules can't be imported, and reads its JSON."""
    process = subprocess.run(
        [sys.executable, "-c", BLOCK.format(blocked=blocked) + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_files_are_predicted_without_models_and_flax(digits, predictor, tmp_path):
    run, folder = digits
    expected, x = exported_runs.logits(run)
    p = special.softmax(expected, axis=-1)
    np.save(tmp_path / "batch.npy", x[:3])
    np.savez(tmp_path / "one.npz", whatever=x[3])
    PIL.Image.fromarray(np.full((8, 8), 255, np.uint8)).save(tmp_path / "white.png")
    blocked = ["flax", "orbax", "optax", "tensorflow_datasets"]
    blocked += ["jaxtl.models", "jaxtl.training"]
    blocked += [f"jaxtl.export.{m}" for m in ("program", "write_bundle")]
    code = f"""
    from jaxtl.export.predict import predict
    rows = predict({str(folder)!r}, ["batch.npy", "one.npz", "white.png"])
    print(json.dumps(rows))
    """
    rows = run_without(blocked, code, tmp_path)
    assert [(r["file"], r["row"]) for r in rows] == [
        *(("batch.npy", i) for i in range(3)),
        ("one.npz", 0),
        ("white.png", 0),
    ]
    for row, values in zip(rows, p[:4]):
        assert row["label"] == str(values.argmax())
        assert row["probability"] == pytest.approx(values.max(), rel=1e-4)
    white = predictor(np.full((1, 8, 8, 1), 16, np.uint8))
    assert rows[4]["probability"] == pytest.approx(white.max(), rel=1e-4)


def test_the_recipe_of_the_card_needs_jax_and_safetensors_alone(digits, tmp_path):
    run, folder = digits
    expected, x = exported_runs.logits(run)
    card = (folder / "README.md").read_text()
    recipe = card.partition("With jax and safetensors alone:\n")[2]
    recipe = textwrap.dedent(recipe.partition("\nInputs have")[0])
    np.save(tmp_path / "x.npy", x[:2])
    code = f"import numpy as np\nx = np.load({str(tmp_path / 'x.npy')!r})\n{recipe}"
    code += "\nprint(json.dumps(probabilities.tolist()))"
    probabilities = run_without(["jaxtl", "flax"], code, folder)
    p = special.softmax(expected[:2], axis=-1)
    np.testing.assert_allclose(probabilities, p, rtol=1e-4, atol=1e-6)


def write_table(path, rows=60):
    """Writes a CSV of a number, a category and two targets."""
    rng = np.random.default_rng(0)
    lines = ["height,color,weight,tall,heavy"]
    for i in range(rows):
        h, color = rng.normal(170, 10), ("red", "green", "blue")[i % 3]
        weight = h - 100 + rng.normal()
        lines.append(f"{h:.3f},{color},{weight:.3f},{int(h > 170)},{int(weight > 70)}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_table_is_read_by_its_columns_and_agrees_with_numpy(tmp_path):
    source = write_table(tmp_path / "people.csv")
    run = exported_runs.train(
        tmp_path / "run",
        model=tl.models.MLP(widths=(4,), activation="tanh"),
        data=tl.data.CSV(
            str(source),
            target="weight",
            features=("height", "color"),
            val=0.2,
            unseen="refuse",
        ),
        steps=3,
    )
    folder = write_bundle.export(tmp_path / "run", tmp_path / "out")
    # Columns in another order, one that is unknown, and no target.
    new = tmp_path / "new.csv"
    new.write_text("color,note,height\nblue,x,181.5\ngreen,,160\n")
    rows = predict.predict(folder, [new])
    # blue, green, red: one-hot in sorted order.
    x = np.array([[181.5, 1, 0, 0], [160, 0, 1, 0]])
    pre, w = run.preprocess, load_file(folder / bundle.WEIGHTS)
    w = {k: v.astype(np.float64) for k, v in w.items()}
    x = (x / pre.scale - pre.mean) / pre.std
    h = np.tanh(x @ w["params/layer1/dense/kernel"] + w["params/layer1/dense/bias"])
    y = h @ w["params/head/dense/kernel"] + w["params/head/dense/bias"]
    assert [r["row"] for r in rows] == [0, 1]
    np.testing.assert_allclose([r["output"] for r in rows], y[:, 0], rtol=1e-4)
    bad = tmp_path / "bad.csv"
    for text, message in {
        "color\nred\n": "no column 'height'",
        "height,color\n1,rad\n": "'rad' is no category of the training data; did you",
        "height,color\n1,red\ntall,red\n": "line 3, column height: 'tall' is no",
        "height,color\n1\n": "line 2: 1 cells where 2 are expected",
        "height,color\n": "holds no rows",
    }.items():
        bad.write_text(text)
        with pytest.raises(UserError, match=re.escape(message)):
            predict.predict(folder, bad)


def test_multilabel_gives_a_probability_for_each_label(tmp_path):
    source = write_table(tmp_path / "people.csv")
    run = exported_runs.train(
        tmp_path / "run",
        model=tl.models.MLP(widths=(4,)),
        data=tl.data.CSV(
            str(source),
            target=("tall", "heavy"),
            features=("height",),
            task="multilabel",
        ),
    )
    folder = write_bundle.export(tmp_path / "run", tmp_path / "out")
    expected, x = exported_runs.logits(run)
    p = special.expit(expected)
    np.save(tmp_path / "x.npy", x)
    rows = predict.predict(folder, tmp_path / "x.npy")
    probabilities = [[r["p(tall)"], r["p(heavy)"]] for r in rows]
    np.testing.assert_allclose(probabilities, p, rtol=1e-4, atol=1e-6)
    names = np.array(["tall", "heavy"])
    assert [r["labels"] for r in rows] == [", ".join(names[v > 0.5]) for v in p]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenIds(Data):
    """Token ids and masks of a fixed length."""

    def read(self):
        rng = np.random.default_rng(0)
        ids = rng.integers(1, 20, (40, 6)).astype(np.int32)
        mask = (np.arange(6) < rng.integers(1, 7, (40, 1))).astype(np.int32)
        y = rng.integers(0, 2, 40)
        return Table(x={"input_ids": ids, "attention_mask": mask}, y=y)


def test_a_text_model_takes_its_inputs_by_name(tmp_path):
    model = tl.models.Bert(vocab=20, width=8, layers=1, heads=2, hidden=8, context=6)
    run = exported_runs.train(tmp_path / "run", model=model, data=TokenIds())
    folder = write_bundle.export(tmp_path / "run", tmp_path / "out")
    predictor = bundle.load(folder)
    expected, x = exported_runs.logits(run)
    outputs = predictor.outputs(x)["logits"]
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    np.savez(tmp_path / "x.npz", **x)
    rows = predict.predict(folder, tmp_path / "x.npz")
    assert [r["label"] for r in rows] == [str(i) for i in expected.argmax(-1)]
    for bad, message in (
        (x["input_ids"], "takes the inputs input_ids, attention_mask: pass a dict"),
        ({**x, "inputs": 0}, "the input 'inputs' is unknown; did you mean 'input_ids'"),
        ({"input_ids": x["input_ids"]}, "the input 'attention_mask' is missing"),
        ({**x, "input_ids": x["input_ids"][:2]}, "differ in length"),
        (["a text"], "is text, but"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            predictor(bad)


@pytest.mark.parametrize("paired", [False, True])
def test_texts_are_predicted_from_the_export_alone(paired, tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "book"]
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(words))
    rows = [("good film", "bad book"), ("bad film film", "good"), ("book", "film")] * 6
    table = tmp_path / "texts.csv"
    lines = [f"{a},{b},{'yes' if i % 2 else 'no'}" for i, (a, b) in enumerate(rows)]
    table.write_text("first,second,label\n" + "\n".join(lines) + "\n")
    data = tl.data.Text(
        str(table),
        text="first",
        pair="second" if paired else None,
        label="label",
        tokenizer=tl.data.Tokenizer(str(vocab), max_length=8, buckets=(8,)),
    )
    model = tl.models.Bert(vocab=8, width=8, layers=1, heads=2, hidden=8, context=8)
    exported_runs.train(tmp_path / "run", model=model, data=data)
    folder = write_bundle.export(tmp_path / "run", tmp_path / "out")
    texts = rows[:3] if paired else [a for a, _ in rows[:3]]
    arrays = data.tokenizer(*(zip(*texts) if paired else [texts]))
    vocab.unlink()
    table.unlink()
    predictor = bundle.load(folder)
    np.testing.assert_array_equal(predictor(texts), predictor(arrays))
    file = tmp_path / "new.txt"
    lines = ["\t".join(t) for t in texts] if paired else texts
    file.write_text("\n".join(lines) + "\n\n")
    predictions = predict.predict(folder, file)
    assert [row["label"] for row in predictions] == [
        predictor.class_names[i] for i in predictor(arrays).argmax(-1)
    ]
    wrong = ["good"] if paired else [("good", "bad")]
    with pytest.raises(UserError, match="is not a pair" if paired else "is not one"):
        predictor(wrong)
    file.write_text("\n")
    with pytest.raises(UserError, match="holds no text"):
        predict.predict(folder, file)


def test_a_model_with_several_outputs_per_example_predicts_no_file(digits, tmp_path):
    copy = shutil.copytree(digits[1], tmp_path / "copy")
    metadata = json.loads((copy / bundle.METADATA).read_text())
    metadata["outputs"] = [7, 10]
    (copy / bundle.METADATA).write_text(json.dumps(metadata))
    with pytest.raises(UserError, match=r"outputs of shape \(7, 10\) for each example"):
        predict.predict(copy, tmp_path)


def test_files_that_cannot_be_predicted_are_named(digits, tmp_path):
    _, folder = digits
    for name, data in (("a.png", b"no"), ("b.npy", b"no"), ("c.npz", b"PK no")):
        (tmp_path / name).write_bytes(data)
    np.save(tmp_path / "d.npy", np.zeros((2, 5), np.uint8))
    np.savez(tmp_path / "e.npz", a=np.zeros(2), b=np.zeros(2))
    (tmp_path / "f.csv").write_text("1,2\n")
    for name, message in (
        ("a.png", "a.png is not a readable image"),
        ("b.npy", "b.npy can't be read"),
        ("c.npz", "c.npz can't be read"),
        ("d.npy", "d.npy has the shape (2, 5)"),
        ("e.npz", "e.npz has no entry 'x' (entries: a, b)"),
        ("f.csv", "f.csv is a table, but"),
        ("none.png", "none.png' does not exist"),
        (".", "a.png is not a readable image"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            predict.predict(folder, [tmp_path / name])
    with pytest.raises(UserError, match="name at least one file"):
        predict.predict(folder, [])
