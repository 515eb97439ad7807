"""Text files, tokenizers and preprocessors of other libraries, read as they are meant.

Origins: transformers' `load_vocab`; RFC 4180 for quoted cells; Python's
`str.splitlines` cuts at U+2028, U+2029, U+0085, form feed and vertical tab too.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtl.core import text_files
from jaxtl.core.errors import UserError
from jaxtl.data import CSV, Lines, Text, Tokenizer

# Characters at which `str.splitlines` cuts and a text file does not end a line.
INNER = ["\u2028", "\u2029", "\x85", "\x0c", "\x0b", "\x1c", "\x1d", "\x1e", "\r"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def word_pieces(path, words):
    path.write_bytes("\n".join([*SPECIAL, *words]).encode())
    return str(path)


@given(st.lists(st.text(st.sampled_from(["a", " ", "\ufeff", *INNER]), max_size=4)))
def test_lines_end_at_line_feeds_alone(lines):
    lines = [line.rstrip("\r") for line in lines]
    for end in ("\n", "\r\n"):
        assert text_files.split_lines("".join(line + end for line in lines)) == lines


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_the_byte_order_mark_is_no_text(encoding, tmp_path):
    text = "\ufeff" * (encoding == "utf-16-le") + "a\r\nb\n\nc"
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    name = "utf-8" if encoding == "utf-8-sig" else encoding
    assert text_files.read_lines(tmp_path / "a.txt", name) == ["a", "b", "", "c"]


def test_a_mark_of_utf_8_contradicts_another_encoding(tmp_path):
    (tmp_path / "a.label").write_text("DESC:def what\n", "utf-8-sig")
    with pytest.raises(UserError, match="byte order mark of utf-8, but is to be read"):
        Text(str(tmp_path / "a.label"), tokenizer="x").read()


@pytest.mark.parametrize("inner", INNER, ids=ascii)
def test_a_piece_is_numbered_by_its_line(inner, tmp_path):
    path = word_pieces(tmp_path / "vocab.txt", [f"x{inner}y", "", "good"])
    x = Tokenizer(path)(["good"])
    assert x["input_ids"][0, :3].tolist() == [2, 7, 3]


@pytest.mark.parametrize("inner", INNER[:-1], ids=ascii)
def test_merges_and_rows_are_cut_at_line_feeds_alone(inner, tmp_path):
    vocab = word_pieces(tmp_path / "vocab.txt", ["good", "bad", "film"])
    rows = f"good {inner} film\t0\r\nbad\t1\r\n"
    (tmp_path / "a.tsv").write_bytes(rows.encode())
    table = Text(str(tmp_path / "a.tsv"), tokenizer=vocab).read()
    assert table.y.tolist() == [0, 1]
    assert table.x["attention_mask"].sum(1).tolist() == [4, 3]
    (tmp_path / "lines.txt").write_text(f"\ufeffgood {inner} film\n\nbad", "utf-8")
    x = Lines(str(tmp_path / "lines.txt"), tokenizer=vocab).read().x
    assert x["input_ids"][:, 1].tolist() == [5, 6]
    (tmp_path / "a.csv").write_bytes(f"a,b\nx{inner}y,1\nz,2\n".encode())
    names = CSV(str(tmp_path / "a.csv"), target="a").read().class_names
    assert names == (f"x{inner}y", "z")


def test_quoted_cells_hold_line_ends_and_an_open_one_is_refused(tmp_path):
    vocab = word_pieces(tmp_path / "vocab.txt", ["good", "bad", "film"])
    path = tmp_path / "a.csv"
    path.write_bytes(b'text,label\r\n"good\r\nfilm, bad",0\r\n\r\n"bad",1\r\n')
    x = Text(str(path), text="text", label="label", tokenizer=vocab).read().x
    assert x["attention_mask"].sum(1).tolist() == [6, 3]
    for torn in (b'text,label\n"good,0\nbad,1\n', b"text,label\rgood,0\rbad,1\r"):
        path.write_bytes(torn)
        with pytest.raises(UserError, match=r"a\.csv: line \d can't be read"):
            Text(str(path), text="text", label="label", tokenizer=vocab).read()


def test_a_long_text_is_one_cell(tmp_path):
    vocab = word_pieces(tmp_path / "vocab.txt", ["good"])
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "good " * 40_000 + ",0\ngood,1\n")
    x = Text(str(path), text="text", label="label", tokenizer=vocab).read().x
    np.testing.assert_array_equal(x["attention_mask"].sum(1), [128, 3])
