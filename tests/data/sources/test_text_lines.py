"""Lines of text for language models."""

import json

import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core.errors import UserError

pytest.importorskip("tokenizers", reason="text needs the library tokenizers")


@pytest.fixture
def words(tmp_path):
    """Returns a folder with a word-level tokenizer and a text of three lines."""
    vocab = {"[UNK]": 0, "one": 1, "two": 2, "three": 3}
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}
    whole = {"version": "1.0", "model": model, "pre_tokenizer": {"type": "Whitespace"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    (tmp_path / "a.txt").write_text("one two three\n\n  two\nthree one\n")
    return tmp_path


def test_blank_lines_go_and_lengths_are_masked(words):
    data = tl.data.Lines(str(words / "a.txt"), tokenizer=str(words / "tokenizer.json"))
    table = data.read()
    assert table.task == "language"
    ids, mask = table.x["input_ids"], table.x["attention_mask"]
    assert [row[m].tolist() for row, m in zip(ids, mask)] == [[1, 2, 3], [2], [3, 1]]


def test_a_language_model_learns_a_pattern(words):
    (words / "b.txt").write_text("one two three one two three\n" * 40)
    data = tl.data.Lines(str(words / "b.txt"), tokenizer=str(words / "tokenizer.json"))
    model = tl.models.Llama(vocab=4, width=16, layers=1, heads=2, hidden=32, context=16)
    exp = tl.Experiment(
        model=model, data=data, steps=60, batch=16, optim=tl.optim.AdamW(lr=1e-2)
    )
    result = tl.train(tl.setup(exp), progress=False)
    # After "one" comes "two": nothing is left to guess.
    assert result["test"]["perplexity"] < 1.1
    assert result["test"]["accuracy"] == 1.0
    assert result["monitor"] == "perplexity"


def test_bad_files_are_named(words):
    tokenizer = str(words / "tokenizer.json")
    (words / "empty.txt").write_text("\n\n")
    (words / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    for name, message in (
        ("empty.txt", "no line of text"),
        ("latin.txt", "not utf-8"),
        ("nowhere.txt", "nowhere.txt"),
    ):
        with pytest.raises(UserError, match=message):
            tl.data.Lines(str(words / name), tokenizer=tokenizer).read()
    assert (
        np.asarray(
            tl.data.Lines(
                str(words / "latin.txt"), tokenizer=tokenizer, encoding="latin-1"
            )
            .read()
            .x["input_ids"]
        ).shape[0]
        == 1
    )
