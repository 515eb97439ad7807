"""Files of texts and of JSON in any encoding and any state: content or one sentence."""

import codecs
import json

import pytest

import jaxtl as tl
from jaxtl.core import text_files
from jaxtl.core.errors import UserError

CSV = "name,y\ncafé,1\nthé,0\n"


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (CSV.encode(), "utf-8"),
        (codecs.BOM_UTF8 + CSV.encode(), "utf-8"),
        (CSV.encode("cp1252"), "cp1252"),
        (CSV.encode("utf-16"), "utf-16"),
        (CSV.replace("\n", "\r\n").encode("latin-1"), "latin-1"),
    ],
)
def test_a_table_is_read_in_its_encoding(data, encoding, tmp_path):
    (tmp_path / "a.csv").write_bytes(data)
    source = tl.data.CSV(str(tmp_path / "a.csv"), target="y", encoding=encoding)
    columns = source.read_columns().columns
    assert list(columns) == ["name", "y"]
    assert text_files.read_text(tmp_path / "a.csv", encoding) == CSV


@pytest.mark.parametrize(
    ("data", "encoding", "message"),
    [
        (CSV.encode("cp1252"), "utf-8", r"\(line 2, byte 10\).* encoding='cp1252'"),
        (CSV.encode("utf-16"), "utf-8", r"\(line 1, byte 0\).*encoding='utf-16'"),
        (b"a,b\n\x81\x8d\n", "utf-8", r"line 2.* encoding='latin-1'"),
        (b"a,b\n", "utf-9", "the encoding 'utf-9' is unknown"),
        (b"a,b\n", "rot13", "'rot13' is no encoding of texts"),
        (b"a,b\n1", "utf-32", "is not utf-32"),
    ],
)
def test_another_encoding_is_told_with_its_line_and_a_guess(
    data, encoding, message, tmp_path
):
    (tmp_path / "a.csv").write_bytes(data)
    source = tl.data.CSV(str(tmp_path / "a.csv"), target="b", encoding=encoding)
    with pytest.raises(UserError, match=f"CSV.encoding: .*{message}"):
        source.read_columns()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no JSON"),
        (b"{", "is no JSON"),
        (b"\xff\xfe{", "is not utf-8"),
        (b"[1]", "holds no JSON object"),
        (b"[" * 100_000, "is no JSON"),
        (b"null", "holds no JSON object"),
    ],
)
def test_damaged_json_is_told(data, message, tmp_path):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(UserError, match=message):
        text_files.read_json(tmp_path / "a.json")


def test_json_is_read(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"é": [1, 2]}))
    assert text_files.read_json(tmp_path / "a.json") == {"é": [1, 2]}
