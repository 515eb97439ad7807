"""Export folders: against evaluation, numpy and scipy, and without the program."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import textwrap

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from safetensors.numpy import load_file
from scipy import special

import jaxtl as tl
from jaxtl.core.errors import UserError
from jaxtl.data.dataset import Data, Table
from jaxtl.evaluation import evaluate
from jaxtl.export import bundle, predict, write_bundle
from jaxtl.export.predictor import BATCH


def train(directory, **fields):
    """Stores a run, by default of the model as it is initialised; compiles less."""
    fields = {"steps": 0, "batch": 16, **fields}
    run = tl.setup(tl.Experiment(**fields), directory)
    tl.train(run, progress=False)
    return run


def logits(run, split="test"):
    """Returns the best model's logits on a split, and the split's stored inputs."""
    found, _ = evaluate.predict_with_weights(run, *run.weights("best"), split)
    data = run.parts.datasets["target"]
    return found, jax.tree.map(lambda x: np.asarray(x)[data.rows[split]], data.x)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A trained CNN with batch statistics, its run and its export."""
    root = tmp_path_factory.mktemp("digits")
    start = train(
        root / "start",
        model=tl.models.CNN(widths=(4,), units=8, norm=True),
        data=tl.data.Digits(),
    )
    exp = dataclasses.replace(
        start.exp,
        init=tl.pretrained.FromRun(str(root / "start"), reset="head"),
        steps=20,
    )
    run = tl.setup(exp, root / "run")
    tl.train(run, progress=False)
    return run, write_bundle.export(root / "run", root / "out", licence="CC0-1.0")


@pytest.fixture(scope="module")
def predictor(digits):
    """The export, loaded."""
    return bundle.load(digits[1])


@pytest.fixture
def copy(digits, tmp_path):
    """A copy of the export, to be damaged."""
    return shutil.copytree(digits[1], tmp_path / "copy")


def edit(folder, **changes):
    """Changes export.json."""
    path = folder / bundle.METADATA
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# --- the exported function ----------------------------------------------------------


def test_gives_the_evaluated_outputs_for_any_batch_size(digits, predictor):
    wanted, x = logits(digits[0])
    assert x.dtype == np.uint8
    for n in (1, 3, BATCH, len(x)):
        found = predictor.outputs(x[:n])
        np.testing.assert_allclose(found["logits"], wanted[:n], rtol=1e-5, atol=1e-5)
        p = special.softmax(wanted[:n].astype(np.float64), axis=-1)
        np.testing.assert_allclose(predictor(x[:n]), p, rtol=1e-4, atol=1e-6)


@hypothesis.given(n=st.integers(1, 9), seed=st.integers(0, 99), split=st.integers(0, 8))
@hypothesis.settings(max_examples=15, deadline=None)
def test_an_example_is_answered_alike_in_any_company(predictor, n, seed, split):
    x = np.random.default_rng(seed).integers(0, 17, (n, 8, 8, 1)).astype(np.uint8)
    whole, cut = predictor(x), min(split, n - 1)
    parts = [predictor(part) for part in (x[:cut], x[cut:]) if len(part)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whole.sum(-1), 1, rtol=1e-5)


def test_is_lowered_for_all_platforms_and_names_no_path_of_its_maker(digits):
    import jax.export

    _, folder = digits
    data = (folder / bundle.PROGRAM).read_bytes()
    program = jax.export.deserialize(bytearray(data))
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert "batch" in str(program.in_avals[-1].shape[0])
    assert re.findall(rb"[ -~]*[.]py\b", data) == []
    assert b"jaxtl" not in data
    assert jax.config.jax_hlo_source_file_canonicalization_regex is None
    # TF32 and bfloat16 passes would leave the tolerance on a GPU or TPU.
    module = program.mlir_module()
    products = re.findall(r"stablehlo\.(?:convolution|dot_general).*", module)
    assert products
    assert all("HIGHEST" in line for line in products)


def test_the_folder_is_whole_and_readable(digits):
    _, folder = digits
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "example.npz",
        "export.json",
        "model.jaxexport",
        "parameters.safetensors",
    ]
    assert len({p.stat().st_mode for p in folder.iterdir()}) == 1
    assert [p.name for p in folder.parent.iterdir() if ".part" in p.name] == []


def test_the_card_tells_what_the_run_measured(digits):
    run, folder = digits
    card = (folder / "README.md").read_text()
    result = json.loads((run.directory / "result.json").read_text())
    for split in ("val", "test"):
        n = len(run.parts.datasets["target"].rows[split])
        assert f"| {split} | {n} | {result[split]['accuracy']:.4f} |" in card
    assert "Run(path='start', reset='head', which='best')" in card
    assert "re-initialized" in card
    assert 'license: "CC0-1.0"' in card
    assert f"jax {jax.__version__}" in card
    assert "0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in card
    assert str(run.directory.parent) not in card


# --- without the model's program ----------------------------------------------------

BLOCK = """
import sys, json
class Block:
    def find_spec(self, name, *rest):
        for bad in {bad!r}:
            if name == bad or name.startswith(bad + "."):
                raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
"""


def isolated(code, bad, cwd):
    """Runs Python code where some modules can't be imported; returns its JSON."""
    found = subprocess.run(
        [sys.executable, "-c", BLOCK.format(bad=bad) + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def test_predicts_files_without_models_and_flax(digits, predictor, tmp_path):
    run, folder = digits
    wanted, x = logits(run)
    p = special.softmax(wanted, axis=-1)
    np.save(tmp_path / "batch.npy", x[:3])
    np.savez(tmp_path / "one.npz", whatever=x[3])
    PIL.Image.fromarray(np.full((8, 8), 255, np.uint8)).save(tmp_path / "white.png")
    bad = ["flax", "orbax", "optax", "tensorflow_datasets"]
    bad += ["jaxtl.models", "jaxtl.training"]
    bad += [f"jaxtl.export.{m}" for m in ("program", "write_bundle")]
    code = f"""
    from jaxtl.export.predict import predict
    rows = predict({str(folder)!r}, ["batch.npy", "one.npz", "white.png"])
    print(json.dumps(rows))
    """
    rows = isolated(code, bad, tmp_path)
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


def test_the_cards_recipe_needs_jax_and_safetensors_alone(digits, tmp_path):
    run, folder = digits
    wanted, x = logits(run)
    card = (folder / "README.md").read_text()
    recipe = card.partition("With jax and safetensors alone:\n")[2]
    recipe = textwrap.dedent(recipe.partition("\nInputs have")[0])
    np.save(tmp_path / "x.npy", x[:2])
    code = f"import numpy as np\nx = np.load({str(tmp_path / 'x.npy')!r})\n{recipe}"
    code += "\nprint(json.dumps(probabilities.tolist()))"
    found = isolated(code, ["jaxtl", "flax"], folder)
    p = special.softmax(wanted[:2], axis=-1)
    np.testing.assert_allclose(found, p, rtol=1e-4, atol=1e-6)


# --- other tasks and inputs ---------------------------------------------------------


def write_table(path, rows=60):
    """Writes a CSV of a number, a category and two targets."""
    rng = np.random.default_rng(0)
    lines = ["height,colour,weight,tall,heavy"]
    for i in range(rows):
        h, colour = rng.normal(170, 10), ("red", "green", "blue")[i % 3]
        weight = h - 100 + rng.normal()
        lines.append(f"{h:.3f},{colour},{weight:.3f},{int(h > 170)},{int(weight > 70)}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_table_is_read_by_its_columns_and_agrees_with_numpy(tmp_path):
    source = write_table(tmp_path / "people.csv")
    run = train(
        tmp_path / "run",
        model=tl.models.MLP(widths=(4,), activation="tanh"),
        data=tl.data.CSV(
            str(source), target="weight", features=("height", "colour"), val=0.2
        ),
        steps=3,
    )
    folder = write_bundle.export(tmp_path / "run", tmp_path / "out")
    # Columns in another order, one that is unknown, and no target.
    other = tmp_path / "new.csv"
    other.write_text("colour,note,height\nblue,x,181.5\ngreen,,160\n")
    rows = predict.predict(folder, [other])
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
        "colour\nred\n": "no column 'height'",
        "height,colour\n1,rad\n": "'rad' is no category of the training data; did you",
        "height,colour\n1,red\ntall,red\n": "line 3, column height: 'tall' is no",
        "height,colour\n1\n": "line 2: 1 cells where 2 are expected",
        "height,colour\n": "holds no rows",
    }.items():
        bad.write_text(text)
        with pytest.raises(UserError, match=re.escape(message)):
            predict.predict(folder, bad)


def test_multilabel_gives_a_probability_for_each_label(tmp_path):
    source = write_table(tmp_path / "people.csv")
    run = train(
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
    wanted, x = logits(run)
    p = special.expit(wanted)
    np.save(tmp_path / "x.npy", x)
    rows = predict.predict(folder, tmp_path / "x.npy")
    found = [[r["p(tall)"], r["p(heavy)"]] for r in rows]
    np.testing.assert_allclose(found, p, rtol=1e-4, atol=1e-6)
    names = np.array(["tall", "heavy"])
    assert [r["labels"] for r in rows] == [", ".join(names[v > 0.5]) for v in p]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Texts(Data):
    """Token ids and masks of a fixed length."""

    def read(self):
        rng = np.random.default_rng(0)
        ids = rng.integers(1, 20, (40, 6)).astype(np.int32)
        mask = (np.arange(6) < rng.integers(1, 7, (40, 1))).astype(np.int32)
        y = rng.integers(0, 2, 40)
        return Table(x={"input_ids": ids, "attention_mask": mask}, y=y)


def test_a_text_model_takes_its_inputs_by_name(tmp_path):
    model = tl.models.Bert(vocab=20, width=8, layers=1, heads=2, hidden=8, context=6)
    run = train(tmp_path / "run", model=model, data=Texts())
    folder = write_bundle.export(tmp_path / "run", tmp_path / "out")
    predictor = bundle.load(folder)
    wanted, x = logits(run)
    found = predictor.outputs(x)["logits"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    np.savez(tmp_path / "x.npz", **x)
    rows = predict.predict(folder, tmp_path / "x.npz")
    assert [r["label"] for r in rows] == [str(i) for i in wanted.argmax(-1)]
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
    train(tmp_path / "run", model=model, data=data)
    folder = write_bundle.export(tmp_path / "run", tmp_path / "out")
    texts = rows[:3] if paired else [a for a, _ in rows[:3]]
    arrays = data.tokenizer(*(zip(*texts) if paired else [texts]))
    vocab.unlink()
    table.unlink()
    predictor = bundle.load(folder)
    np.testing.assert_array_equal(predictor(texts), predictor(arrays))
    file = tmp_path / "new.txt"
    shown = ["\t".join(t) for t in texts] if paired else texts
    file.write_text("\n".join(shown) + "\n\n")
    found = predict.predict(folder, file)
    assert [r["label"] for r in found] == [
        predictor.class_names[i] for i in predictor(arrays).argmax(-1)
    ]
    wrong = ["good"] if paired else [("good", "bad")]
    with pytest.raises(UserError, match="is not a pair" if paired else "is not one"):
        predictor(wrong)
    file.write_text("\n")
    with pytest.raises(UserError, match="holds no text"):
        predict.predict(folder, file)


def test_functions_of_a_notebook_are_exported_with_the_experiment(tmp_path):
    def init(key, x):
        return {"w": jax.random.normal(key, (x.shape[-1], 2))}

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 3)), rng.normal(size=(50, 2))
    run = train(
        tmp_path / "run",
        model=tl.models.foreign(init, lambda params, x: x @ params["w"]),
        data=tl.data.Arrays(x=x, y=y),
    )
    with pytest.raises(UserError, match="in the program that made it, with exp="):
        write_bundle.export(tmp_path / "run", tmp_path / "out")
    folder = write_bundle.export(tmp_path / "run", tmp_path / "out", exp=run.exp)
    [w] = load_file(folder / bundle.WEIGHTS).values()
    found = bundle.load(folder)(x)
    np.testing.assert_allclose(found, x @ w.astype(np.float64), rtol=1e-4, atol=1e-5)
    np.save(tmp_path / "x.npy", x[0])
    [row] = predict.predict(folder, tmp_path / "x.npy")
    assert list(row) == ["file", "row", "output 0", "output 1"]


def test_a_batch_bound_model_is_refused(tmp_path):
    def apply(params, x):
        return x @ params["w"] * int(x.shape[0])

    run = train(
        tmp_path / "run",
        model=tl.models.foreign(lambda k, x: {"w": jnp.ones((3, 1))}, apply),
        data=tl.data.Arrays(x=np.ones((50, 3)), y=np.ones(50) * 0.5),
    )
    with pytest.raises(UserError, match="can't be exported with a free batch size"):
        write_bundle.export(tmp_path / "run", tmp_path / "out", exp=run.exp)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_the_data_may_be_gone_and_half_precision_is_kept(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (60, 6, 6, 3)).astype(np.uint8)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(60) % 3)
    run = train(
        tmp_path / "run",
        model=tl.models.CNN(widths=(4,), units=8),
        data=tl.data.Arrays(str(tmp_path / "data.npz")),
        dtype="bfloat16",
    )
    wanted, x = logits(run)
    (tmp_path / "data.npz").unlink()
    folder = write_bundle.export(tmp_path / "run", tmp_path / "out")
    predictor = bundle.load(folder)
    assert predictor.metadata["tolerance"] == write_bundle.TOLERANCE_HALF
    found = predictor.outputs(x)["logits"]
    np.testing.assert_allclose(found, wanted, rtol=5e-2, atol=5e-2)
    assert (
        "random, since the data could not be read" in (folder / "README.md").read_text()
    )


# --- what goes wrong ----------------------------------------------------------------


def test_a_folder_is_never_overwritten_by_accident(digits, tmp_path, monkeypatch):
    run, out = digits[0], tmp_path / "out"
    out.mkdir()
    write_bundle.export(run.directory, out)  # an empty folder is free
    with pytest.raises(UserError, match="holds an export already"):
        write_bundle.export(run.directory, out)
    before = (out / bundle.METADATA).read_text()
    assert write_bundle.export(run.directory, out, licence="MIT", overwrite=True) == out
    after = (out / bundle.METADATA).read_text()
    assert (before != after, json.loads(after)["licence"]) == (True, "MIT")
    with pytest.raises(UserError, match=r"no export\.json, so it is no export folder"):
        write_bundle.export(run.directory, run.directory, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        write_bundle.export(run.directory, tmp_path / "file")

    def fail(folder):
        raise UserError("it deviates.")

    monkeypatch.setattr(bundle, "load", fail)
    with pytest.raises(UserError, match="it deviates"):
        write_bundle.export(run.directory, out, overwrite=True)
    assert (out / bundle.METADATA).read_text() == after
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "out"]


def test_a_place_that_cant_be_written_is_told(digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"file/out can't be written: .*Not a directory"
    ):
        write_bundle.export(digits[0].directory, tmp_path / "file" / "out")


def test_a_model_of_several_answers_per_example_predicts_no_file(copy, tmp_path):
    edit(copy, outputs=[7, 10])
    with pytest.raises(UserError, match=r"outputs of shape \(7, 10\) for each example"):
        predict.predict(copy, tmp_path)


def test_what_is_no_run_is_told(tmp_path):
    with pytest.raises(UserError, match=r"no directory of a run.* no experiment\.json"):
        write_bundle.export(tmp_path, tmp_path / "out")
    (tmp_path / "experiment.json").write_text("{}")
    with pytest.raises(UserError, match="no checkpoint yet"):
        write_bundle.export(tmp_path, tmp_path / "out")
    (tmp_path / "experiment.json").unlink()
    (tmp_path / "study.json").write_text("{}")
    (tmp_path / "seed0").mkdir()
    (tmp_path / "seed0" / "experiment.json").write_text("{}")
    with pytest.raises(UserError, match="several runs; name one of seed0"):
        write_bundle.export(tmp_path, tmp_path / "out")


def test_what_is_no_whole_export_is_told(digits, copy, tmp_path):
    with pytest.raises(UserError, match=r"no export folder: it holds no export\.json"):
        bundle.load(tmp_path)
    with pytest.raises(UserError, match="a run's directory: first `jaxtl export"):
        bundle.load(digits[0].directory)
    weights = copy / bundle.WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=f"bytes {len(whole) - 1}, but {len(whole)}"):
        bundle.load(copy)
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=r"parameters\.safetensors has sha256"):
        bundle.load(copy)
    weights.unlink()
    with pytest.raises(UserError, match=r"parameters\.safetensors is missing"):
        bundle.load(copy)
    (copy / bundle.METADATA).write_text("{")
    with pytest.raises(UserError, match=r"export\.json is damaged"):
        bundle.load(copy)


def test_a_program_that_this_jax_cant_read_is_told(copy):
    (copy / bundle.PROGRAM).write_bytes(b"nonsense")
    found = json.loads((copy / bundle.METADATA).read_text())["files"]
    found[bundle.PROGRAM] = bundle.digest(copy / bundle.PROGRAM)
    edit(copy, files=found, versions={"jax": "9.9", "jaxtl": "7.0"})
    with pytest.raises(UserError, match=r"can't be read by jax .* \(jax 9\.9 wrote"):
        bundle.load(copy)
    edit(copy, format=2)
    with pytest.raises(UserError, match=r"format 2; this jaxtl reads up to 1: .* 7\.0"):
        bundle.load(copy)


@pytest.mark.parametrize("change", [0.25, np.nan])
def test_an_example_that_deviates_stops_the_load(copy, change):
    with np.load(copy / bundle.EXAMPLE) as file:
        stored = dict(file)
    stored["y.logits"][1, 2] += change
    np.savez_compressed(copy / bundle.EXAMPLE, **stored)
    found = json.loads((copy / bundle.METADATA).read_text())["files"]
    found[bundle.EXAMPLE] = bundle.digest(copy / bundle.EXAMPLE)
    edit(copy, files=found)
    size = "nan" if np.isnan(change) else "0.25"
    wanted = f"logits differ by up to {size} .* jax {re.escape(jax.__version__)} on"
    with pytest.raises(UserError, match=wanted):
        bundle.load(copy)


def test_inputs_that_do_not_fit_are_told(predictor):
    x = np.zeros((2, 8, 8, 1), np.uint8)
    for bad, message in (
        (x[..., 0], "shape (2, 8, 8); the exported model takes (n, 8, 8, 1), uint8"),
        (x[:0], "holds no examples"),
        (x / 16 + 0.5, "float64 with values from 0.5 to 0.5"),
        (x.astype(int) + 256, "int64 with values from 256 to 256"),
        (x.astype(str), "expected numbers (uint8)"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            predictor(bad)
    np.testing.assert_array_equal(predictor(x.astype(np.float64)), predictor(x))


def test_files_that_cant_be_predicted_are_named(digits, tmp_path):
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
        (".", "is a folder, name its files"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            predict.predict(folder, [tmp_path / name])
    with pytest.raises(UserError, match="name at least one file"):
        predict.predict(folder, [])
