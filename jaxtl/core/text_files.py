r"""Text files as lines: a line ends at "\n" or "\r\n", at nothing else.

`str.splitlines` cuts at a dozen further characters (form feed, U+0085, U+2028, …), and
Python's universal newlines at a lone "\r"; each of them may stand within a line.
"""

import codecs
import csv
import gzip
import json
import os
import pathlib
import sys
import zlib
from collections.abc import Sequence
from typing import Any

from jaxtl.core.errors import UserError, first_line

_GZIP = b"\x1f\x8b"  # first bytes of a compressed file
_BYTE_ORDER_MARK = "\ufeff"

# Suffixes of tables of text, with what parts their cells.
DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}


def read_text(
    path: str | os.PathLike, encoding: str = "utf-8", owner: str = "the file"
) -> str:
    r"""Reads a file's text, its byte order mark left out and "\r\n" as "\n".

    A file that gzip compressed is unpacked.

    Args:
      path: the file.
      encoding: its character encoding.
      owner: the option that names the file, for messages.

    Raises:
      UserError: an unknown encoding, a file in another one, or a damaged .gz.
    """
    data = _unpacked(pathlib.Path(path).read_bytes(), f"{owner}: {path}")
    try:
        codec = codecs.lookup(encoding).name
    except LookupError:
        raise UserError(
            f"{owner}: the encoding {encoding!r} is unknown; name one such "
            "as 'latin-1'."
        ) from None
    if data.startswith(codecs.BOM_UTF8) and not codec.startswith("utf-8"):
        raise UserError(
            f"{owner}: {path} begins with the byte order mark of utf-8, but is to be "
            f"read as {encoding}: name its encoding, 'utf-8'."
        )
    try:
        text = data.decode(encoding)
    except LookupError:  # of "rot13" and other codecs that are not for texts
        raise UserError(
            f"{owner}: {encoding!r} is no encoding of texts; name one such as 'utf-8'."
        ) from None
    except UnicodeError as error:
        place = getattr(error, "start", 0)
        line = data.count(b"\n", 0, place) + 1
        raise UserError(
            f"{owner}: {path} is not {encoding} (line {line}, byte {place}): name its "
            f"encoding, such as encoding={_likely_encoding(data)!r}, or save it in "
            "utf-8."
        ) from None
    return text.removeprefix(_BYTE_ORDER_MARK).replace("\r\n", "\n")


def _unpacked(data: bytes, where: str) -> bytes:
    if not data.startswith(_GZIP):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{where} is a damaged .gz: {first_line(error)}.") from None


def suffix(path: str | os.PathLike) -> str:
    """The lower-case suffix of a file's name, ".csv" of "a.csv" and "A.CSV.gz"."""
    name = pathlib.Path(path).name.lower()
    return pathlib.Path(name.removesuffix(".gz")).suffix


def _likely_encoding(data: bytes) -> str:
    """An encoding that a file in unknown characters may be in."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252"


def read_json(path: str | os.PathLike, owner: str = "the file") -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Raises:
      UserError: a file that is no JSON, or holds another value.
    """
    text = read_text(path, owner=owner)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{str(path)!r} is no JSON: {first_line(error)}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{str(path)!r} holds no JSON object.")
    return content


def split_lines(text: str) -> list[str]:
    r"""The lines of a text without their ends; blank lines count.

    A text that ends in "\n" has no empty line after it.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def read_lines(
    path: str | os.PathLike, encoding: str = "utf-8", owner: str = "the file"
) -> list[str]:
    """The lines of a file; arguments and errors are those of `read_text`."""
    return split_lines(read_text(path, encoding, owner))


def split_cells(
    lines: Sequence[str], delimiter: str, quoted: bool = True, owner: str = "the file"
) -> list[tuple[int, list[str]]]:
    """The cells of a table's lines.

    Args:
      lines: as `read_lines` gives them.
      delimiter: between two cells.
      quoted: whether cells may stand in quotation marks, as in CSV; such a cell may
        hold delimiters and line ends.
      owner: the file or the option that names it, for messages.

    Returns:
      (number of its first line from 1, cells) of each row that is not an empty line.

    Raises:
      UserError: a quotation mark that is not closed or stands within a cell; a carriage
        return outside of quotation marks, which may or may not end a row.
    """
    if not quoted:
        rows = enumerate((line.split(delimiter) for line in lines), 1)
        return [(number, cells) for number, cells in rows if cells != [""]]
    ended = (line + "\n" for line in lines)
    reader = csv.reader(ended, delimiter=delimiter, strict=True)
    limit = csv.field_size_limit(sys.maxsize)  # a cell may hold a long text
    rows_of_cells, first = [], 1
    try:
        for cells in reader:
            if cells:
                rows_of_cells.append((first, cells))
            first = reader.line_num + 1
        return rows_of_cells
    except csv.Error as error:
        raise UserError(
            f"{owner}: line {reader.line_num} can't be read: {error} (lines end in "
            '"\\n" or "\\r\\n"; a cell in quotation marks ends with one).'
        ) from None
    finally:
        csv.field_size_limit(limit)
