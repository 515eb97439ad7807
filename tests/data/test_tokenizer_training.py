"""Texts without a tokenizer: trained on the train split, stored, or the model's own."""

import collections
import dataclasses
import itertools
import json

import numpy as np
import pytest

import jaxtl as tl
from jaxtl import data
from jaxtl.data import tokenizer_training
from jaxtl.export import predict, write_bundle
from jaxtl.training import inputs

tokenizers = pytest.importorskip("tokenizers")

PARTS = ("the film is", "good", "dull", "and so", "warm", "cold")


def write(path, first=0, rows=40):
    """Writes texts of two classes; each holds a word of its own, "q7q"."""
    lines = [
        f"{PARTS[0]} {PARTS[1 + i % 2]} {PARTS[3]} {PARTS[4 + i % 2]} q{i}q\t{i % 2}"
        for i in range(first, first + rows)
    ]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def best_pair(words):
    """The pair of neighbors that WordPiece's trainer, a BPE, merges first."""
    pairs = collections.Counter()
    for word, count in words.items():
        pieces = [word[0], *(f"##{c}" for c in word[1:])]
        for pair in itertools.pairwise(pieces):
            pairs[pair] += count
    return pairs.most_common(1)[0][0]


def test_the_first_piece_is_the_most_frequent_pair():
    texts = ["banana band", "Banana bandana", "cab"]
    words = collections.Counter(" ".join(texts).lower().split())
    first, second = best_pair(words)
    trained = tokenizer_training.train(texts, "word_piece", 5 + 40)
    vocab = json.loads(trained.to_json())["model"]["vocab"]
    longer = [piece for piece in vocab if len(piece.removeprefix("##")) == 2]
    assert min(longer, key=vocab.get) == first + second.removeprefix("##")
    x = trained(["band xyz"])
    assert trained.decode(x["input_ids"][0], special=True).split()[:4] == [
        "[CLS]",
        "band",
        "[UNK]",
        "[SEP]",
    ]


def test_only_train_rows_are_seen_and_texts_of_pairs(tmp_path):
    train, test = write(tmp_path / "a.tsv"), tmp_path / "b.tsv"
    test.write_text("зебра\t0\nthe film is good\t1\n")
    source = data.Text(train, test_path=str(test), val=0.25)
    dataset = data.prepare(source)
    assert "trained on the 30 train rows" in dataset.notes[-1]
    unknown = dataset.tokenizer(["зебра", "z"][:1])["input_ids"][0, 1]
    assert unknown == dataset.tokenizer.special()["[UNK]"]
    again = data.prepare(source, seed=1)
    assert again.fingerprint == dataset.fingerprint  # that of texts and labels
    engine = tokenizers.Tokenizer.from_str(dataset.tokenizer.to_json())
    row = int(dataset.rows["test"][1])
    ids = engine.encode("the film is good").ids
    assert dataset.x["input_ids"][row, : len(ids)].tolist() == ids
    lines = data.prepare(data.Lines(train, val=0.25))
    decoded = lines.tokenizer.decode(
        lines.x["input_ids"][0][lines.x["attention_mask"][0]]
    )
    assert decoded == "the film is good and so warm q0q\t0"


def test_a_stored_tokenizer_reads_the_same_ids(tmp_path):
    exp = tl.Experiment(
        model=tl.models.Bert(vocab=64, width=8, layers=1, heads=1, hidden=8),
        data=data.Text(write(tmp_path / "a.tsv"), vocab=100),
        streams={"source": data.Text(write(tmp_path / "b.tsv", first=60))},
        steps=1,
        batch=8,
    )
    datasets = inputs.load_datasets(exp)
    target, source = datasets["target"], datasets["source"]
    assert target.tokenizer.vocab <= 100
    assert source.tokenizer == target.tokenizer
    inputs.save_splits(tmp_path, datasets)
    stored = inputs.load_target(exp.data, exp.seed, tmp_path)
    assert f"texts are read by {tmp_path}" in stored.notes[-1]
    for name, ids in target.x.items():
        np.testing.assert_array_equal(stored.x[name], ids)
    resumed = inputs.load_datasets(exp, tmp_path)["source"]
    np.testing.assert_array_equal(resumed.x["input_ids"], source.x["input_ids"])


@pytest.mark.slow
def test_the_tokenizer_of_a_run_is_stored_and_used_everywhere(tmp_path):
    path = write(tmp_path / "a.tsv")
    model = tl.models.Bert(vocab=400, width=8, layers=1, heads=1, hidden=8)
    exp = tl.Experiment(model=model, data=data.Text(path), steps=1, batch=8, test=False)
    run = tl.setup(exp, tmp_path / "run")
    dataset = run.datasets["target"]
    assert dataset.tokenizer.vocab <= 400
    tl.train(run, progress=False)
    trained = tl.load_model(tmp_path / "run")
    np.testing.assert_array_equal(
        trained.dataset.x["input_ids"], dataset.x["input_ids"]
    )
    folder = write_bundle.export(tmp_path / "run", tmp_path / "out")
    (tmp_path / "new.txt").write_text("the film is dull\n")
    [row] = predict.predict(folder, tmp_path / "new.txt")
    x = dataset.tokenizer(["the film is dull"])
    logits = trained.network.apply(trained.params, trained.stats, x).logits
    assert row["label"] == trained.class_names[int(np.argmax(logits))]
    # What begins from the run reads texts as it does.
    init = tl.pretrained.FromRun(str(tmp_path / "run"))
    other = data.Text(write(tmp_path / "b.tsv", first=100))
    tuned = dataclasses.replace(exp, init=init, data=other)
    default = inputs.sources(tuned)["target"].default_tokenizer
    assert default.to_json() == dataset.tokenizer.to_json()


def test_a_pretrained_directory_brings_its_tokenizer(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "film", "good"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "config.json").write_text("{}")
    exp = tl.Experiment(
        model=tl.models.Bert(vocab=8, width=8, layers=1, heads=1, hidden=8),
        init=tl.pretrained.FromHub(str(tmp_path)),
        data=data.Text(write(tmp_path / "a.tsv")),
        streams={"source": data.Text(write(tmp_path / "b.tsv", 100))},
        steps=1,
        batch=8,
    )
    chosen = inputs.sources(exp)
    assert {d.default_tokenizer.path for d in chosen.values()} == {str(tmp_path)}
    dataset = data.prepare(chosen["target"])
    assert f"texts are read by {tmp_path}" in dataset.notes[-1]
    assert dataset.x["input_ids"][0, :4].tolist() == [2, 5, 6, 1]
    named = dataclasses.replace(exp.data, tokenizer=str(tmp_path / "vocab.txt"))
    chosen = inputs.sources(dataclasses.replace(exp, data=named))
    assert chosen["target"] == named
    assert chosen["source"].default_tokenizer.path == named.tokenizer


@pytest.mark.parametrize("kind", ["word_piece", "byte_pairs"])
def test_equal_texts_give_equal_pieces_and_ids(kind):
    """The library's own WordPiece vocabulary is another one in each call."""
    texts = ["anna lives in oslo .", "where does bert live ?", "carl sold apples"] * 3
    contents = {tokenizer_training.train(texts, kind, 300).content for _ in range(5)}
    assert len(contents) == 1
