"""Questions about contexts in the files of SQuAD and of `datasets`.

References:
  Rajpurkar et al.: SQuAD, EMNLP 2016; Know What You Don't Know (v2.0), ACL 2018.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtl.core import text_files
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.names import listing
from jaxtl.data.sources import parquet
from jaxtl.data.sources.json_table import parse_json
from jaxtl.data.sources.table_files import LINE_SUFFIXES, PARQUET_SUFFIXES

_READ = ("id", "question", "context", "answers", "is_impossible")
# Answers that annotators of SQuAD v2.0 took for right, of questions without one.
_HARMLESS = ("title", "plausible_answers")
_NESTED = ("data", "paragraphs", "qas")
_EXPECTED = (
    "the JSON of SQuAD, or an object for each question in each line of a .jsonl file"
)


class Answer(NamedTuple):
    """An answer as a file has it, and where it stands in the context.

    Attributes:
      text: of the answer.
      start, end: its first character in the context, and the one behind the last.
    """

    text: str
    start: int
    end: int


class QuestionRecord(NamedTuple):
    """A question about a context.

    Attributes:
      id: as the file has it, None without one.
      question, context: texts.
      answers: () where the context holds none, or they are not read.
      number: line from 1, or index from 0 of the question in its file.
      values: all values of the question, of its context and article, by key.
      repaired: how many answers were moved by blanks.
    """

    id: str | None
    question: str
    context: str
    answers: tuple[Answer, ...]
    number: int
    values: Mapping[str, Any]
    repaired: int


def read_questions(
    file: pathlib.Path,
    encoding: str = "utf-8",
    owner: str = "SQuAD.path",
    with_answers: bool = True,
) -> list[QuestionRecord]:
    """Reads the questions of a file.

    Args:
      file: JSON as SQuAD has it (data, paragraphs, qas); or JSON lines, an array of
        JSON, Parquet or Arrow with "question", "context" and "answers" in each row.
      encoding: of JSON.
      owner: the option that names the file, for messages.
      with_answers: whether each question must have answers, or say that it has none;
        otherwise answers are not read.

    Raises:
      UserError: a file that can't be read or holds no question; a question without a
        text, or with an answer that does not stand where its offset says.
    """
    if text_files.suffix(file) in PARQUET_SUFFIXES:
        rows = list(enumerate(parquet.read_table(file, owner).to_pylist()))
    else:
        rows = _json_rows(file, encoding, owner)
    are_lines = text_files.suffix(file) in LINE_SUFFIXES
    return records_of(rows, str(file), are_lines, owner, with_answers)


def records_of(
    rows: Sequence[tuple[int, Mapping[str, Any]]],
    source: str,
    are_lines: bool,
    owner: str,
    with_answers: bool = True,
) -> list[QuestionRecord]:
    """The questions of (number, values) of rows.

    Args:
      rows: of one source.
      source: the file, or the name of a table, for messages.
      are_lines: whether numbers are those of lines.
      owner, with_answers: as for `read_questions`, which says what is refused.
    """
    records, ids = [], set()
    for number, values in rows:
        where = f"{source}:{number}" if are_lines else f"{source}[{number}]"
        record = _record(values, number, f"{owner}: {where}", with_answers)
        if record.id is not None and record.id in ids:
            raise UserError(f"{owner}: {where}: the id {record.id!r} comes twice.")
        ids.add(record.id)
        records.append(record)
    if not records:
        raise UserError(f"{owner}: {source} holds no question.")
    return records


def unused_keys(records: Sequence[QuestionRecord], used: Sequence[str]) -> list[str]:
    """A sentence part that names the keys that nothing reads; [] without any."""
    names = dict.fromkeys(name for record in records for name in record.values)
    unused = [name for name in names if name not in (*_READ, *_HARMLESS, *used)]
    return [f"keys that are not used: {listing(unused)}"] if unused else []


def _json_rows(
    file: pathlib.Path, encoding: str, owner: str
) -> list[tuple[int, dict[str, Any]]]:
    """The values of each question of a JSON file, with its line or index."""
    text = text_files.read_text(file, encoding, owner)
    is_numbered = text_files.suffix(file) in LINE_SUFFIXES
    if not is_numbered and not _holds_lines(text):
        content = parse_json(text, f"{owner}: {file}", _EXPECTED)
        return list(enumerate(_questions(content, {}, f"{owner}: {file}")))
    rows = []
    for number, line in enumerate(text_files.split_lines(text), 1):
        if line.strip():
            where = f"{owner}: line {number} of {file}"
            content = parse_json(line, where, _EXPECTED)
            rows += [(number, row) for row in _questions(content, {}, where)]
    return rows if is_numbered else list(enumerate(row for _, row in rows))


def _holds_lines(text: str) -> bool:
    """Whether a text is JSON lines, as `datasets` writes them to .json files, too."""
    first, _, rest = text.strip().partition("\n")
    try:
        return bool(rest.strip()) and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _questions(
    content: Any, above: Mapping[str, Any], where: str
) -> Iterator[dict[str, Any]]:
    """Yields the values of each question, those of its context and article as well.

    Args:
      content: a question, or what holds some.
      above: values of the article and of the paragraph.
      where: the file, for messages.
    """
    if isinstance(content, list):
        for part in content:
            yield from _questions(part, above, where)
        return
    if not isinstance(content, dict):
        raise UserError(
            f"{where} holds {content!r:.60} where an object of questions is expected."
        )
    for name in _NESTED:
        if name in content:
            values = {k: v for k, v in content.items() if k not in (name, "version")}
            yield from _questions(content[name], {**above, **values}, where)
            return
    yield {**above, **content}


def _record(
    values: Mapping[str, Any], number: int, where: str, with_answers: bool
) -> QuestionRecord:
    """A question from its values."""
    texts = {}
    for name in ("question", "context"):
        if name not in values:
            raise UserError(
                f"{where}: there is no key {name!r}{nearest(name, values)} "
                f"(keys: {', '.join(map(str, values))})."
            )
        text = values[name]
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{where}: {name} is {text!r}; expected a text.")
        texts[name] = text
    answers, repaired = (), 0
    if with_answers:
        answers, repaired = _answers(values, texts["context"], where)
    name = values.get("id", values.get("qid"))
    return QuestionRecord(
        id=None if name is None else str(name),
        **texts,
        answers=answers,
        number=number,
        values=values,
        repaired=repaired,
    )


def _answers(
    values: Mapping[str, Any], context: str, where: str
) -> tuple[tuple[Answer, ...], int]:
    """The answers of a question, and how many of them were moved by blanks."""
    impossible = values.get("is_impossible")
    if impossible not in (None, True, False):
        raise UserError(
            f"{where}: is_impossible is {impossible!r}; expected true or false."
        )
    if values.get("answers") is None:
        if impossible:
            return (), 0
        raise UserError(
            f"{where}: there is no key 'answers'{nearest('answers', values)}; a "
            'question without an answer has "answers": [].'
        )
    pairs = _answer_pairs(values["answers"], where)
    if impossible is not None and bool(pairs) is bool(impossible):
        raise UserError(
            f"{where}: is_impossible is {impossible!r}, but there are {len(pairs)} "
            "answers; correct one of the two."
        )
    answers = [_placed(text, start, context, where) for text, start in pairs]
    moved = sum(
        (a.start, a.end) != (start, start + len(a.text))
        for a, (_, start) in zip(answers, pairs)
    )
    return tuple(answers), moved


def _answer_pairs(value: Any, where: str) -> list[tuple[str, int]]:
    """(text, first character) of answers: a list of objects, or an object of lists."""
    if isinstance(value, dict):
        lists = [value.get("text"), value.get("answer_start")]
        if not all(isinstance(part, list) for part in lists):
            raise UserError(
                f"{where}: answers are {value!r:.80}; expected lists "
                '{"text": […], "answer_start": […]}.'
            )
        if len(lists[0]) != len(lists[1]):
            raise UserError(
                f"{where}: answers have {len(lists[0])} texts and {len(lists[1])} "
                "answer_start; each text needs one."
            )
        pairs = list(zip(*lists))
    elif isinstance(value, list) and all(isinstance(a, dict) for a in value):
        pairs = [(a.get("text"), a.get("answer_start")) for a in value]
    else:
        raise UserError(
            f"{where}: answers are {value!r:.80}; expected objects with text and "
            "answer_start."
        )
    for text, start in pairs:
        is_index = isinstance(start, int) and not isinstance(start, bool)
        if not isinstance(text, str) or not text.strip() or not is_index or start < 0:
            raise UserError(
                f"{where}: an answer has the text {text!r:.60} and answer_start "
                f"{start!r}; expected a text, and its first character's number from 0."
            )
    return pairs


def _placed(text: str, start: int, context: str, where: str) -> Answer:
    """An answer where it stands: at its offset, or only blanks away from there."""
    if context.startswith(text, start):
        return Answer(text, start, start + len(text))
    first = last = min(start, len(context))
    while first and context[first - 1].isspace():
        first -= 1
    while last < len(context) and context[last].isspace():
        last += 1
    words = re.compile(r"\s+".join(map(re.escape, text.split())))
    for place in range(first, last + 1):
        if match := words.match(context, place):
            return Answer(text, match.start(), match.end())
    places = [m.start() for m in re.finditer(re.escape(text.strip()), context)]
    elsewhere = f"at {listing(list(map(str, places)))}" if places else "nowhere"
    raise UserError(
        f"{where}: the answer {text!r:.60} has answer_start {start}, where the context "
        f"has {context[start : start + len(text)]!r:.60}; it stands {elsewhere}."
    )
