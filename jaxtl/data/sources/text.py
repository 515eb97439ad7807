"""Labelled texts from columns of tables, TREC's files, or one file per class."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np

from jaxtl.core import text_files
from jaxtl.core.errors import UserError, nearest
from jaxtl.data import (
    cells,
    column_targets,
    columns,
    origins,
    paths,
    split_fields,
    splits,
)
from jaxtl.data.dataset import Table
from jaxtl.data.origins import Origins
from jaxtl.data.sources import table_files, typed_texts
from jaxtl.data.sources.typed_texts import Texts
from jaxtl.data.text_columns import TextData, fields, with_scaled_scores

_TASKS = ("classification", "regression", "multilabel")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(TextData):
    """Texts with labels, tokenized at load; without a tokenizer one is trained.

    `Text("train.tsv", test_path="test.tsv", text=0, label=1, tokenizer="minilm")`;
    `Text("reviews.csv", text="review", label="stars", tokenizer=Tokenizer(…))`, or
    "reviews.jsonl", "reviews.json", "reviews.parquet" with the same columns;
    `Text("train_5500.label", tokenizer=…)` (TREC: `COARSE:fine text`);
    `Text(("a.neg", "a.pos"), class_names=("neg", "pos"), tokenizer=…)`, one text per
    line.

    Attributes:
      path: the train file, as it is or compressed (.gz), or with `class_names` one file
        per class; looked for under $JAXTL_DATA_DIR as well. None where there are
        held-out splits alone.
      val_path: a file (or files) of the same kind with the validation split.
      test_path: likewise with the test split.
      text: column of the text, by name, or by number from 0 in CSV and TSV files.
      pair: column of a second text, None for none.
      label: column of the label; for TREC "coarse" or "fine". Several columns by name,
        of 0 and 1 (or false and true), are labels of which a text may have any number
        (multilabel); so are the lists of labels of one column of JSON or Parquet.
      class_names: one per file of `path`.
      header: whether the first row of a file names its columns; None decides: it does
        where columns are given by name, and where its label is "label" or the like or
        the only one that is no number.
      task: None infers it: regression for numbers with a fraction or more than 20
        different numbers with a decimal point, else classification.
      delimiter: None is a comma for .csv, else a tab.
      encoding: character encoding of the files; None is utf-8, and latin-1 for TREC.
    """

    path: str | tuple[str, ...] | None = dataclasses.field(default=None, kw_only=False)
    val_path: str | None = None
    test_path: str | None = None
    text: str | int = 0
    pair: str | int | None = None
    label: str | int | tuple[str, ...] = 1
    class_names: tuple[str, ...] | None = None
    header: bool | None = None
    task: str | None = None
    delimiter: str | None = None
    encoding: str | None = None

    def __post_init__(self):
        super().__post_init__()
        for name in ("path", "class_names", "label"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.task is not None and self.task not in _TASKS:
            raise UserError(
                f"Text.task={self.task!r} is no task{nearest(self.task, _TASKS)} "
                f"(tasks: {', '.join(_TASKS)})."
            )
        self._check_labels()
        columns = (self.text, self.pair, *self._label_columns)
        by_name = [c for c in columns if isinstance(c, str)]
        if self.header is False and self.class_names is None and by_name:
            raise UserError(
                f"Text.header=False: without a header there is no column {by_name[0]!r}"
                "; give columns by number, from 0."
            )

    @property
    def _label_columns(self) -> tuple[str | int, ...]:
        return self.label if isinstance(self.label, tuple) else (self.label,)

    def _check_labels(self) -> None:
        """Raises UserError where label, task and class_names don't fit each other."""
        is_several = isinstance(self.label, tuple)
        if is_several and not all(isinstance(name, str) for name in self.label):
            raise UserError(
                f"Text.label={self.label!r}: expected names of columns, which become "
                "the labels' names."
            )
        if is_several and (not self.label or cells.repeated(self.label) is not None):
            raise UserError(
                f"Text.label={self.label!r}: expected one or more different columns."
            )
        if is_several and (self.task or "multilabel") != "multilabel":
            raise UserError(
                f"Text.task={self.task!r}: several label columns are the task "
                "'multilabel'."
            )
        if is_several and self.class_names is not None:
            raise UserError(
                "Text.class_names: with several label columns their names are those of "
                "the labels; leave it out."
            )

    def read(self) -> Table:
        """Reads ids and masks, (n, length) each; each file is a split."""
        files = split_fields.by_split(self)
        parts = {split: self.read_split(path) for split, path in files.items()}
        first, second, labels, notes = (
            [value for part in parts.values() for value in getattr(part, name)]
            for name in ("first", "second", "labels", "notes")
        )
        rows = origins.concatenated([part.rows for part in parts.values()])
        texts = [first] if self.pair is None else [first, second]
        target = self._target(parts, labels, rows)
        if blank := sum(not text.strip() for text in first):
            notes.append(f"{blank} of {len(first)} texts are blank")
        table = Table(
            **fields(self, texts, "word_piece"),
            y=target.y,
            class_names=target.class_names,
            task=target.task,
            splits=splits.consecutive({s: len(p.first) for s, p in parts.items()}),
            notes=tuple(dict.fromkeys([*notes, *target.notes])),
            origins=rows,
        )
        return with_scaled_scores(self, table)

    def _target(
        self,
        parts: Mapping[str, Texts],
        labels: list[str] | list[tuple[str, ...]],
        rows: Origins,
    ) -> column_targets.Target:
        """y, class names and task of the labels of all splits."""
        names = {part.names for part in parts.values()}
        has_lists = {part.has_lists for part in parts.values()}
        if len(has_lists) > 1 or len(names) > 1:
            raise UserError(
                f"Text.label: the column {self.label!r} is not of one kind in the "
                "files of the splits: lists of labels in all or none, and the same "
                "declared classes."
            )
        [names] = names
        if isinstance(self.label, tuple):
            return _several_labels(labels, self.label)
        if True in has_lists:
            if self.task not in (None, "multilabel"):
                raise UserError(
                    f"Text.task={self.task!r}: the column {self.label!r} holds lists "
                    "of labels, which are the task 'multilabel'."
                )
            train = None
            if "train" in parts:  # the first
                train = np.arange(len(parts["train"].first))
            return column_targets.label_lists(labels, names, train, rows, "Text.label")
        if self.task == "multilabel":
            raise UserError(
                f"Text.task='multilabel': label={self.label!r} is one column; expected "
                "a column of 0 and 1 for each label, label=('toxic', 'insult'), or "
                "lists of labels in JSON or Parquet."
            )
        notes = [*cells.merged_forms(labels, "the label"), *cells.joined_labels(labels)]
        read = _labels(labels, self.task, self.class_names or names)
        return column_targets.Target(*read, tuple(notes))

    def read_split(self, path: str | tuple[str, ...]) -> Texts:
        """Reads the texts, labels and line numbers of one split.

        Args:
          path: a file, or with `class_names` one file per class.

        Returns:
          The texts with their pairs, labels and places in the files, in the order of
          the lines.

        Raises:
          UserError: a file that is missing, lines of another number of columns than the
            first, or rows without a label.
        """
        if self.class_names is not None:
            return self._read_files_of_classes(path)
        if isinstance(path, tuple):
            raise UserError(
                f"Text.path={path} names several files: give class_names= too, one "
                "per file."
            )
        file = paths.find(path, "Text.path")
        if text_files.suffix(file) == ".label":
            return _read_trec(file, self.label, self.encoding or "latin-1")
        if table_files.is_typed(file):
            return self._read_typed(path, file)
        header, rows, notes = self._read_cells(file)
        columns = [self.text, *self._label_columns]
        columns += [self.pair] if self.pair is not None else []
        indices = [_column_index(column, header, file) for column in columns]
        width = len(header or rows[0][1])
        for number, row in rows:
            if len(row) != width or len(row) <= max(indices):
                raise UserError(
                    f"Text.path: line {number} of {file} has {len(row)} columns; "
                    f"expected {max(width, max(indices) + 1)}, as in its first line; "
                    "a text with the delimiter in it needs quotation marks."
                )
        first, *others = [[row[i] for _, row in rows] for i in indices]
        pair = [others.pop()] if self.pair is not None else []
        labels = [*zip(*others)] if isinstance(self.label, tuple) else others[0]
        blank = [
            number
            for (number, _), marks in zip(rows, zip(*others))
            if not all(map(str.strip, marks))
        ]
        if blank:
            raise UserError(
                f"Text.path: {len(blank)} rows of {file} have no label, the first in "
                f"line {blank[0]}; fill them in or leave the rows out."
            )
        places = origins.of_lines([(path, [number for number, _ in rows])])
        second = pair[0] if pair else [""] * len(first)
        return Texts(first, second, labels, places, notes)

    def _read_typed(self, path: str, file: pathlib.Path) -> Texts:
        """Reads the columns of a JSON, Parquet or Arrow file."""
        for option in ("header", "delimiter"):
            if (value := getattr(self, option)) is not None:
                raise UserError(
                    f"Text.{option}={value!r} has no meaning for {file}; leave it out."
                )
        return typed_texts.read_texts(
            path, self.text, self.pair, self.label, self.encoding
        )

    def _read_files_of_classes(self, files: str | tuple[str, ...]) -> Texts:
        """Reads one file per class, with one text per line."""
        if not isinstance(files, tuple) or len(files) != len(self.class_names):
            raise UserError(
                f"Text.class_names={self.class_names}: expected one file per class in "
                f"path; got {files!r}."
            )
        texts, labels, lines = [], [], []
        for path, name in zip(files, self.class_names):
            file = paths.find(path, "Text.path")
            if table_files.is_typed(file):
                raise UserError(
                    f"Text.class_names: {file} has columns; with class_names= a file "
                    "has one text of its class per line. Name text= and label= in its "
                    "place."
                )
            content = text_files.read_lines(file, self.encoding or "utf-8", "Text.path")
            text_of = {n: line for n, line in enumerate(content, 1) if line.strip()}
            texts += text_of.values()
            labels += [name] * len(text_of)
            lines.append((path, list(text_of)))
        return Texts(texts, [""] * len(texts), labels, origins.of_lines(lines))

    def _read_cells(
        self, file: pathlib.Path
    ) -> tuple[list[str] | None, list[tuple[int, list[str]]], list[str]]:
        """Reads the header (None without), (line number, cells), and what to say."""
        delimiter = text_files.DELIMITERS.get(text_files.suffix(file), "\t")
        delimiter = self.delimiter or delimiter
        lines = text_files.read_lines(file, self.encoding or "utf-8", "Text.path")
        # In tab-separated text a quotation mark is an ordinary character.
        is_quoted = delimiter != "\t"
        rows = text_files.split_cells(lines, delimiter, is_quoted, str(file))
        is_numbered = isinstance(self.text, int) and isinstance(self.label, int)
        notes, has_header = [], self.header if is_numbered else True
        quoted = [] if is_quoted else [c for _, row in rows for c in row if _is_csv(c)]
        if has_header is None:
            column = [row[self.label] for _, row in rows if len(row) > self.label]
            has_header, notes = cells.guess_header(column, file.name)
        if quoted:
            notes.append(
                f"{file.name}: {len(quoted)} cells stand in quotation marks with "
                f"others doubled in them, such as {quoted[0][:40]!r}; marks are "
                "characters of tab-separated texts and stay; a .csv with commas has "
                "quoted cells"
            )
        header = rows.pop(0)[1] if has_header and rows else None
        if not rows:
            raise UserError(f"Text.path: {file} has no rows of text.")
        return header, rows, notes


def _is_csv(cell: str) -> bool:
    """Whether a cell is quoted as in CSV, with doubled marks for those within."""
    within = cell[1:-1] if cell[:1] == cell[-1:] == '"' else ""
    return '""' in within and '"' not in within.replace('""', "")


def _read_trec(file: pathlib.Path, label: str | int, encoding: str) -> Texts:
    """Reads lines `COARSE:fine text`.

    References:
      Li & Roth, Learning Question Classifiers, COLING 2002.
    """
    levels = {1: "coarse", "coarse": "coarse", "fine": "fine"}
    if label not in levels:
        raise UserError(
            f"Text.label={label!r}: for a TREC file it must be 'coarse' or 'fine'"
            f"{nearest(label, ('coarse', 'fine'))}."
        )
    texts, labels, numbers = [], [], []
    lines = text_files.read_lines(file, encoding, "Text.path")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        question_type, _, text = line.partition(" ")
        if ":" not in question_type or not text:
            raise UserError(
                f"Text.path: line {number} of {file} is not 'COARSE:fine text'."
            )
        texts.append(text.strip())
        numbers.append(number)
        is_coarse = levels[label] == "coarse"
        labels.append(question_type.split(":")[0] if is_coarse else question_type)
    rows = origins.of_lines([(str(file), numbers)])
    return Texts(texts, [""] * len(texts), labels, rows)


def _column_index(
    column: str | int, header: list[str] | None, file: pathlib.Path
) -> int:
    if isinstance(column, int):
        return column
    names = [cells.normalized(name) for name in header or []]
    column = cells.normalized(column)
    if names.count(column) != 1:
        problem = "two columns" if column in names else "no column"
        close = "" if column in names else nearest(column, names)
        raise UserError(
            f"Text: {file} has {problem} {column!r}{close} "
            f"(columns: {', '.join(names)})."
        )
    return names.index(column)


def _several_labels(
    rows: list[tuple[str, ...]], names: tuple[str, ...]
) -> column_targets.Target:
    """Labels of 0 and 1, (n, len(names)), from the cells of each text."""
    by_column = zip(names, zip(*rows))
    read = {n: columns.of_texts(cells.all_normalized(c), ()) for n, c in by_column}
    table = columns.Columns(read, origins.of_elements([("Text", len(rows))]), [])
    return column_targets.target(table, names, "multilabel", "Text.label")


def _labels(
    labels: list[str], task: str | None, names: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...] | None, str]:
    """y, class names and task."""
    labels = [cells.normalized(label) for label in labels]
    if task is None:
        if names is None and (doubt := cells.doubtful_labels(labels)) is not None:
            raise UserError(f"Text.label: {doubt}.")
        is_quantity = names is None and cells.is_quantity(labels, max_integers=None)
        task = "regression" if is_quantity else "classification"
    if task == "regression":
        values = cells.numbers(labels)
        if values is None:
            wrong = cells.first_text(labels)
            raise UserError(
                f"Text.task='regression': the labels are no numbers, such as {wrong!r}."
            )
        return values, None, task
    if names is None:
        return *cells.classes(labels), task
    index = {cells.normalized(name): i for i, name in enumerate(names)}
    return np.array([index[label] for label in labels], np.int32), names, task
