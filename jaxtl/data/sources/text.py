"""Labelled texts: CSV and TSV columns, TREC's question types, a file per class."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import os
import pathlib

import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.data.dataset import Data, Table
from jaxtl.data.paths import find
from jaxtl.data.tokenizer import Tokenizer, as_tokenizer

TASKS = ("classification", "regression")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(Data):
    """Texts with a label each, tokenized at load.

    `Text("train.tsv", test_path="test.tsv", text=0, label=1, tokenizer="minilm")`;
    `Text("reviews.csv", text="review", label="stars", tokenizer=Tokenizer(…))`;
    `Text("train_5500.label", tokenizer=…)` (TREC: `COARSE:fine text`);
    `Text(("a.neg", "a.pos"), class_names=("neg", "pos"), tokenizer=…)`, a text a line.

    Attributes:
      path: the train file, or with `class_names` one file per class; looked for under
        $JAXTL_DATA_DIR as well.
      val_path, test_path: files of the same kind with the other splits.
      tokenizer: a `Tokenizer`, or the path of one.
      text: column of the text, by name or (no header then) by number from 0.
      pair: column of a second text, None for none.
      label: column of the label; of TREC "coarse" or "fine".
      class_names: one per file of `path`.
      task: None infers: labels that are numbers with a decimal point are regression.
      delimiter: None is a comma for .csv, else a tab.
      encoding: of the files; None is utf-8, and latin-1 for TREC.
    """

    path: str | tuple[str, ...] = dataclasses.field(kw_only=False)
    val_path: str | None = None
    test_path: str | None = None
    tokenizer: Tokenizer | str
    text: str | int = 0
    pair: str | int | None = None
    label: str | int = 1
    class_names: tuple[str, ...] | None = None
    task: str | None = None
    delimiter: str | None = None
    encoding: str | None = None

    def __post_init__(self):
        super().__post_init__()
        for name in ("path", "class_names"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.task is not None and self.task not in TASKS:
            raise UserError(
                f"Text.task={self.task!r} is unknown{nearest(self.task, TASKS)} "
                f"(known: {', '.join(TASKS)})."
            )

    def read(self) -> Table:
        """Returns ids and masks, (n, length) each; the splits as the files say."""
        paths = {"train": self.path, "val": self.val_path, "test": self.test_path}
        parts = {k: self.rows(p) for k, p in paths.items() if p is not None}
        texts, pairs, labels = (
            list(itertools.chain.from_iterable(column))
            for column in zip(*parts.values())
        )
        tokenize = as_tokenizer(self.tokenizer)
        x = tokenize(texts, pairs if self.pair is not None else None)
        y, names, task = _labels(labels, self.task, self.class_names)
        ends = np.cumsum([len(part[0]) for part in parts.values()])
        rows = {
            name: np.arange(end - len(part[0]), end)
            for (name, part), end in zip(parts.items(), ends)
        }
        splits = rows if len(rows) > 1 else {}
        return Table(x=x, y=y, class_names=names, task=task, splits=splits)

    def rows(self, path) -> tuple[list[str], list[str], list[str]]:
        """Returns (texts, second texts, labels) of a file, each of equal length."""
        if self.class_names is not None:
            return self._per_class(path)
        if isinstance(path, tuple):
            raise UserError(
                f"Text.path={path} names several files: give class_names= too, one "
                "per file."
            )
        file = find(path, "Text.path")
        if file.suffix == ".label":
            return _trec(file, self.label, self.encoding or "latin-1")
        header, lines = self._columns(file)
        wanted = [self.text, self.label]
        wanted += [self.pair] if self.pair is not None else []
        places = [_place(name, header, file) for name in wanted]
        for number, line in lines:
            if len(line) <= max(places):
                raise UserError(
                    f"Text.path: line {number} of {file} has {len(line)} columns; "
                    f"expected at least {max(places) + 1}."
                )
        texts, labels, *second = [[line[p] for _, line in lines] for p in places]
        return texts, second[0] if second else [""] * len(texts), labels

    def _per_class(self, paths) -> tuple[list[str], list[str], list[str]]:
        if not isinstance(paths, tuple) or len(paths) != len(self.class_names):
            raise UserError(
                f"Text.class_names={self.class_names}: expected one file per class in "
                f"path; got {paths!r}."
            )
        texts, labels = [], []
        for path, name in zip(paths, self.class_names):
            file = find(path, "Text.path")
            lines = [t for t in _decoded(file, self.encoding).split("\n") if t.strip()]
            texts += lines
            labels += [name] * len(lines)
        return texts, [""] * len(texts), labels

    def _columns(self, file: pathlib.Path) -> tuple[list[str] | None, list]:
        """Returns the header (None for numbered columns) and (line number, cells)."""
        comma = file.suffix.lower() == ".csv"
        delimiter = self.delimiter or ("," if comma else "\t")
        # A quotation mark in tab-separated text is a quotation mark.
        quoting = csv.QUOTE_MINIMAL if delimiter != "\t" else csv.QUOTE_NONE
        lines = _decoded(file, self.encoding).splitlines(keepends=True)
        reader = csv.reader(lines, delimiter=delimiter, quoting=quoting)
        found = [(reader.line_num, row) for row in reader if row]
        numbered = isinstance(self.text, int) and isinstance(self.label, int)
        header = None if numbered or not found else found.pop(0)[1]
        if not found:
            raise UserError(f"Text.path: {file} has no rows of text.")
        return header, found


def _decoded(file: pathlib.Path, encoding: str | None) -> str:
    encoding = encoding or "utf-8-sig"
    try:
        return file.read_text(encoding=encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"Text.path: {file} is not {encoding} (byte {error.start}): name its "
            'encoding, "latin-1" perhaps.'
        ) from None
    except LookupError:
        raise UserError(f"Text.encoding={encoding!r} is unknown.") from None


def _trec(file, label, encoding) -> tuple[list[str], list[str], list[str]]:
    """Lines `COARSE:fine text`; Li & Roth, Question Classifiers, COLING 2002."""
    levels = {1: "coarse", "coarse": "coarse", "fine": "fine"}
    if label not in levels:
        raise UserError(
            f"Text.label={label!r}: of a TREC file it is 'coarse' or 'fine'"
            f"{nearest(label, ('coarse', 'fine'))}."
        )
    texts, labels = [], []
    for number, line in enumerate(_decoded(file, encoding).split("\n"), 1):
        if not line.strip():
            continue
        kind, _, text = line.partition(" ")
        if ":" not in kind or not text:
            raise UserError(
                f"Text.path: line {number} of {file} is not 'COARSE:fine text'."
            )
        texts.append(text.strip())
        labels.append(kind.split(":")[0] if levels[label] == "coarse" else kind)
    return texts, [""] * len(texts), labels


def _place(column: str | int, header: list[str] | None, file) -> int:
    if isinstance(column, int):
        return column
    if header is None or column not in header:
        known = header or []
        raise UserError(
            f"Text: {os.fspath(file)} has no column {column!r}{nearest(column, known)} "
            f"(columns: {', '.join(known)})."
        )
    return header.index(column)


def _labels(labels: list[str], task: str | None, names: tuple[str, ...] | None):
    """Returns (y, class names, task); classes are in numeric or else sorted order."""
    labels = [label.strip() for label in labels]
    try:
        numbers = [float(label) for label in labels]
    except ValueError:
        numbers = None
    if task is None:
        real = numbers is not None and any("." in label for label in labels)
        task = "regression" if real else "classification"
    if task == "regression":
        if numbers is None:
            raise UserError("Text.task='regression': the labels are no numbers.")
        return np.float32(numbers), None, task
    order = sorted(set(labels), key=float if numbers is not None else str)
    names = names or tuple(order)
    place = {name: i for i, name in enumerate(names)}
    return np.array([place[label] for label in labels], np.int32), names, task
