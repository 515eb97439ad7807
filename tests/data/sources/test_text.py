"""Texts from columns, TREC's files and one file per class; their splits."""

import csv
import gzip
import json

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


# Blanks, line ends and quotation marks of texts stay; "NA" is a text and a label.
TYPED = [
    {"id": i, "review": text, "title": f"good {i % 3}", "stars": stars, "mood": mood}
    for i, (text, stars, mood) in enumerate(
        [
            (" a  b\nc", 3, "NA"),
            ('good, "b"', 1, "sad"),
            ("NA", 10, "NA"),
            ("cafe\u0301 a", 1, "sad"),
        ]
        * 5
    )
]


def write_forms(folder):
    """The rows as CSV, JSON lines, JSON, Parquet, Arrow and compressed lines."""
    import pyarrow.feather
    import pyarrow.parquet

    with (folder / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, TYPED[0])
        writer.writeheader()
        writer.writerows(TYPED)
    lines = "".join(json.dumps(row) + "\n" for row in TYPED)
    write(folder, "a.jsonl", lines)
    write(folder, "a.json", json.dumps(TYPED))
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    table = pyarrow.Table.from_pylist(TYPED)
    pyarrow.parquet.write_table(table, folder / "a.parquet")
    pyarrow.feather.write_feather(table, folder / "a.feather")
    names = ("a.jsonl", "a.json", "a.parquet", "a.feather", "a.jsonl.gz")
    return str(folder / "a.csv"), [str(folder / name) for name in names]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"label": "stars"}, ("classification", ("1", "3", "10"))),
        ({"label": "mood"}, ("classification", ("NA", "sad"))),
        ({"label": "stars", "task": "regression", "pair": "title"}, ("regression", ())),
    ],
)
def test_one_content_in_any_format_gives_the_same_batches(
    tmp_path, vocab, fields, expected
):
    of_csv, others = write_forms(tmp_path)
    options = {"text": "review", "tokenizer": vocab, "val": 4, "test": 4} | fields
    reference = data.prepare(Text(of_csv, **options))
    assert (reference.task, reference.class_names) == expected
    for path in others:
        dataset = data.prepare(Text(path, **options))
        assert dataset.fingerprint == reference.fingerprint
        np.testing.assert_array_equal(dataset.y, reference.y)
        for split, rows in reference.rows.items():
            np.testing.assert_array_equal(dataset.rows[split], rows)
        for name, ids in reference.x.items():
            np.testing.assert_array_equal(dataset.x[name], ids)
    assert dataset.origins[2].endswith("a.jsonl.gz:3")


def test_splits_may_have_different_formats(tmp_path, vocab):
    _, (lines, _, parquet, *_) = write_forms(tmp_path)
    source = Text(
        lines, val_path=parquet, text="review", label="stars", tokenizer=vocab
    )
    table = source.read()
    assert table.splits["val"].tolist() == list(range(20, 40))
    assert table.origins[1].endswith("a.jsonl:2")
    assert table.origins[21].endswith("a.parquet[1]")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"text": 0}, r"columns of .*a.jsonl have names.*\(columns: id, review, title"),
        ({"text": "id"}, "column 'id' of .* holds no texts"),
        ({"pair": "titel"}, "has no column 'titel'; did you mean 'title'"),
        ({"header": True}, "Text.header=True has no meaning"),
        ({"label": "none"}, "has 1 rows without a value, the first in line 1;"),
        ({"label": "blank"}, "has 1 rows without a label, the first in line 1;"),
        ({"class_names": ("a",), "path": ("a.jsonl",)}, "a.jsonl has columns; with"),
    ],
)
def test_columns_of_json_that_are_no_texts_are_refused(
    tmp_path, vocab, fields, says, monkeypatch
):
    rows = [{**row, "none": None, "blank": " "} for row in TYPED[:1]]
    rows += [{**row, "none": 1, "blank": "x"} for row in TYPED[1:]]
    write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    options = {"path": "a.jsonl", "text": "review", "label": "stars"}
    with pytest.raises(UserError, match=says):
        Text(**{**options, "tokenizer": vocab, **fields}).read()
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b"{}")[:-3])
    with pytest.raises(UserError, match=r"b.jsonl.gz is a damaged .gz"):
        Text("b.jsonl.gz", text="t", tokenizer=vocab).read()


def test_cells_that_a_tab_separated_file_has_in_quotation_marks_are_told(tmp_path):
    texts = ['He said ""hi""', "plain", "a film"] * 8  # quoted as pandas writes them
    rows = [
        f'"{t}"\t{i % 2}' if '"' in t else f"{t}\t{i % 2}" for i, t in enumerate(texts)
    ]
    (tmp_path / "a.tsv").write_text("\n".join(rows))
    [note] = data.Text(str(tmp_path / "a.tsv")).read().notes
    assert note.startswith(
        "a.tsv: 8 cells stand in quotation marks with others doubled"
    )
    rows = [f'"{t}"\t{i % 2}' for i, t in enumerate(["", '"hello"', "plain"] * 8)]
    (tmp_path / "b.tsv").write_text("\n".join(rows))
    assert not any(
        "doubled" in n for n in data.Text(str(tmp_path / "b.tsv")).read().notes
    )
