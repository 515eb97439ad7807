"""Words with tags: columns of CoNLL files, and JSON with lists of tokens and tags."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl.core import text_files
from jaxtl.core.errors import UserError, nearest
from jaxtl.data import cells, origins, paths, split_fields, splits
from jaxtl.data.dataset import Table
from jaxtl.data.sources.table_files import JSON_SUFFIXES
from jaxtl.data.text_columns import TextData, word_fields
from jaxtl.data.word_pieces import IGNORED

_JSON_TAGS = ("tags", "ner_tags", "labels", "pos_tags")  # usual keys
_DOCUMENT = "-DOCSTART-"
# Letters that begin the tag of a word in a span: B-PER, I-PER, … (IOB1, IOB2, IOE,
# IOBES or BILOU).
PREFIXES = "BIESLU"


class Sentence(NamedTuple):
    """The words of one example with their tags, and the line that it begins in."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    line: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoNLL(TextData):
    """Sentences whose words have tags: named entities, parts of speech.

    `CoNLL("eng.train", val_path="eng.testa", test_path="eng.testb")`. A line has the
    columns of one word, with tabs or blanks between them; a blank line ends a sentence,
    and `-DOCSTART-` begins a document. The lines of a .conllu file may be comments, and
    those of a .json or .jsonl file are {"tokens": […], "tags": […]}.

    Tags that are "O" or begin with B-, I-, E-, S-, L- or U- are spans of words, the
    task "entities", measured by their spans; all others are the task "tags".

    Attributes:
      path: the train file; looked for under $JAXTL_DATA_DIR as well. None where there
        are held-out splits alone.
      val_path, test_path: files with the validation and the test split.
      word: column of the word from 0, or its key in JSON; None is 0 (1 for .conllu), or
        "tokens" or "words".
      tag: column of the tag, −1 for the last, or its key in JSON; None is −1 (3, the
        universal part of speech, for .conllu), or "tags", "ner_tags" or "labels".
      class_names: names of tags that are stored as numbers from 0.
      all_pieces: whether the further pieces of a word are trained on, with the word's
        tag (I-X behind B-X); the first piece alone is counted in any case.
      encoding: character encoding of the files.
    """

    path: str | None = dataclasses.field(default=None, kw_only=False)
    val_path: str | None = None
    test_path: str | None = None
    word: int | str | None = None
    tag: int | str | None = None
    class_names: tuple[str, ...] | None = None
    all_pieces: bool = False
    encoding: str = "utf-8"

    def __post_init__(self):
        super().__post_init__()
        if self.class_names is not None:
            object.__setattr__(self, "class_names", tuple(self.class_names))

    def read(self) -> Table:
        """Reads the words, and their tags (n, words); each file is a split."""
        files = split_fields.by_split(self)
        parts = {k: self._sentences(p) for k, p in files.items()}
        sentences = [s for part in parts.values() for s in part]
        y, names, notes = tag_labels(sentences, self.class_names)
        lines = [(files[k], [s.line for s in part]) for k, part in parts.items()]
        return Table(
            **word_fields([s.words for s in sentences]),
            y=y,
            class_names=names,
            task="entities" if are_spans(names) else "tags",
            splits=splits.consecutive({k: len(part) for k, part in parts.items()}),
            notes=tuple(notes),
            origins=origins.of_lines(lines),
        )

    def _sentences(self, path: str) -> list[Sentence]:
        """The sentences of one file."""
        file = paths.find(path, "CoNLL.path")
        lines = text_files.read_lines(file, self.encoding, "CoNLL.encoding")
        if text_files.suffix(file) in JSON_SUFFIXES:
            sentences = _of_json(file, lines, self.word, self.tag)
        else:
            sentences = _of_columns(file, lines, self.word, self.tag)
        if not sentences:
            raise UserError(f"CoNLL.path: {file} has no sentence.")
        return sentences


def are_spans(names: Sequence[str]) -> bool:
    """Whether tags mark spans of words: each is "O", or begins as "B-" does."""
    marked = [name for name in names if name != "O"]
    return bool(marked) and all(n[0] in PREFIXES and n[1:2] == "-" for n in marked)


def words_of_columns(
    file: pathlib.Path, lines: Sequence[str], word: int | str | None
) -> list[tuple[tuple[str, ...], int]]:
    """The words of each sentence of a column file, and the line that it begins in.

    Args:
      file: for its suffix and for messages.
      lines: of the file.
      word: column of the word, None for that of the file's kind.
    """
    blocks = _blocks(file, lines)
    if not blocks:
        return []
    index = _column("word", _kind_column(file, word, 0, 1), blocks, file)
    return [(tuple(c[index] for _, c in b), b[0][0]) for b in blocks]


def _of_columns(
    file: pathlib.Path,
    lines: Sequence[str],
    word: int | str | None,
    tag: int | str | None,
) -> list[Sentence]:
    """The sentences of a file of columns."""
    blocks = _blocks(file, lines)
    if not blocks:
        return []
    columns = [
        _column("word", _kind_column(file, word, 0, 1), blocks, file),
        _column("tag", _kind_column(file, tag, -1, 3), blocks, file),
    ]
    if len(blocks[0][0][1]) < 2:
        raise UserError(
            f"CoNLL.path: line {blocks[0][0][0]} of {file} has one column; expected "
            "a word and its tag, with a tab or a blank between them."
        )
    sentences = []
    for block in blocks:
        words, tags = (tuple(cells_[i] for _, cells_ in block) for i in columns)
        sentences.append(Sentence(words, tags, block[0][0]))
    return sentences


_Block = list[tuple[int, list[str]]]  # (line number, cells) of the words of a sentence


def _blocks(file: pathlib.Path, lines: Sequence[str]) -> list[_Block]:
    """The sentences of a file of columns, without documents, comments and empty nodes.

    Raises:
      UserError: lines of different numbers of columns.
    """
    is_universal = text_files.suffix(file) == ".conllu"
    delimiter = "\t" if any("\t" in line for line in lines) else None
    blocks: list[_Block] = [[]]
    width = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            blocks.append([])
            continue
        row = line.split(delimiter)
        is_range = is_universal and not row[0].isdigit()  # 1-2, 8.1 or a comment
        if is_range or row[0] == _DOCUMENT:
            continue
        width = len(row) if width is None else width
        if len(row) != width:
            raise UserError(
                f"CoNLL.path: line {number} of {file} has {len(row)} columns; expected "
                f"{width}, as in the lines before."
            )
        blocks[-1].append((number, row))
    return [block for block in blocks if block]


def _kind_column(
    file: pathlib.Path, value: int | str | None, plain: int, universal: int
) -> int | str:
    if value is not None:
        return value
    return universal if text_files.suffix(file) == ".conllu" else plain


def _column(
    field: str, value: int | str, blocks: Sequence[_Block], file: pathlib.Path
) -> int:
    """A column's number, checked."""
    width = len(blocks[0][0][1])
    if not isinstance(value, int) or not -width <= value < width:
        raise UserError(
            f"CoNLL.{field}={value!r}: {file} has {width} columns; expected one of 0 "
            f"to {width - 1}, or −1 for the last."
        )
    return value


def words_of_json(
    file: pathlib.Path, lines: Sequence[str]
) -> list[tuple[tuple[str, ...], int]]:
    """The words of each object of a JSON file, and its line; as `words_of_columns`."""
    numbered = (
        (_json_words(file, n, row, None), n) for n, row in json_rows(file, lines)
    )
    return [(tuple(map(str, words)), number) for words, number in numbered if words]


def _json_words(
    file: pathlib.Path, number: int, row: dict[str, Any], word: int | str | None
) -> list:
    """The list of words of an object."""
    where = f"line {number} of {file}"
    return _json_list(row, "word", word, ("tokens", "words"), where)


def _json_list(
    row: dict[str, Any],
    field: str,
    value: int | str | None,
    usual: Sequence[str],
    where: str,
) -> list:
    """The list at the key that a field names."""
    key = _key(field, value, usual, row, where)
    if not isinstance(row[key], list):
        raise UserError(
            f"CoNLL.{field}: {key!r} in {where} is no list; got {row[key]!r}."
        )
    return row[key]


def _of_json(
    file: pathlib.Path,
    lines: Sequence[str],
    word: int | str | None,
    tag: int | str | None,
) -> list[Sentence]:
    """The sentences of a file of JSON lines, or of an array."""
    sentences = []
    for number, row in json_rows(file, lines):
        where = f"line {number} of {file}"
        words = _json_words(file, number, row, word)
        tags = _json_list(row, "tag", tag, _JSON_TAGS, where)
        if len(words) != len(tags):
            raise UserError(
                f"CoNLL.path: {where} has {len(words)} tokens and {len(tags)} tags; "
                "each token needs one tag."
            )
        if words:
            values = (tuple(map(str, words)), tuple(map(str, tags)))
            sentences.append(Sentence(*values, number))
    return sentences


def json_rows(
    file: pathlib.Path, lines: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line from 1, object) of JSON lines; an array's objects are numbered."""
    text = "\n".join(lines)
    is_array = text.lstrip()[:1] == "["
    parts = [text] if is_array else lines
    for number, part in enumerate(parts, 1):
        if not part.strip():
            continue
        try:
            value = json.loads(part)
        except (json.JSONDecodeError, RecursionError):
            raise UserError(
                f"CoNLL.path: line {number} of {file} is no JSON; expected an object "
                'such as {"tokens": ["a"], "tags": ["O"]} in each line.'
            ) from None
        for index, row in enumerate(value if is_array else [value]):
            if not isinstance(row, dict):
                raise UserError(
                    f"CoNLL.path: line {number} of {file} is no JSON object; expected "
                    '{"tokens": […], "tags": […]}.'
                )
            yield (index + 1 if is_array else number), row


def _key(
    field: str,
    value: int | str | None,
    usual: Sequence[str],
    row: dict[str, Any],
    where: str,
) -> str:
    """The key of the words or tags of an object."""
    options = usual if value is None else (value,)
    for name in options:
        if name in row:
            return str(name)
    raise UserError(
        f"CoNLL.{field}={value!r}: {where} has no key "
        f"{' or '.join(map(repr, options))}{nearest(str(options[0]), row)} "
        f"(keys: {', '.join(row)})."
    )


def tag_labels(
    sentences: Sequence[Sentence], class_names: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    """The tags (n, words), their names, and what was decided.

    Args:
      sentences: at least one.
      class_names: in label order, of tags that may be numbers; None for texts.
    """
    texts = [cells.normalized(tag) for s in sentences for tag in s.tags]
    if class_names is None:
        flat, names = cells.classes(texts)
    else:
        flat, names = _numbered(texts, class_names), class_names
    lengths = np.array([len(s.tags) for s in sentences])
    y = np.full((len(sentences), lengths.max()), IGNORED, np.int32)
    y[np.arange(y.shape[1]) < lengths[:, None]] = flat
    notes = cells.merged_forms([t for s in sentences for t in s.tags], "the tag")
    return y, names, notes


def _numbered(texts: Sequence[str], names: tuple[str, ...]) -> np.ndarray:
    """Tags by their names, or by their numbers."""
    index = {name: i for i, name in enumerate(names)}
    index |= {str(i): i for i in range(len(names)) if str(i) not in index}
    for text in texts:
        if text not in index:
            raise UserError(
                f"CoNLL.class_names={names}: there is a tag {text!r}"
                f"{nearest(text, names)}; expected one of these names, or a number "
                f"below {len(names)}."
            )
    return np.array([index[text] for text in texts], np.int32)
