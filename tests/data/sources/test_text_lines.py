"""Lines of text for language models."""

import json

import pytest

import jaxtl as tl
from jaxtl.core.errors import UserError

pytest.importorskip("tokenizers", reason="text needs the library tokenizers")


@pytest.fixture
def folder(tmp_path):
    """A folder with a word-level tokenizer and a text of three lines."""
    vocab = {"[UNK]": 0, "one": 1, "two": 2, "three": 3}
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}
    tokenizer = {
        "version": "1.0",
        "model": model,
        "pre_tokenizer": {"type": "Whitespace"},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    (tmp_path / "a.txt").write_text("one two three\n\n  two\nthree one\n")
    return tmp_path


def test_blank_lines_are_left_out_and_padding_is_masked(folder):
    data = tl.data.Lines(
        str(folder / "a.txt"), tokenizer=str(folder / "tokenizer.json")
    )
    table = data.read()
    assert table.task == "language"
    ids, mask = table.x["input_ids"], table.x["attention_mask"]
    assert [row[m].tolist() for row, m in zip(ids, mask)] == [[1, 2, 3], [2], [3, 1]]


def test_a_language_model_learns_a_pattern(folder):
    (folder / "b.txt").write_text("one two three one two three\n" * 40)
    data = tl.data.Lines(
        str(folder / "b.txt"), tokenizer=str(folder / "tokenizer.json")
    )
    model = tl.models.Llama(vocab=4, width=16, layers=1, heads=2, hidden=32, context=16)
    exp = tl.Experiment(
        model=model, data=data, steps=60, batch=16, optim=tl.optim.AdamW(lr=1e-2)
    )
    result = tl.train(tl.setup(exp), progress=False)
    # Each word is determined by the one before it.
    assert result["test"]["perplexity"] < 1.1
    assert result["test"]["accuracy"] == 1.0
    assert result["monitor"] == "perplexity"


def test_bad_files_are_named(folder):
    tokenizer = str(folder / "tokenizer.json")
    (folder / "empty.txt").write_text("\n\n")
    (folder / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    for name, message in (
        ("empty.txt", "no line of text"),
        ("latin.txt", "not utf-8"),
        ("nowhere.txt", "nowhere.txt"),
    ):
        with pytest.raises(UserError, match=message):
            tl.data.Lines(str(folder / name), tokenizer=tokenizer).read()
    latin = tl.data.Lines(
        str(folder / "latin.txt"), tokenizer=tokenizer, encoding="latin-1"
    )
    assert len(latin.read().x["input_ids"]) == 1
