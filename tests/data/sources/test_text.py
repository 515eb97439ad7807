"""Texts from columns, TREC's files and one file per class; their splits."""

import numpy as np
import pytest

from jaxtl import data
from jaxtl.core.errors import UserError
from jaxtl.data import Text

pytest.importorskip("tokenizers")


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##b", "good"]


@pytest.fixture
def vocab(tmp_path):
    """A small WordPiece vocabulary."""
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    return str(tmp_path / "vocab.txt")


def write(folder, name, text, encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return str(folder / name)


def test_columns_without_a_header_are_read_by_number(tmp_path, vocab):
    train = write(tmp_path, "train.tsv", 'a "b\t1\nb\t0\nc c\t1\n')
    test = write(tmp_path, "test.tsv", "good\t0\n")
    table = Text(train, test_path=test, tokenizer=vocab).read()
    assert table.y.tolist() == [1, 0, 1, 0]
    assert table.class_names == ("0", "1")
    assert table.splits["test"].tolist() == [3]
    assert table.x["input_ids"][3, :3].tolist() == [2, 9, 3]
    assert table.x["input_ids"].shape == (4, 16)


def test_named_columns_give_pairs_and_numbers(tmp_path, vocab):
    path = write(
        tmp_path, "pairs.csv", 'score,left,right\n0.5,"a, b",c\n4.0,good,"a\nb"\n'
    )
    table = Text(path, tokenizer=vocab, text="left", pair="right", label="score").read()
    assert table.task == "regression"
    np.testing.assert_allclose(table.y, [0.5, 4.0])
    assert set(table.x) == {"input_ids", "attention_mask", "token_type_ids"}
    second = table.x["input_ids"][1][table.x["attention_mask"][1]].tolist()
    assert second == [2, 9, 3, 5, 6, 3]


def test_one_file_per_class_gives_its_label(tmp_path, vocab):
    paths = tuple(
        write(tmp_path, name, text, "latin-1")
        for name, text in (("x.neg", "a\n\nb\n"), ("x.pos", "good é\n"))
    )
    table = Text(
        paths, class_names=("neg", "pos"), tokenizer=vocab, encoding="latin-1"
    ).read()
    assert table.y.tolist() == [0, 0, 1]
    assert table.class_names == ("neg", "pos")


def test_sst2_and_trec_have_their_published_sizes(data_dir):
    vocab = str(data_dir / "tokenizers" / "bert_base_uncased_vocab.txt")
    folder = data_dir / "text"
    sst = Text(
        str(folder / "sst2/train.tsv"),
        val_path=str(folder / "sst2/dev.tsv"),
        test_path=str(folder / "sst2/test.tsv"),
        tokenizer=vocab,
    )
    dataset = data.prepare(sst)
    assert {k: len(v) for k, v in dataset.rows.items()} == {
        "train": 6920,
        "val": 872,
        "test": 1821,
    }
    assert dataset.y[dataset.rows["train"]].sum() == 3610
    assert dataset.y[dataset.rows["val"]].sum() == 444
    assert dataset.example_shape == {"input_ids": (96,), "attention_mask": (96,)}
    trec = Text(
        str(folder / "trec/train_5500.label"),
        test_path=str(folder / "trec/TREC_10.label"),
        tokenizer=vocab,
    )
    coarse = data.prepare(trec)
    assert len(coarse.class_names) == 6
    assert len(coarse.rows["test"]) == 500
    fine = Text(trec.path, label="fine", tokenizer=vocab).read()
    assert len(fine.class_names) == 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "lable"}, "has no column 'lable'; did you mean 'label'"),
        ({"path": "trian.csv"}, "did you mean 'train.csv'"),
        ({"task": "regresion"}, "did you mean 'regression'"),
        ({"task": "regression"}, "the labels are no numbers"),
        ({"path": ("a", "b")}, "give class_names= too"),
        ({"class_names": ("a", "b")}, "expected one file per class"),
        ({"tokenizer": "nowhere"}, "Tokenizer.path: there is no 'nowhere'"),
        ({"encoding": "utf-9"}, "'utf-9' is unknown"),
    ],
)
def test_bad_options_of_texts_are_named(tmp_path, vocab, monkeypatch, change, message):
    write(tmp_path, "train.csv", "text,label\na,x\nb,y\n")
    monkeypatch.chdir(tmp_path)
    fields = {"path": "train.csv", "text": "text", "label": "label"}
    with pytest.raises(UserError, match=message):
        Text(**{"tokenizer": vocab, **fields, **change}).read()


def test_damaged_files_of_texts_are_named(tmp_path, vocab):
    latin = write(tmp_path, "l.tsv", "é\t1\n", "latin-1")
    with pytest.raises(UserError, match="is not utf-8"):
        Text(latin, tokenizer=vocab).read()
    ragged = write(tmp_path, "r.tsv", "a\t1\nb\n")
    with pytest.raises(UserError, match=r"line 2 of .* has 1 columns"):
        Text(ragged, tokenizer=vocab).read()
    torn = write(tmp_path, "t.label", "DESC:x what ?\nnothing\n")
    with pytest.raises(UserError, match=r"line 2 .* is not 'COARSE:fine text'"):
        Text(torn, tokenizer=vocab).read()


ROWS = [(f"a {i}", i % 2, i % 3 // 2, i // 4 % 2) for i in range(18)]


def several(folder, cell=str):
    lines = [",".join([text, *map(cell, labels)]) for text, *labels in ROWS]
    return write(folder, "labels.csv", "\n".join(["text,u,v,w", *lines]) + "\n")


@pytest.mark.parametrize("cell", [str, lambda v: str(bool(v)), lambda v: f"{v}.0"])
def test_several_label_columns_are_labels_of_which_a_text_has_any(
    tmp_path, vocab, cell
):
    fields = {"text": "text", "label": ["u", "v", "w"], "tokenizer": vocab}
    source = Text(several(tmp_path, cell), **fields)
    table = source.read()
    assert (table.task, table.class_names) == ("multilabel", ("u", "v", "w"))
    np.testing.assert_array_equal(table.y, [labels for _, *labels in ROWS])
    dataset = data.prepare(source)
    assert dataset.task == "multilabel"
    assert dataset.outputs == 3


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"label": (1, 2)}, "names of columns"),
        ({"label": ("u", "u")}, "different columns"),
        ({"label": ("u", "v"), "task": "classification"}, "are the task 'multilabel'"),
        ({"label": ("u", "v"), "class_names": ("a",)}, "leave it out"),
        ({"label": "u", "task": "multilabel"}, "expected a column of 0 and 1"),
        ({"label": ("u", "x")}, "no column 'x'"),
        ({"label": ("u", "text")}, "column 'text' holds 'a 0'; expected 0 or 1"),
    ],
)
def test_label_columns_that_are_none_are_refused(tmp_path, vocab, fields, says):
    with pytest.raises(UserError, match=says):
        Text(several(tmp_path), text="text", tokenizer=vocab, **fields).read()


def test_labels_that_join_others_are_told(tmp_path, vocab):
    for i, separator in enumerate(("|", ", ", ";")):
        labels = ["a", "b", f"a{separator}b"] * 4
        rows = "".join(f'text {n},"{label}"\n' for n, label in enumerate(labels))
        path = write(tmp_path, f"{i}.csv", f"text,y\n{rows}")
        text = Text(path, text="text", label="y", tokenizer=vocab).read()
        for table in (text, data.CSV(path, target="y").read()):
            [note] = [n for n in table.notes if "is a class of its own" in n]
            assert f"'a{separator}b' is a class of its own, beside 'a' and 'b'" in note
    numbers = data.CSV(several(tmp_path), target=("u", "v"), features=("w",)).read()
    assert any("hold 0 and 1 alone" in note for note in numbers.notes)


def test_json_lines_are_not_read_as_columns(tmp_path, vocab):
    path = write(tmp_path, "a.jsonl", '{"text": "a", "label": 1}\n')
    with pytest.raises(UserError, match=r"is a \.jsonl file; Text reads columns"):
        Text(path, tokenizer=vocab).read()
