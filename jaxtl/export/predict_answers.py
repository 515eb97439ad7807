"""Answers that an exported model predicts, for files of questions with contexts."""

import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxtl.core import text_files
from jaxtl.core.errors import UserError, nearest
from jaxtl.data import origins
from jaxtl.data.answer_spans import Prediction, predict_answer
from jaxtl.data.question_windows import (
    ContextWindows,
    context_windows,
    halved_note,
    windows_by_question,
)
from jaxtl.data.sources.squad_records import QuestionRecord, read_questions
from jaxtl.data.sources.table_files import LINE_SUFFIXES
from jaxtl.export.predictor import BATCH, Predictor

_COLUMNS = ("question", "context")


def answered_questions(
    predictor: Predictor, file: pathlib.Path
) -> Iterator[dict[str, Any]]:
    """Yields a prediction for each question of a file.

    Contexts that are longer than the model's inputs are read in windows, as those that
    it was trained on; where a question leaves no room for their stride, stderr says so.

    Args:
      predictor: of a model of the task "question_answering".
      file: JSON, Parquet or Arrow as `data.SQuAD` reads them, whose answers are not
        read; `.csv` or `.tsv` with the columns "question" and "context"; `.txt` with a
        question, a tab and its context in each line.

    Yields:
      "file", "row" (from 0), "origin", "id" (the row where the file has none),
      "question", "answer" ("" where none is predicted), "probability" and "score" (of
      `answer_spans.Prediction`; that of no answer where it is predicted) and "start",
      the answer's first character in the context, None without one.

    Raises:
      UserError: an export without a tokenizer, or a file that does not hold questions.
    """
    records, are_lines = _records(file)
    settings = predictor.metadata["answers"]
    threshold = None
    if settings["may_lack_answers"]:
        threshold = 0.0 if predictor.thresholds is None else predictor.thresholds[0]
    numbers = [(str(file), [record.number for record in records])]
    rows = (origins.of_lines if are_lines else origins.of_elements)(numbers)
    halved = 0
    for start in range(0, len(records), BATCH):
        part = records[start : start + BATCH]
        windows = context_windows(
            predictor.tokenizer(str(file)),
            [record.question for record in part],
            [record.context for record in part],
            settings["stride"],
        )
        halved += windows.halved
        logits = predictor.outputs(windows.x)["logits"]
        for i, here in windows_by_question(windows.question):
            record, row = part[i], start + i
            place = {"file": str(file), "row": row, "origin": rows[row]}
            prediction = _predict(windows, here, logits, settings, threshold, place)
            yield {
                **place,
                "id": str(row) if record.id is None else record.id,
                "question": record.question,
                **_fields(record, prediction),
            }
    for note in halved_note(halved, settings["stride"]):
        print(f"{file}: {note}", file=sys.stderr)


def _predict(
    windows: ContextWindows,
    rows: np.ndarray,
    logits: np.ndarray,
    settings: dict[str, Any],
    threshold: float | None,
    place: dict[str, Any],
) -> Prediction:
    """The answer of the question that some windows are of."""
    if not np.isfinite(logits[rows]).all():
        raise UserError(f"{place['origin']}: the model's output is not finite.")
    return predict_answer(
        windows.start[rows],
        windows.end[rows],
        logits[rows],
        settings["max_answer_length"],
        threshold,
    )


def _fields(record: QuestionRecord, prediction: Prediction) -> dict[str, Any]:
    span = prediction.span
    text = "" if span is None else record.context[span.start : span.end]
    return {
        "answer": text,
        "probability": prediction.probability,
        "score": prediction.score,
        "start": None if span is None else span.start,
    }


def _records(file: pathlib.Path) -> tuple[list[QuestionRecord], bool]:
    """The questions of a file, and whether their numbers are those of lines."""
    suffix = text_files.suffix(file)
    if suffix == ".txt":
        return _of_lines(file), True
    if suffix in text_files.DELIMITERS:
        return _of_table(file, text_files.DELIMITERS[suffix]), True
    records = read_questions(file, owner="questions", with_answers=False)
    return records, suffix in LINE_SUFFIXES


def _of_lines(file: pathlib.Path) -> list[QuestionRecord]:
    """The questions of lines, each with a tab and its context behind it."""
    lines = text_files.read_lines(file, owner=str(file))
    cells = [(n, line.split("\t")) for n, line in enumerate(lines, 1) if line.strip()]
    return _of_pairs(file, cells)


def _of_table(file: pathlib.Path, delimiter: str) -> list[QuestionRecord]:
    """The questions of a table with the columns "question" and "context"."""
    lines = text_files.read_lines(file, owner=str(file))
    rows = text_files.split_cells(lines, delimiter, owner=str(file))
    header = [cell.strip() for cell in rows[0][1]] if rows else []
    for name in _COLUMNS:
        if header.count(name) != 1:
            raise UserError(
                f"{file} needs one column {name!r}{nearest(name, header)} (columns: "
                f"{', '.join(header) or 'none'})."
            )
    places = [header.index(name) for name in _COLUMNS]
    for number, row in rows[1:]:
        if len(row) != len(header):
            raise UserError(
                f"{file}, line {number}: {len(row)} cells where {len(header)} are "
                "expected."
            )
    return _of_pairs(file, [(n, [row[i] for i in places]) for n, row in rows[1:]])


def _of_pairs(
    file: pathlib.Path, rows: list[tuple[int, list[str]]]
) -> list[QuestionRecord]:
    """The questions of (line, question and context)."""
    if not rows:
        raise UserError(f"{file} holds no question.")
    for number, row in rows:
        if len(row) != 2 or not all(text.strip() for text in row):
            raise UserError(
                f"{file}:{number}: expected a question and its context, with a tab "
                f"between them in a .txt; got {row!r:.80}."
            )
    return [QuestionRecord(None, *row, (), n, {}, 0) for n, row in rows]
