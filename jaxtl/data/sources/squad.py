"""Questions whose answer is a span of a context: the files of SQuAD."""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl.core import text_files
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.serialization import later_field
from jaxtl.data import arrow_datasets, origins, paths, split_fields, splits
from jaxtl.data.arrow_datasets import ALL, InMemoryDatasets
from jaxtl.data.dataset import ANSWERS, CONTEXT, QUESTION_ANSWERING, Table
from jaxtl.data.question_windows import NO_ANSWER
from jaxtl.data.sources.split_names import choose_splits
from jaxtl.data.sources.squad_records import (
    QuestionRecord,
    read_questions,
    records_of,
    unused_keys,
)
from jaxtl.data.sources.table_files import LINE_SUFFIXES
from jaxtl.data.text_columns import TextData, text_digests


class _Part(NamedTuple):
    """The questions of a split, and what they were read from."""

    source: str
    records: list[QuestionRecord]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SQuAD(TextData):
    """Questions about contexts, whose answers are spans of them; v1.1 and v2.0.

    `SQuAD("train-v2.0.json", val_path="dev-v2.0.json")`. Files are those of SQuAD, or
    JSON lines, an array of JSON, Parquet or Arrow as `datasets` writes them, with
    "question", "context" and "answers" ("text", "answer_start") in each row. The path
    may be a folder that `datasets` saved as well, one of Parquet files by splits, or
    such a `Dataset` or `DatasetDict` itself; its splits are taken by their usual names.

    A question is read with its context, which is cut into windows that overlap. The
    first answer is trained on; in a window without it, position 0 ([CLS]). All answers
    count in metrics. Splits hold whole questions; `split_by="context"` or "title" keeps
    the questions about one context, or of one article, together.

    Attributes:
      path: the train file; looked for under $JAXTL_DATA_DIR as well. None where there
        are held-out splits alone.
      val_path, test_path: files with the validation and the test split.
      max_length: tokens of a window, the question and special tokens included; None
        takes 384, or the model's context if that is less.
      stride: tokens of the context that two neighboring windows share.
      max_answer_length: most tokens of an answer that is predicted.
      encoding: character encoding of JSON files.
      model_context: most tokens that the model reads, where `max_length` is None; set
        by the experiment.
    """

    path: Any = dataclasses.field(default=None, kw_only=False)
    val_path: str | None = None
    test_path: str | None = None
    max_length: int | None = None
    stride: int = 128
    max_answer_length: int = 30
    encoding: str = "utf-8"
    model_context: int | None = later_field(None)

    fitted_options = (
        *TextData.fitted_options,
        "max_length",
        "stride",
        "max_answer_length",
        "model_context",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.path is not None and not isinstance(
            self.path, (str, os.PathLike, InMemoryDatasets)
        ):
            object.__setattr__(self, "path", InMemoryDatasets(self.path))
        for name, least in (("max_length", 8), ("stride", 0), ("max_answer_length", 1)):
            value = getattr(self, name)
            is_number = isinstance(value, int) and not isinstance(value, bool)
            is_unset = name == "max_length" and value is None
            if not is_unset and not (is_number and value >= least):
                raise UserError(
                    f"SQuAD.{name}={value!r}: expected a whole number of at least "
                    f"{least}."
                )

    def read(self) -> Table:
        """Reads the questions and contexts; y (n, 2) is the first answer's place."""
        parts: dict[str, _Part] = {}
        notes: list[str] = []
        for split, path in split_fields.by_split(self).items():
            for name, part in self._parts(split, path, notes).items():
                if name in parts:
                    raise UserError(
                        f"SQuAD.{name}_path={path!r}: SQuAD.path has a split for "
                        f"{name} of its own; leave one of the two out."
                    )
                parts[name] = part
        parts = {k: parts[k] for k in split_fields.SPLITS if k in parts}
        records = [record for part in parts.values() for record in part.records]
        lines = [(p.source, [r.number for r in p.records]) for p in parts.values()]
        are_lines = all(text_files.suffix(path) in LINE_SUFFIXES for path, _ in lines)
        return Table(
            x=_texts(records),
            digests=_digests(records),
            train_tokenizer="word_piece",
            y=np.array([_first_answer(record) for record in records], np.int32),
            task=QUESTION_ANSWERING,
            splits=splits.consecutive({k: len(p.records) for k, p in parts.items()}),
            groups=self._groups(records),
            weights=self._weights(records),
            notes=(*notes, *self._notes(records)),
            origins=(origins.of_lines if are_lines else origins.of_elements)(lines),
        )

    def _parts(self, split: str, path: Any, notes: list[str]) -> dict[str, _Part]:
        """The questions of a file, or of the splits of a data set; adds to the notes.

        Args:
          split: that the path is named for.
          path: of a file or folder, or data sets in memory.
          notes: what was left out.
        """
        owner = f"SQuAD.{split_fields.split_field(split)}"
        in_memory = isinstance(path, InMemoryDatasets)
        source = path if in_memory else paths.find(path, owner)
        if not in_memory and not source.is_dir():
            records = read_questions(source, self.encoding, owner)
            return {split: _Part(str(path), records)}
        place = "SQuAD" if in_memory else str(path)
        tables = arrow_datasets.read_splits(source)
        if ALL in tables:
            tables, split_of = {place: tables[ALL]}, {place: split}
        elif split != "train":
            raise UserError(
                f"{owner}={path!r} has the splits {', '.join(tables)}; name such a "
                "folder as path=, of which all splits are read."
            )
        else:
            advice = "pass the Dataset of one, SQuAD(datasets[name])"
            names, unread = choose_splits(list(tables), {}, "SQuAD.path", advice)
            split_of = {name: split for split, name in names.items()}
            notes += unread
        parts = {}
        for name, part in split_of.items():
            rows = list(enumerate(tables[name].to_pylist()))
            where = place if name == place else f"{place}, {name}"
            parts[part] = _Part(where, records_of(rows, where, False, owner))
        return parts

    def _groups(self, records: Sequence[QuestionRecord]) -> np.ndarray | None:
        """The group of each question, as numbers."""
        if self.split_by is None:
            return None
        values = [str(_value(r, "split_by", self.split_by)) for r in records]
        return np.unique(np.array(values, object), return_inverse=True)[1]

    def _weights(self, records: Sequence[QuestionRecord]) -> np.ndarray | None:
        if self.sample_weight is None:
            return None
        values = [_value(r, "sample_weight", self.sample_weight) for r in records]
        for record, value in zip(records, values):
            is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if not is_number or not math.isfinite(value):
                raise UserError(
                    f"SQuAD.sample_weight: {self.sample_weight!r} of question "
                    f"{record.number} is {value!r}; expected a number."
                )
        return np.array(values, np.float64)

    def _notes(self, records: Sequence[QuestionRecord]) -> list[str]:
        """What was decided or left out."""
        notes, moved = [], sum(record.repaired for record in records)
        if moved:
            notes.append(
                f"{moved:,} answers do not stand where answer_start says, but only "
                "blanks away: they are trained on where they stand"
            )
        used = [v for v in (self.split_by, self.sample_weight) if v is not None]
        return notes + unused_keys(records, used)


def _texts(records: Sequence[QuestionRecord]) -> dict[str, np.ndarray]:
    """The questions, contexts, and texts of all answers, (n,) each."""
    answers = np.empty(len(records), object)
    answers[:] = [tuple(answer.text for answer in r.answers) for r in records]
    return {
        "question": np.array([r.question for r in records], object),
        CONTEXT: np.array([r.context for r in records], object),
        ANSWERS: answers,
    }


def _digests(records: Sequence[QuestionRecord]) -> np.ndarray:
    """A hash of the texts of each question."""
    return text_digests(
        [r.question, r.context, *(answer.text for answer in r.answers)] for r in records
    )


def _first_answer(record: QuestionRecord) -> tuple[int, int]:
    """The characters of the first answer, `NO_ANSWER` twice without one."""
    if not record.answers:
        return NO_ANSWER, NO_ANSWER
    return record.answers[0].start, record.answers[0].end


def _value(record: QuestionRecord, field: str, name: str) -> object:
    """The value of a question, its context or article, that a field names."""
    values: Mapping[str, object] = record.values
    if not isinstance(name, str) or name not in values:
        raise UserError(
            f"SQuAD.{field}={name!r}: question {record.number} has no such key"
            f"{nearest(str(name), values)} (keys: {', '.join(values)})."
        )
    return values[name]
