"""Experiments without train rows: metrics are those of numpy and transformers."""

import dataclasses
import json
import types

import numpy as np
import PIL.Image
import pytest
from sklearn import metrics as sklearn_metrics

import jaxtl as tl
from jaxtl.analysis import linear_probe
from jaxtl.cli.main import main
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.data.sources.at_path import at_path
from jaxtl.evaluation import evaluate
from jaxtl.export import bundle, evaluate_export, write_bundle
from jaxtl.training import evaluation_only, inputs, other_data, run_dir

CLASSES = ("p", "q", "s")
MODEL = tl.models.MLP(widths=(8,))


def cells(rng, count, colors="rgb"):
    """Rows (a, b, color, class)."""
    a, b = rng.normal(size=(2, count)).round(3)
    color = rng.choice(list(colors), count)
    label = np.clip(np.round(a + 1 + (color == "r")), 0, 2).astype(int)
    return [*zip(a, b, color, np.asarray(CLASSES)[label])]


def write(path, rows, order=(0, 1, 2, 3)):
    names = ("a", "b", "color", "y")
    lines = [",".join(str(row[i]) for i in order) for row in (names, *rows)]
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on a table, and its train rows."""
    folder = tmp_path_factory.mktemp("trained")
    rows = cells(np.random.default_rng(0), 120)
    rows += [(0.1, 0.2, "violet", "p")] * 2
    table = write(folder / "train.csv", rows)
    data = tl.data.CSV(table, target="y")
    exp = tl.Experiment(model=MODEL, data=data, steps=8, batch=16)
    run = tl.setup(exp, folder / "run")
    tl.train(run)
    return folder / "run", [rows[i] for i in run.datasets["target"].rows["train"]]


def evaluation(trained, table, **changes):
    data = tl.data.CSV(table, target="y", test=1.0)
    init = tl.pretrained.FromRun(str(trained[0]))
    exp = tl.Experiment(model=MODEL, data=data, init=init)
    return dataclasses.replace(exp, **changes)


def numpy_probabilities(trained, rows):
    """The model's, in float64: columns scaled as the train rows of the run."""
    directory, train = trained
    leaves = trees.flatten(tl.load_model(directory).params)
    kernel, bias, head, head_bias = (
        np.asarray(leaves[f"{path}"], np.float64)
        for path in (
            "layer1/dense/kernel",
            "layer1/dense/bias",
            "head/dense/kernel",
            "head/dense/bias",
        )
    )
    numbers = np.asarray([row[:2] for row in train], np.float64)
    x = (np.asarray([row[:2] for row in rows]) - numbers.mean(0)) / numbers.std(0)
    seen = {row[2] for row in train}
    categories = ("b", "g", "r", "violet")
    one_hot = [[c == row[2] and c in seen for c in categories] for row in rows]
    hidden = np.maximum(np.hstack([x, one_hot]) @ kernel + bias, 0)
    logits = hidden @ head + head_bias
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def test_a_table_is_read_as_the_model_was_trained(trained, tmp_path):
    rows = cells(np.random.default_rng(1), 60, "rgx")  # "x" is new, "violet" is absent
    rows = [row for row in rows if row[3] != "p"]
    table = write(tmp_path / "t.csv", rows, order=(3, 2, 1, 0))
    run = tl.setup(evaluation(trained, table), tmp_path / "run")
    values = tl.train(run)["test"]
    p, y = numpy_probabilities(trained, rows), [CLASSES.index(r[3]) for r in rows]
    assert values["accuracy"] == pytest.approx((p.argmax(1) == y).mean())
    nll = sklearn_metrics.log_loss(y, p, labels=range(3))
    assert values["nll"] == pytest.approx(nll, rel=1e-5)
    notes = " ".join(run.datasets["target"].notes)
    assert "no example has the class p" in notes
    assert "cells of a category that no train row had" in notes
    result = run_dir.read_json(tmp_path / "run" / "result.json")
    assert result["terms"]["evaluation"] == "nothing is trained"
    assert (result["trainable_parameters"], result["steps"]) == (0, 0)
    assert result["details"]["classes"] == list(CLASSES)
    for again in (tl.load_model(tmp_path / "run"), tl.resume(tmp_path / "run")):
        assert tl.evaluate(again, "test") == pytest.approx(values)


def test_a_finished_run_is_evaluated_on_other_data(trained, tmp_path, capsys):
    rows = cells(np.random.default_rng(7), 50, "rgx")
    table = write(tmp_path / "new.csv", rows, order=(2, 3, 0, 1))
    lines = [json.dumps(dict(zip(("a", "b", "color", "y"), row))) for row in rows]
    (tmp_path / "new.jsonl").write_text("\n".join(lines))
    p, y = numpy_probabilities(trained, rows), [CLASSES.index(r[3]) for r in rows]
    nll = sklearn_metrics.log_loss(y, p, labels=range(3))
    source = run_dir.read_experiment(trained[0]).data
    for path in (table, str(tmp_path / "new.jsonl")):
        model = tl.load_model(trained[0], data=at_path(source, path))
        assert tl.evaluate(model, "test")["nll"] == pytest.approx(nll, rel=1e-5)
    assert main(["eval", str(trained[0]), "--data", table]) == 0
    shown = capsys.readouterr().out
    assert "cells of a category that no train row had" in shown
    assert f"{(p.argmax(1) == y).mean() * 100:.1f}" in shown
    other = write(tmp_path / "z.csv", [(*rows[0][:3], "z"), (*rows[1][:3], "p")])
    assert main(["eval", str(trained[0]), "--data", other]) == 1
    assert "z is not among them" in capsys.readouterr().err


def test_an_export_is_evaluated_as_its_run(trained, tmp_path, capsys):
    rows = cells(np.random.default_rng(8), 40, "rgx")
    table = write(tmp_path / "new.csv", rows, order=(2, 3, 0, 1))
    out = str(write_bundle.export(trained[0], tmp_path / "export"))
    data = tl.data.CSV(table, target="y", test=1.0)
    model = evaluate_export.load(out, data)
    values = evaluate.measure(model, "test", *model.predict("test"))
    p, y = numpy_probabilities(trained, rows), [CLASSES.index(r[3]) for r in rows]
    nll = sklearn_metrics.log_loss(y, p, labels=range(3))
    assert values["nll"] == pytest.approx(nll, rel=1e-5)
    with pytest.raises(UserError, match="have no split 'val'; they have test"):
        model.predict("val")
    (tmp_path / "data.py").write_text(
        "import jaxtl as tl\n\n\ndef experiment():\n    return tl.Experiment(\n"
        f"        model=None, data=tl.data.CSV({table!r}, target='y', test=1.0))\n"
    )
    options = ["--data", str(tmp_path / "data.py"), "--intervals", "5"]
    assert main(["eval", out, *options]) == 0
    assert "40 examples" in capsys.readouterr().out
    assert main(["eval", out, "--data", table]) == 1
    assert "does not say how to read data" in capsys.readouterr().err


def test_data_that_a_run_was_trained_on_are_told(trained):
    source = run_dir.read_experiment(trained[0]).data
    model = tl.load_model(trained[0], data=at_path(source, source.path))
    assert any("was trained on rows of train.csv" in n for n in model.dataset.notes)


META = {
    "task": "classification",
    "output_names": ["cat", "dog"],
    "preprocess": {"scale": 255.0, "size": [4, 4], "channels": 3},
    "inputs": {"x": {"shape": [4, 4, 3], "dtype": "uint8"}},
    "single": True,
}


def test_pictures_are_read_in_the_form_of_the_model(tmp_path):
    for name in ("dog/1", "dog/2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        PIL.Image.new("L", (9, 7), 3).save(tmp_path / f"{name}.png")
    source = at_path(tl.data.ImageFolder("train", size=4, limit=7), str(tmp_path))
    dataset = other_data.read(source, tmp_path, META, MODEL, 0)
    assert dataset.example_shape == (4, 4, 3)
    assert (dataset.class_names, dataset.y.tolist()) == (("cat", "dog"), [1, 1])
    wide = dataclasses.replace(source, size=5)
    with pytest.raises(UserError, match=r"shape \(4, 4, 3\), and those of the data h"):
        other_data.read(wide, tmp_path, META, MODEL, 0)


def test_a_table_may_have_another_format():
    source = tl.data.CSV("a.csv", target="y", features="a", delimiter=";", limit=3)
    kinds = {"b.csv": "CSV", "b.jsonl.gz": "JSON", "b.pq": "Parquet"}
    for path, kind in kinds.items():
        moved = at_path(source, path)
        assert (type(moved).__name__, moved.path) == (kind, path)
        assert (moved.target, moved.features, moved.test) == ("y", ("a",), 1.0)
        assert moved.limit is None
    assert at_path(source, "b.csv").delimiter == ";"


def test_the_thresholds_of_an_export_are_its_runs(trained, tmp_path, monkeypatch):
    predictor = bundle.load(write_bundle.export(trained[0], tmp_path / "export"))
    metadata = {**predictor.metadata, "thresholds": [0.8, 0.5, 0.1]}
    changed = dataclasses.replace(predictor, metadata=metadata)
    monkeypatch.setattr(bundle, "load", lambda folder: changed)
    table = write(tmp_path / "new.csv", cells(np.random.default_rng(8), 9))
    source = tl.data.CSV(table, target="y", test=1.0)
    model = evaluate_export.load(tmp_path / "export", source)
    np.testing.assert_allclose(model.thresholds, np.log([4, 1, 1 / 9]))


def test_an_export_gets_values_in_the_units_of_the_data(tmp_path):
    numbers = 16777217 + np.arange(6)
    lines = [f"{n},{'pq'[i % 2]}" for i, n in enumerate(numbers)]
    (tmp_path / "t.csv").write_text("\n".join(["a,y", *lines]))
    source = tl.data.CSV(str(tmp_path / "t.csv"), target="y", test=1.0)
    inputs_of_calls = []

    def outputs(x):
        inputs_of_calls.append(x)
        return {"logits": np.zeros((len(x), 2))}

    predictor = types.SimpleNamespace(outputs=outputs)
    model = evaluate_export.ExportedModel(
        predictor=predictor, dataset=tl.data.prepare(source), thresholds=None
    )
    logits, labels = model.predict("test")
    np.testing.assert_array_equal(np.concatenate(inputs_of_calls)[:, 0], numbers)
    assert (logits.shape, labels.tolist()) == ((6, 2), [0, 1] * 3)


def test_a_source_without_a_file_is_refused():
    for source in (tl.data.Digits(), tl.data.Arrays(x=np.eye(4), y=np.arange(4))):
        with pytest.raises(UserError, match="are not those of a file"):
            at_path(source, "new.csv")


REFUSALS = {
    "a class that the model lacks": (
        {},
        lambda row: (*row[:3], "z" if row[3] == "q" else row[3]),
        r"the classes p, s, z, but .*run predicts p, q, s \(z is not among them",
    ),
    "texts in place of numbers": (
        {},
        lambda row: ("high" if row[0] > 0 else "low", *row[1:]),
        "column 'a': 'high' in .*t.csv:.* is no number",
    ),
    "a fresh head": (
        {"reset": "head"},
        lambda row: row,
        "leave head of the model at random values, and data= has no train rows",
    ),
    "no weights": (
        {"init": None},
        lambda row: row,
        "init=None: the model's weights would be random",
    ),
    "a term that trains": (
        {"terms": {"task": tl.losses.CrossEntropy()}},
        lambda row: row,
        r"terms\['task'\] reads the stream 'target', but data= has no train rows",
    ),
    "fresh adapters": (
        {"peft": tl.peft.LoRA()},
        lambda row: row,
        r"peft=LoRA\(…\) adds parameters that are new",
    ),
    "nothing to measure": ({"test": False}, lambda row: row, "test=False leaves"),
}


@pytest.mark.parametrize(
    ("changes", "row", "message"), REFUSALS.values(), ids=REFUSALS.keys()
)
def test_what_can_not_be_evaluated_is_refused(trained, tmp_path, changes, row, message):
    rows = [row(r) for r in cells(np.random.default_rng(2), 40)]
    exp = evaluation(trained, write(tmp_path / "t.csv", rows))
    reset = changes.pop("reset", ()) if "reset" in changes else ()
    exp = dataclasses.replace(exp, init=dataclasses.replace(exp.init, reset=reset))
    with pytest.raises(UserError, match=message):
        tl.setup(dataclasses.replace(exp, **changes))


def test_settings_of_training_are_told(trained, tmp_path):
    table = write(tmp_path / "t.csv", cells(np.random.default_rng(3), 30))
    optim = tl.optim.AdamW(lr=0.1, groups={"no such stage": 1.0})
    run = tl.setup(evaluation(trained, table, steps=7, optim=optim))
    assert run.notes["evaluation"] == "nothing is trained; without use: optim, steps"
    with pytest.raises(UserError, match="can be evaluated but not trained"):
        run.step()


@pytest.mark.parametrize(
    ("meta", "cell", "message"),
    [
        ({}, "1", "do not say by which mean and standard deviation to scale"),
        ({"preprocess": {}}, "", "do not say what fills them"),
    ],
)
def test_nothing_is_fitted_on_test_rows(tmp_path, meta, cell, message):
    rows = [(cell, 2, "r", "p"), (2, 3, "g", "q")]
    table = write(tmp_path / "t.csv", rows)
    data = tl.data.CSV(table, target="y", test=1.0, missing="impute")
    exp = tl.Experiment(model=MODEL, data=data)
    datasets, weights = inputs.load_datasets(exp), tl.pretrained.Weights({}, meta=meta)
    with pytest.raises(UserError, match=message):
        inputs.preprocessing(exp, weights, datasets)
    chosen = tl.data.Preprocess(mean=0, std=1, fill=7)
    exp = dataclasses.replace(exp, preprocess=chosen)
    assert inputs.preprocessing(exp, weights, datasets)["target"].fill == (7.0,)


def test_without_val_rows_the_last_checkpoint_is_kept(trained):
    exp = run_dir.read_experiment(trained[0])
    run = tl.setup(dataclasses.replace(exp, data=dataclasses.replace(exp.data, val=0)))
    assert run.monitor is None
    assert "the last one is kept" in run.notes["monitor"]


def test_the_threshold_of_the_run_decides(trained, tmp_path):
    """log(3) is the logit of ¾: the second class has to be more probable than that."""
    table = write(tmp_path / "t.csv", cells(np.random.default_rng(10), 30))
    exp = evaluation(trained, table)
    values = evaluation_only.stored_thresholds(exp, {"thresholds": [np.log(3)]})
    target = inputs.load_datasets(exp)["target"]
    target = dataclasses.replace(target, class_names=("no", "yes"))
    note = evaluation_only.threshold_note(exp, target, values)
    assert note == {"threshold": f"p(yes) > 0.75, as in {trained[0]}"}
    last = dataclasses.replace(exp, init=dataclasses.replace(exp.init, which="last"))
    assert evaluation_only.stored_thresholds(last, {"thresholds": [1.0]}) is None


def test_a_fresh_head_that_is_not_trained_is_told(trained):
    exp = run_dir.read_experiment(trained[0])
    init = tl.pretrained.FromRun(str(trained[0]), reset="head")
    run = tl.setup(dataclasses.replace(exp, init=init, steps=0))
    assert run.notes["evaluation"] == "steps=0 evaluates head at random values"


def test_what_is_fitted_on_train_rows_is_refused(trained, tmp_path):
    rows = cells(np.random.default_rng(9), 30)
    table = write(tmp_path / "t.csv", rows)
    exp = evaluation(trained, table)
    exp = dataclasses.replace(exp, data=dataclasses.replace(exp.data, val=1.0, test=15))
    with pytest.raises(UserError, match="a linear probe is fitted on labelled train"):
        linear_probe.probe(exp)


def test_a_source_trains_for_a_target_of_test_rows_alone(tmp_path):
    rng = np.random.default_rng(5)
    source, target = (
        write(tmp_path / name, cells(rng, 60)) for name in ("s.csv", "t.csv")
    )
    exp = tl.Experiment(
        model=MODEL,
        data=tl.data.CSV(target, target="y", test=1.0),
        streams={"source": tl.data.CSV(source, target="y")},
        terms={"task": tl.losses.CrossEntropy(stream="source")},
        steps=1,
        batch=8,
    )
    run = tl.setup(exp)
    fitted = run.datasets["source"].preprocess
    assert run.preprocess.mean == fitted.mean is not None
    assert run.program.batch_sizes == {"source": 8}


def test_commands_take_a_file_without_train_rows(trained, tmp_path, capsys):
    table = write(tmp_path / "t.csv", cells(np.random.default_rng(6), 30))
    file = tmp_path / "evaluate.py"
    file.write_text(
        "import jaxtl as tl\n\n\ndef experiment():\n    return tl.Experiment(\n"
        "        model=tl.models.MLP(widths=(8,)),\n"
        f"        data=tl.data.CSV({table!r}, target='y', test=1.0),\n"
        f"        init=tl.pretrained.FromRun({str(trained[0])!r}),\n    )\n"
    )
    out = str(tmp_path / "out")
    for command in (["data", str(file)], ["run", str(file), "--out", out]):
        assert main(command) == 0
        assert "no training rows: evaluation only" in capsys.readouterr().out
    for command in (["show", out], ["eval", out], ["compare", out, str(trained[0])]):
        assert main(command) == 0
    shown = capsys.readouterr().out
    assert "0 trainable" in shown
    assert "30 examples" in shown


def test_a_head_of_transformers_is_evaluated_as_it_is(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "very"]
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=16,
        id2label={0: "up", 1: "flat", 2: "down"},
        initializer_range=1.0,
    )
    torch.manual_seed(0)
    theirs = transformers.BertForSequenceClassification(config).eval()
    folder, texts = tmp_path / "bert", ["good", "very bad", "bad good", "very"]
    theirs.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words))
    labels = ["down", "up", "up", "down"]
    lines = [f"{text}\t{label}" for text, label in zip(texts, labels)]
    (tmp_path / "test.tsv").write_text("\n".join(["text\tlabel", *lines]))
    init = tl.pretrained.FromHub(str(folder))
    data = tl.data.Text(
        test_path=str(tmp_path / "test.tsv"), text="text", label="label"
    )
    exp = tl.Experiment(model=init.model(), data=data, init=init)
    values = tl.train(tl.setup(exp))["test"]
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    with torch.no_grad():
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        logits = theirs(**batch).logits
    y = torch.tensor([2, 0, 0, 2])
    nll = torch.nn.functional.cross_entropy(logits, y).item()
    assert values["nll"] == pytest.approx(nll, rel=1e-4)
    accuracy = (logits.argmax(1) == y).float().mean().item()
    assert values["accuracy"] == pytest.approx(accuracy)
    transformers.BertModel(config).save_pretrained(folder)
    with pytest.raises(UserError, match="head"):
        tl.setup(exp)
