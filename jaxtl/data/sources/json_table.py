"""Tables from JSON: an array of objects, or one object per line."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from jaxtl.core import text_files
from jaxtl.core.errors import UserError, first_line
from jaxtl.data import cells, columns, origins, paths
from jaxtl.data.columns import Column, Columns
from jaxtl.data.tabular import Tabular


@dataclasses.dataclass(frozen=True, kw_only=True)
class JSON(Tabular):
    """JSON lines, or a JSON array of objects, each of which is a row.

    Numbers are numbers and texts are categories, even where these are written as
    numbers; true and false are the texts "True" and "False"; null, and a key that an
    object lacks, are missing. The other options are those of `CSV`.

    Attributes:
      path: the file, as it is or compressed (.gz); looked for under $JAXTL_DATA_DIR as
        well.
      encoding: its character encoding.
    """

    path: str = dataclasses.field(kw_only=False)
    encoding: str = "utf-8"

    def read_columns(self) -> Columns:
        """Key -> column, in the order in which keys come first."""
        return read_json(self.path, self.encoding, self.missing_values, self._owner)


def read_json(path: str, encoding: str, missing: Sequence[str], owner: str) -> Columns:
    """Key -> column of a JSON file, in the order in which keys come first.

    Args:
      path: as of `JSON`.
      encoding: of its characters.
      missing: lower-case texts that hold no value.
      owner: the source that names the file, for messages.
    """
    file, field = paths.find(path, f"{owner}.path"), f"{owner}.path"
    rows, numbers, is_lines = _read_rows(file, encoding, owner)
    names = list(dict.fromkeys(name for row in rows for name in row))
    keys: dict[str, str] = {}
    for name in names:
        if (first := keys.setdefault(cells.normalized(name), name)) != name:
            raise UserError(
                f"{field}: {file} has the keys {first!r} and {name!r}, which "
                "differ in blanks or Unicode form only."
            )

    def column(name: str, key: str) -> Column:
        values = [row.get(key) for row in rows]
        where = f"{field}: the key {name!r} of {file}"
        return columns.of_objects(values, missing, where)

    readers = {n: functools.partial(column, n, key) for n, key in keys.items()}
    place = origins.of_lines if is_lines else origins.of_elements
    return Columns(columns.DeferredColumns(readers), place([(path, numbers)]), [])


def _read_rows(
    file: pathlib.Path, encoding: str, owner: str
) -> tuple[list[dict[str, Any]], list[int], bool]:
    """The objects of a file, their lines (or indices), and whether these are lines."""
    text = text_files.read_text(file, encoding, f"{owner}.encoding")
    if text.lstrip()[:1] == "[":
        content = parse_json(text, f"{owner}.path: {file}", _EXPECTED)
        rows = content if isinstance(content, list) else [content]
        numbers, is_lines = list(range(len(rows))), False
    else:
        lines = enumerate(text_files.split_lines(text), 1)
        numbered = {n: line for n, line in lines if line.strip()}
        where = f"of {file}"
        rows = [
            parse_json(line, f"{owner}.path: line {n} {where}", _EXPECTED)
            for n, line in numbered.items()
        ]
        numbers, is_lines = list(numbered), True
    if not rows:
        raise UserError(f"{owner}.path: {file} has no rows.")
    for number, row in zip(numbers, rows):
        if not isinstance(row, dict):
            where = "line" if is_lines else "element"
            raise UserError(
                f"{owner}.path: {where} {number} of {file} is {_kind(row)}; each row "
                'must be an object, {"column": value}.'
            )
    return rows, numbers, is_lines


def parse_json(text: str, where: str, expected: str) -> Any:
    """The value of a text of JSON.

    Args:
      text: of a file or a line.
      where: it stands, for messages.
      expected: what the source expects there, for messages.

    Raises:
      UserError: no JSON, an object with one key twice, or too many digits or levels.
    """
    try:
        return _DECODER.decode(text)
    except _RepeatedKey as error:
        raise UserError(f"{where}: an object has the key {error} twice.") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where} is no JSON ({error.msg}, character {error.pos + 1}); expected "
            f"{expected}."
        ) from None
    except RecursionError:
        raise UserError(f"{where} is nested too deeply.") from None
    except ValueError as error:  # of integers with thousands of digits
        raise UserError(f"{where} can't be read: {first_line(error)}.") from None


class _RepeatedKey(Exception):
    """A key that an object has twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        name = cells.repeated(key for key, _ in pairs)
        raise _RepeatedKey(repr(name))
    return row


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)
_EXPECTED = "an object per line, or one array of objects"


def _kind(value: Any) -> str:
    kinds = {list: "an array", str: "a text", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")
