"""Names of outputs and of table columns, matched when weights are loaded.

Origins: transformers' predictions by `id2label` on the same weights; a two-layer
perceptron in numpy float64, whose weights are looked up by name; the same table with
its columns in another order.
"""

import csv
import dataclasses
import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_rows import MODELS

import jaxtl as tl
from jaxtl.core import checkpoint
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.names import match_names
from jaxtl.data.dataset import Data, Table
from jaxtl.data.preparation import prepare
from jaxtl.evaluation import evaluate, model_selection
from jaxtl.export import write_bundle
from jaxtl.pretrained import (
    counted_axes,
    hf_peft_read,
    hf_peft_write,
    registry,
    reorder,
    tensor_files,
    write,
)
from jaxtl.pretrained.match import Weights, match
from jaxtl.training import load_model, setup

MLP = tl.models.MLP(widths=(4,))
WORDS = [f"w{i}" for i in range(40)]


# ------------------------------------------------------------------ names alone


@given(st.permutations(["ant", "bee", "café", "dog", "0"]), st.booleans())
def test_every_name_is_found_in_any_order(names, decomposed):
    source = ["ant", "bee", "cafe\u0301" if decomposed else "café", "dog", "0"]
    places = match_names(source, names).places
    assert [source[i].replace("e\u0301", "é") for i in places] == names


@pytest.mark.parametrize(
    ("source", "names", "kind"),
    [
        (("NEUTRAL", "Entailment"), ("entailment", "neutral"), "but for case"),
        (("LABEL_0", "LABEL_1"), ("bad", "good"), "place"),
        ((), ("bad", "good"), "place"),
        (("0", "1"), ("bad", "good"), "place"),
        (("bad", "good"), ("0", "1"), "place"),
        (("1", "0"), ("0", "1"), "same"),
        (("a", "A"), ("A", "a"), "same"),
    ],
)
def test_what_counts_as_the_same(source, names, kind):
    assert match_names(source, names).kind == kind


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (("negative", "positive"), ("good", "poor")),
        (("ant", "bee", "cat"), ("bee", "cat", "dog")),
        (("negative", "positive"), ("negativ", "positive")),
        (("0", "1", "2"), ("1", "2", "3")),
        (("1", "2"), ("bad", "good")),
        (("a", "A"), ("a", "ä")),
        (("a", "A", "b"), ("A", "B", "a")),
    ],
)
def test_what_does_not_match(source, names):
    assert match_names(source, names) is None


# ------------------------------------------------- permuted weights, by closed form


def by_name(params, x, columns, classes):
    """{class: logit} of a perceptron whose weights are looked up by name."""
    w1, b1 = (np.asarray(params["layer1"]["dense"][n], float) for n in _PARTS)
    w2, b2 = (np.asarray(params["head"]["dense"][n], float) for n in _PARTS)
    h = np.maximum(sum(x[c] * w1[i] for i, c in enumerate(columns)) + b1, 0)
    return {k: h @ w2[:, i] + b2[i] for i, k in enumerate(classes)}


_PARTS = ("kernel", "bias")


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_predictions_by_name_do_not_depend_on_any_order(data):
    columns = data.draw(st.permutations(["age", "size=big", "size=small", "w"]))
    classes = data.draw(st.permutations(["ant", "bee", "cat"]))
    new_columns = tuple(data.draw(st.permutations(columns)))
    new_classes = tuple(data.draw(st.permutations(classes)))
    rng = np.random.default_rng(0)
    model = tl.models.MLP(widths=(5,), outputs=3)
    shapes, _ = jax.eval_shape(
        model.pure().init, jax.random.key(0), np.zeros((1, 4), np.float32)
    )
    params = jax.tree.map(lambda s: rng.normal(size=s.shape), shapes)
    mean = [float(len(c)) for c in columns]
    weights = Weights(
        params,
        meta={"preprocess": {"mean": mean, "std": mean, "scale": 1.0}},
        output_names=tuple(classes),
        feature_names=tuple(columns),
    )
    loading = reorder.Loading(model, np.zeros((1, 4), np.float32), weights)
    moved, _ = reorder.order_columns(loading, new_columns)
    loading = dataclasses.replace(loading, weights=moved)
    moved, names, _ = reorder.order_head(loading, new_classes)
    assert names == new_classes
    assert moved.meta["preprocess"]["mean"] == [float(len(c)) for c in new_columns]
    x = {c: rng.normal(size=(6, 1)) for c in columns}
    expected = by_name(params, x, columns, classes)
    inputs = np.concatenate([x[c] for c in new_columns], 1).astype(np.float32)
    loaded, *_ = match(shapes_as_zeros(shapes), {}, moved)
    logits = model.pure().apply(loaded, {}, inputs).logits
    for i, name in enumerate(new_classes):
        np.testing.assert_allclose(logits[:, i], expected[name], atol=1e-4)


LEAVES = ("kernel", "bias")


def shapes_as_zeros(shapes):
    return jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)


@pytest.mark.parametrize("name", [n for n, m in MODELS.items() if m[0].outputs])
def test_every_family_knows_the_axes_of_its_outputs(name):
    model, x = MODELS[name]
    axes = counted_axes.output_axes(model, x)
    layers = ("dense", "distilled") if name == "deit" else ("dense",)
    assert set(axes) <= {f"head/{n}/{leaf}" for n in layers for leaf in LEAVES}
    shapes, stats = jax.eval_shape(model.pure().init, jax.random.key(0), x)
    leaves = {**trees.flatten(shapes), **trees.flatten(stats)}
    for path, axis in axes.items():
        assert leaves[path].shape[axis] == model.outputs == 3
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: rng.normal(size=s.shape), shapes["head"])
    moved = counted_axes.permuted(Weights({"head": params}), axes, (2, 0, 1)).params
    for path, leaf in trees.flatten({"head": params}).items():
        expected = leaf[..., [2, 0, 1]] if path in axes else leaf
        np.testing.assert_array_equal(trees.flatten(moved)[path], expected)


# ---------------------------------------------------------------------- tables


def table(path, columns, target="y", rename=lambda name: name, rows=60):
    """Writes rows of a and b of different sizes, a color, and their class."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(3, 1, rows), rng.normal(100, 50, rows)
    color = rng.choice(["blue", "red"], rows)
    y = np.where(
        (a - 3) - (b - 100) / 25 + (color == "red") > 0, "negative", "positive"
    )
    cells = {"a": a, "b": b, "color": color, target: [rename(n) for n in y]}
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, target])
        writer.writerows(zip(*(cells[name] for name in (*columns, target))))
    return tl.data.CSV(str(path), target=target)


def trained(folder, data, steps=0, model=MLP, **fields):
    exp = tl.Experiment(model=model, data=data, steps=steps, batch=16, **fields)
    run = tl.setup(exp, folder)
    tl.train(run, progress=False)
    return run


def loaded(data, init, model=MLP, **fields):
    return tl.setup(tl.Experiment(model=model, data=data, init=init, steps=0, **fields))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on the columns (b, color, a), its folder and its accuracy on test."""
    folder = tmp_path_factory.mktemp("names")
    data = table(folder / "bca.csv", ("b", "color", "a"))
    run = trained(
        folder / "run", data, steps=80, optim=tl.optim.AdamW(lr=3e-2), monitor=None
    )
    accuracy = tl.evaluate(run, "test")["accuracy"]
    assert accuracy > 0.8
    return run, folder, accuracy


def test_a_table_with_its_columns_in_another_order(run, tmp_path):
    _, folder, accuracy = run
    data = table(tmp_path / "abc.csv", ("a", "b", "color"))
    other = loaded(data, tl.pretrained.FromRun(str(folder / "run")))
    assert tl.evaluate(other, "test")["accuracy"] == accuracy
    note = other.notes["init.columns"]
    assert "(b, color=blue, color=red, a) there" in note
    assert "(a, b, color=blue, color=red) here" in note


def test_classes_in_another_order(run, tmp_path):
    _, folder, accuracy = run
    data = dataclasses.replace(
        table(tmp_path / "abc.csv", ("b", "color", "a")),
        classes=("positive", "negative"),
    )
    other = loaded(data, tl.pretrained.FromRun(str(folder / "run")))
    assert tl.evaluate(other, "test")["accuracy"] == accuracy
    assert "reordered by name" in other.notes["init.head"]
    # θ₀ has the same order, for distillation, WiSE-FT and distances to it.
    for head in (other.source.params["head"], other.source.head):
        np.testing.assert_array_equal(
            head["dense"]["kernel"], other.params["head"]["dense"]["kernel"]
        )


def test_other_classes_are_refused_unless_the_head_is_new(run, tmp_path):
    _, folder, accuracy = run
    data = table(
        tmp_path / "good.csv",
        ("a", "b", "color"),
        rename={"negative": "good", "positive": "poor"}.get,
    )
    init = tl.pretrained.FromRun(str(folder / "run"))
    with pytest.raises(
        UserError, match=r"predicts negative, positive.*good, poor.*'head'"
    ):
        loaded(data, init)
    assert (
        "init.head" not in loaded(data, dataclasses.replace(init, reset="head")).notes
    )
    # Names that the user gives count in place of the stored ones.
    named = dataclasses.replace(init, output_names=("good", "poor"))
    assert tl.evaluate(loaded(data, named), "test")["accuracy"] == accuracy
    for names, problem in (
        ("good", "expected texts in brackets"),
        (("bad", "poor", "good"), "name 3 outputs"),
    ):
        with pytest.raises(UserError, match=problem):
            loaded(data, dataclasses.replace(init, output_names=names))


def test_the_refusal_proposes_the_nearest_spelling(run, tmp_path):
    _, folder, _ = run
    data = table(
        tmp_path / "near.csv",
        ("a", "b", "color"),
        rename={"negative": "negativ", "positive": "positive"}.get,
    )
    with pytest.raises(UserError, match=r"negativ is not among .*mean 'negative'"):
        loaded(data, tl.pretrained.FromRun(str(folder / "run")))


def test_classes_that_overlap_in_part_are_refused():
    model = tl.models.MLP(widths=(), outputs=3)
    params, _ = model.pure().init(jax.random.key(0), np.zeros((1, 2), np.float32))
    weights = Weights(params, output_names=("ant", "bee", "cat"))
    loading = reorder.Loading(model, np.zeros((1, 2), np.float32), weights)
    with pytest.raises(UserError, match="dog is not among them"):
        reorder.order_head(loading, ("bee", "cat", "dog"))
    reset = dataclasses.replace(loading, skipped=("head",))
    kept, names, note = reorder.order_head(reset, ("bee", "cat", "dog"))
    assert kept.params is params
    assert (names, note) == (("bee", "cat", "dog"), "")


def test_other_columns_are_refused_unless_what_reads_them_is_new(run, tmp_path):
    _, folder, _ = run
    path = tmp_path / "named.csv"
    table(path, ("b", "color", "a"))
    path.write_text(path.read_text().replace("b,color,a,y", "width,color,a,y", 1))
    data = tl.data.CSV(str(path), target="y")
    init = tl.pretrained.FromRun(str(folder / "run"))
    with pytest.raises(UserError, match=r"width is not among.*reset='layer1'"):
        loaded(data, init)
    other = loaded(data, dataclasses.replace(init, reset="layer1"))
    # Mean and deviation are those of the new columns, not of the old ones.
    own = other.datasets["target"].preprocess
    assert other.preprocess.mean == own.mean


def test_a_checkpoint_carries_the_names_of_its_run(run, tmp_path):
    first, folder, accuracy = run
    data = table(tmp_path / "abc.csv", ("a", "b", "color"))
    step = checkpoint.latest(folder / "run" / "checkpoints")
    item = folder / "run" / "checkpoints" / str(step) / "last"
    from jaxtl.analysis import weight_space

    weight_space.save(tmp_path / "soup", first, *first.weights())
    for path in (item, tmp_path / "soup"):
        other = loaded(data, tl.pretrained.FromCheckpoint(str(path)))
        assert tl.evaluate(other, "test")["accuracy"] == accuracy


def test_a_soup_of_runs_with_other_columns_or_classes_is_refused(run, tmp_path):
    first, _, _ = run
    from jaxtl.analysis import weight_space

    data = table(tmp_path / "abc.csv", ("a", "b", "color"))
    other = tl.setup(tl.Experiment(model=MLP, data=data, steps=0))
    with pytest.raises(UserError, match="read different columns"):
        weight_space.soup([first, other], names=("one", "two"))


def test_a_table_that_was_rewritten_is_not_evaluated(tmp_path):
    path = tmp_path / "t.csv"
    trained(tmp_path / "run", table(path, ("a", "b")))
    text = path.read_text()
    for header in ("b,a,y", "a,c,y"):
        path.write_text(text.replace("a,b,y", header, 1))
        for read in (
            lambda d: tl.evaluate(load_model.load_model(d), "test"),
            setup.resume,
        ):
            with pytest.raises(UserError):
                read(tmp_path / "run")


# ----------------------------------------------- labels, targets and other tasks


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Given(Data):
    """A table in memory."""

    table: Table

    def read(self):
        return self.table


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_labels_and_targets_in_another_order(task, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 3)).astype(np.float32)
    values = {name: rng.integers(0, 2, 30) for name in ("p", "q", "r")}

    def data(order):
        y = np.stack([values[name] for name in order], 1)
        names = {"multilabel": "class_names", "regression": "target_names"}[task]
        return _Given(table=Table(x=x, y=y, task=task, **{names: order}))

    run = trained(tmp_path / "run", data(("p", "q", "r")))
    init = tl.pretrained.FromRun(str(tmp_path / "run"))
    other = loaded(data(("r", "p", "q")), init)
    expected, labels = evaluate.predict_split(run, "test")
    logits, new_labels = evaluate.predict_split(other, "test")
    np.testing.assert_allclose(logits, expected[:, [2, 0, 1]], atol=1e-6)
    np.testing.assert_array_equal(new_labels, labels[:, [2, 0, 1]])
    values["s"] = values["p"]
    with pytest.raises(UserError, match="s is not among them"):
        loaded(data(("p", "q", "s")), init)


def test_offsets_of_targets_move_with_them(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    targets = {"small": x[:, 0], "large": 1e9 + np.arange(40.0)}

    def data(*order):
        y = np.stack([targets[name] for name in order], 1)
        return _Given(table=Table(x=x, y=y, task="regression", target_names=order))

    run = trained(tmp_path / "run", data("small", "large"))
    init = tl.pretrained.FromRun(str(tmp_path / "run"))
    other = loaded(data("large", "small"), init)
    expected, _ = evaluate.predict_split(run, "test")
    outputs, _ = evaluate.predict_split(other, "test")
    np.testing.assert_allclose(outputs, expected[:, ::-1], atol=1e-6)
    # A new head learns the new data's differences, whatever the old ones were.
    changed = {**targets, "large": targets["small"]}
    targets.update(changed)
    loaded(data("small", "large"), dataclasses.replace(init, reset="head"))


def test_outputs_beyond_the_classes_are_exported_by_name(tmp_path):
    wide = tl.models.MLP(widths=(4,), outputs=4)
    x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)

    def data(*names):
        y = np.arange(40) % len(names)
        return tl.data.Arrays(x=x, y=y, class_names=names)

    trained(tmp_path / "four", data("a", "b", "c", "d"), model=wide)
    init = tl.pretrained.FromRun(str(tmp_path / "four"))
    trained(tmp_path / "two", data("d", "b"), model=wide, init=init)
    out = write_bundle.export(tmp_path / "two", tmp_path / "out")
    names = json.loads((out / "export.json").read_text())["class_names"]
    assert names == ["d", "b", "a", "c"]


def test_a_source_without_names_is_taken_by_place(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    y = np.arange(30) % 2
    trained(tmp_path / "run", tl.data.Arrays(x=x, y=y))
    named = tl.data.Arrays(x=x, y=y, class_names=("bad", "good"))
    other = loaded(named, tl.pretrained.FromRun(str(tmp_path / "run")))
    note = other.notes["init.head"]
    assert "by place" in note
    assert "(0, 1) there, (bad, good) here" in note


def test_a_stream_with_its_columns_in_another_order_is_refused(tmp_path):
    exp = tl.Experiment(
        model=MLP,
        data=table(tmp_path / "ab.csv", ("a", "b")),
        streams={"source": table(tmp_path / "ba.csv", ("b", "a"))},
        terms={"task": tl.losses.CrossEntropy(stream="source")},
        steps=0,
    )
    with pytest.raises(UserError, match=r"columns b, a, the target a, b.*features="):
        tl.setup(exp)


def test_a_source_in_another_order_chooses_no_checkpoint():
    x = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    y = np.arange(60) % 2

    def datasets(*names):
        source = tl.data.Arrays(x=x, y=y, class_names=names)
        target = tl.data.Arrays(x=x, y=y, class_names=("a", "b"), labels=0)
        return {"target": prepare(target), "source": prepare(source)}

    chosen = model_selection.resolve_monitor(datasets("a", "b"), "auto")
    assert chosen == "source_accuracy"
    for names in (("b", "a"), ("c", "d")):
        assert model_selection.resolve_monitor(datasets(*names), "auto") == "bnm"
        with pytest.raises(UserError, match="target's classes in their order"):
            model_selection.check_monitor(datasets(*names), "source_accuracy")


def test_a_label_stream_in_another_order_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 2)).astype(np.float32)
    y = rng.integers(0, 2, (30, 2))

    def data(*order):
        return _Given(table=Table(x=x, y=y, task="multilabel", class_names=order))

    exp = tl.Experiment(
        model=MLP,
        data=data("p", "q"),
        streams={"source": data("q", "p")},
        terms={"task": tl.losses.BinaryCrossEntropy(stream="source")},
        steps=0,
    )
    with pytest.raises(UserError, match=r"\(q, p\) are not the target's \(p, q\)"):
        tl.setup(exp)


# ------------------------------------------------------- directories of transformers


def tiny_bert(folder, names):
    """A directory with a tiny random BERT, as transformers writes it."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        initializer_range=0.7,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    model = transformers.BertForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join([*special, *WORDS]) + "\n")
    return model, transformers.BertTokenizer(str(folder / "vocab.txt"))


def transformers_log_p(model, tokenizer, texts):
    """{name: log-probability of every text}, by transformers and its id2label."""
    import torch

    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        log_p = model(**batch).logits.log_softmax(-1).double().numpy()
    return {name: log_p[:, i] for i, name in model.config.id2label.items()}


@pytest.mark.parametrize(
    "names",
    [("positive", "negative"), ("ENTAILMENT", "NEUTRAL", "CONTRADICTION")],
    ids=["sentiment", "nli"],
)
def test_id2label_decides_the_order_of_a_head(names, tmp_path):
    folder = tmp_path / "bert"
    model, tokenizer = tiny_bert(folder, names)
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(WORDS, 6)) for _ in range(60)]
    expected = transformers_log_p(model, tokenizer, texts)
    best = [max(names, key=lambda n: expected[n][i]).lower() for i in range(60)]
    best[0] = next(n.lower() for n in names if n.lower() != best[0])
    assert set(best) == {name.lower() for name in names}
    for name, rows in (("train", slice(30)), ("test", slice(60))):
        lines = [f"{t}\t{y}" for t, y in zip(texts[rows], best[rows])]
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    data = tl.data.Text(
        str(tmp_path / "train.tsv"),
        test_path=str(tmp_path / "test.tsv"),
        tokenizer=str(folder),
    )
    init = tl.pretrained.FromHub(str(folder))
    run = loaded(data, init, init.model())
    assert run.datasets["target"].class_names == tuple(sorted(set(best)))
    logits, _ = evaluate.predict_split(run, "test")
    log_p = np.asarray(jax.nn.log_softmax(logits))
    for i, name in enumerate(run.datasets["target"].class_names):
        found = next(n for n in names if n.lower() == name)
        np.testing.assert_allclose(log_p[:, i], expected[found], atol=2e-4)
    assert tl.evaluate(run, "test")["accuracy"] == pytest.approx(59 / 60)
    assert "reordered by name" in run.notes["init.head"]


def test_the_keys_of_id2label_are_the_places():
    config = {"architectures": ["BertForSequenceClassification"]}
    names = {"1": "b", "0": "a"}
    assert registry.head_names({**config, "id2label": names}) == ("a", "b")
    assert registry.head_names({**config, "num_labels": 3}) == ()
    with pytest.raises(UserError, match="the keys of id2label are 1, 2"):
        registry.head_names({**config, "id2label": {"1": "a", "2": "b"}})


# ------------------------------------------------------------ files and adapters


BERT = tl.models.Bert(
    vocab=9, width=4, layers=1, heads=1, hidden=4, context=4, outputs=3
)
TEXT = {"input_ids": np.ones((1, 3), np.int32)}


def random_bert():
    shapes, _ = jax.eval_shape(BERT.pure().init, jax.random.key(0), TEXT)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype("f4"), shapes)


def test_an_adapters_head_is_read_by_name(tmp_path):
    params, method = random_bert(), tl.peft.LoRA(rank=1, select="layer_0/attention")
    arguments = method.init(jax.random.key(0), params), method.constants(params)
    for name, stored in (("named", ("a", "b", "c")), ("unnamed", ())):
        hf_peft_write.save_adapter(
            tmp_path / name, method, *arguments, params, BERT, output_names=stored
        )

    def head(name, names):
        start = dataclasses.replace(method, start=str(tmp_path / name))
        adapter, note = hf_peft_read.read_start(start, BERT, params, TEXT, names)
        return adapter.whole["head/dense/kernel"], note

    kernel = params["head"]["dense"]["kernel"]
    moved, note = head("named", ("c", "a", "b"))
    np.testing.assert_array_equal(moved, kernel[:, [2, 0, 1]])
    assert "reordered by name" in note
    as_it_is, note = head("unnamed", ("c", "a", "b"))
    np.testing.assert_array_equal(as_it_is, kernel)
    assert "by place" in note
    with pytest.raises(UserError, match="d is not among them"):
        head("named", ("a", "b", "d"))


def test_a_file_has_the_names_of_its_header_or_of_the_config_beside(tmp_path):
    params, names = random_bert(), ("x", "y", "z")
    write.write_file(
        tmp_path / "named.safetensors", BERT, params, names={"output_names": names}
    )
    (tmp_path / "hf").mkdir()
    write.write_file(tmp_path / "hf" / "model.safetensors", BERT, params)
    config = {
        "architectures": ["BertForSequenceClassification"],
        "id2label": dict(enumerate(names)),
    }
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    for path in ("named.safetensors", "hf", "hf/model.safetensors"):
        weights = tl.pretrained.FromFile(str(tmp_path / path)).read_for(BERT)
        assert weights.output_names == names


def test_the_header_of_a_tensor_file_holds_names(tmp_path):
    header = {"output_names": json.dumps(["é", "b"]), "feature_names": "no list"}
    tensor_files.write(tmp_path / "a.safetensors", {"x": np.zeros(2)}, header)
    file = tensor_files.read(tmp_path / "a.safetensors")
    assert file.names("output_names") == ("é", "b")
    assert file.names("others") == ()
    with pytest.raises(UserError, match="feature_names in the header"):
        file.names("feature_names")
