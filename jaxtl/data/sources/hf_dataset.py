"""Data sets of Hugging Face's `datasets`: tables, texts or pictures, with labels."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxtl.core import files
from jaxtl.core.errors import UserError, nearest
from jaxtl.data import (
    arrow_columns,
    arrow_datasets,
    cells,
    origins,
    paths,
    split_fields,
    splits,
)
from jaxtl.data.arrow_datasets import ALL, InMemoryDatasets
from jaxtl.data.columns import Columns
from jaxtl.data.dataset import Table
from jaxtl.data.image_sets import ImageFiles
from jaxtl.data.image_stores import ArrowImages
from jaxtl.data.origins import Origins
from jaxtl.data.sources.conll import Sentence, are_spans, tag_labels
from jaxtl.data.sources.folder_layout import SPLIT_OF
from jaxtl.data.sources.split_names import choose_splits
from jaxtl.data.tabular import Tabular
from jaxtl.data.text_columns import (
    TextData,
    fields,
    with_scaled_scores,
    word_fields,
)

if TYPE_CHECKING:
    import pyarrow

# Options that concern one kind of input alone.
_OPTIONS = {
    "image": ("memory_limit", "unreadable"),
    "text": ("pair", "tokenizer", "all_pieces", "separate", "score_range"),
    "features": ("features", "missing", "unseen"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class HFDataset(ImageFiles, TextData, Tabular):
    """A folder that `datasets` saved, or a `Dataset` or `DatasetDict` in memory.

    `HFDataset("folder", target="label", image="image")`;
    `HFDataset(datasets, target="label", text="sentence")`; without `image` and `text`
    all other columns, or those of `features`, are read as those of a table. Classes
    that the data declare (`ClassLabel`) keep their names and order, and −1 is no label.
    Formats (`set_format`) concern Python objects and are not applied. Options of
    pictures, texts and tables are those of `ImageList`, `Text` and `CSV`. Questions
    about contexts are read by `SQuAD(folder)` or `SQuAD(dataset)`.

    Attributes:
      dataset: a folder that `save_to_disk` wrote, or one with Parquet files of each
        split ("train-00000-of-00002.parquet"), looked for under $JAXTL_DATA_DIR as
        well; or the data set itself.
      target: the column to predict, or several; None for text alone (next-token
        prediction, task "language").
      image: the column of pictures, None for none.
      text: the column of texts, or of lists of words; None for none. Words are tagged
        by a target of lists, as those of `CoNLL` are.
      pair: column of a second text, None for none.
      all_pieces: of tagged words, as in `CoNLL`.
      train_split, val_split, test_split: names of the splits; None takes those of the
        usual names ("train", "validation", "test"). Without a train split the data are
        for evaluation only.
    """

    dataset: Any = dataclasses.field(kw_only=False)
    target: str | tuple[str, ...] | None = None
    image: str | None = None
    text: str | None = None
    pair: str | None = None
    all_pieces: bool = False
    train_split: str | None = None
    val_split: str | None = None
    test_split: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.dataset, (str, pathlib.Path, InMemoryDatasets)):
            value = InMemoryDatasets(self.dataset)
            object.__setattr__(self, "dataset", value)
        for name in ("image", "text", "pair"):
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, cells.normalized(value))
        self._check_roles()

    def _check_roles(self) -> None:
        """Raises UserError for options that exclude each other."""
        if self.image is not None and self.text is not None:
            raise UserError(
                "HFDataset.image and HFDataset.text exclude each other; got "
                f"{self.image!r} and {self.text!r}."
            )
        kind = "image" if self.image else "text" if self.text else "features"
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for other, names in _OPTIONS.items():
            for name in names if other != kind else ():
                if getattr(self, name) != defaults[name]:
                    read = "a table" if kind == "features" else f"the column of {kind}="
                    raise UserError(
                        f"HFDataset.{name}={getattr(self, name)!r} has no meaning as "
                        f"{read} is read; leave it out."
                    )
        if self.target is None and (kind != "text" or self.pair is not None):
            raise UserError(
                "HFDataset.target is None; expected the column to predict (texts alone "
                "of text= need none)."
            )
        targets = (self.target,) if isinstance(self.target, str) else self.target or ()
        for name in ("image", "text", "pair"):
            if getattr(self, name) is not None and getattr(self, name) in targets:
                raise UserError(
                    f"HFDataset.{name}: {getattr(self, name)!r} is the target, too."
                )

    def sizes_differ(self) -> bool:
        """Whether there are pictures without a chosen size."""
        return self.image is not None and super().sizes_differ()

    def reads_texts(self) -> bool:
        """Whether a tokenizer is needed."""
        return self.text is not None

    def file_states(self) -> tuple[files.FileState, ...]:
        """The states of the folder's files, and of pictures that lie outside."""
        outside: list[str] = []
        if self.image is not None:
            whole = arrow_datasets.concatenated(self._parts().tables)
            outside = arrow_columns.outside_paths(self._column_of("image", whole))
        return files.states([*self.files(), *dict.fromkeys(outside)])

    def read(self) -> Table:
        """Reads the columns of all splits, one after the other."""
        parts = self._parts()
        whole = arrow_datasets.concatenated(parts.tables)
        if self.text is not None:
            table = self._read_texts(whole, parts)
        elif self.image is not None:
            table = self._read_images(whole, parts)
        else:
            self._check_no_pictures(whole)
            table = self.as_table(self._columns(whole, parts))
        lengths = {split: len(part) for split, part in parts.tables.items()}
        rows = table.origins.source_row
        return dataclasses.replace(
            table,
            splits={} if ALL in lengths else splits.consecutive(lengths, rows),
            notes=(*parts.notes, *table.notes),
        )

    def _parts(self) -> _Parts:
        """The tables of the splits that are read."""
        is_folder = not isinstance(self.dataset, InMemoryDatasets)
        source = paths.find(self.dataset, "HFDataset.dataset") if is_folder else None
        source = self.dataset if source is None else source
        tables = arrow_datasets.read_splits(source)
        names, notes = self._split_names(list(tables))
        chosen = {split: tables[name] for split, name in names.items()}
        for split in ("val", "test"):
            if split in chosen and self._is_unlabelled(chosen[split]):
                notes.append(
                    f"the split {names[split]} is left out: all its labels are −1"
                )
                del chosen[split]
        return _Parts(chosen, {split: names[split] for split in chosen}, source, notes)

    def _split_names(self, present: list[str]) -> tuple[dict[str, str], list[str]]:
        """Split -> its name in the data set, and which splits are not read."""
        named = {
            split: name
            for split in split_fields.SPLITS
            if (name := getattr(self, f"{split}_split")) is not None
        }
        if len(present) == 1 and not named:
            return {ALL: present[0]}, self._split_note(present[0])
        advice = "name it as train_split=, or for evaluation only as test_split="
        return choose_splits(present, named, "HFDataset", advice)

    def _split_note(self, name: str) -> list[str]:
        """Says that the only split is cut, where it is called as a held-out one."""
        split = SPLIT_OF.get(name.lower(), "train")
        takes_all = isinstance(self.test, float) and self.test == 1
        if split == "train" or takes_all:
            return []
        return [
            f"the only split, {name}, is split further; {split}_split={name!r} keeps "
            "it for evaluation only"
        ]

    def _is_unlabelled(self, table: pyarrow.Table) -> bool:
        """Whether no row of a table has a label, as in tests of public contests."""
        if not isinstance(self.target, str) or self.target not in table.column_names:
            return False
        is_class = self.target in arrow_columns.class_names(table.schema)
        return is_class and {-1} == set(table[self.target].unique().to_pylist())

    def _columns(self, whole: pyarrow.Table, parts: _Parts) -> Columns:
        place = (
            str(parts.source) if isinstance(parts.source, pathlib.Path) else "HFDataset"
        )
        read = arrow_columns.table_columns(
            whole, "", self.missing_values, "HFDataset.dataset"
        )
        rows = [
            (place if split == ALL else f"{place}, {parts.names[split]}", len(table))
            for split, table in parts.tables.items()
        ]
        lengths = {split: len(table) for split, table in parts.tables.items()}
        train = splits.consecutive(lengths).get("train")
        return read._replace(origins=origins.of_elements(rows), train=train)

    def _check_no_pictures(self, whole: pyarrow.Table) -> None:
        """Raises UserError where pictures would be read as features of a table."""
        pictures = arrow_columns.picture_columns(whole.schema)
        if pictures and self.features is None:
            raise UserError(
                f"HFDataset: the column {pictures[0]!r} holds pictures; "
                f"image={pictures[0]!r} reads them, features= names other columns."
            )

    def _column_of(self, field: str, whole: pyarrow.Table) -> pyarrow.ChunkedArray:
        """The column that a field names, without nulls."""
        name = getattr(self, field)
        if name not in whole.column_names:
            raise UserError(
                f"HFDataset.{field}: there is no column {name!r}"
                f"{nearest(name, whole.column_names)}; the columns are "
                f"{', '.join(whole.column_names)}."
            )
        if nulls := whole[name].null_count:
            raise UserError(
                f"HFDataset.{field}: column {name!r} has {nulls} rows without a value; "
                "leave these rows out."
            )
        return whole[name]

    def _read_texts(self, whole: pyarrow.Table, parts: _Parts) -> Table:
        if arrow_columns.is_list(self._column_of("text", whole).type):
            return self._read_words(whole, parts)
        if self.all_pieces:
            raise UserError(
                f"HFDataset.all_pieces concerns lists of words; column {self.text!r} "
                "holds texts."
            )
        if isinstance(self.target, str) and self.target in whole.column_names:
            kind = whole.schema.field(self.target).type
            if arrow_columns.holds_answers(kind):
                raise UserError(
                    f"HFDataset.target: column {self.target!r} holds answers of "
                    "questions, which tl.data.SQuAD(dataset) reads."
                )
        names = ["text"] if self.pair is None else ["text", "pair"]
        texts = [_texts(self._column_of(f, whole), f"HFDataset.{f}") for f in names]
        table = self._columns(whole, parts)
        if self.target is None:
            return Table(
                **fields(self, texts, "byte_pairs"),
                y=np.zeros(len(whole), np.int32),
                task="language",
                origins=table.origins,
            )
        labelled = Table(
            **fields(self, texts, "word_piece"),
            **self._labels(table, (self.text, self.pair), slice(None)),
        )
        return with_scaled_scores(self, labelled)

    def _read_words(self, whole: pyarrow.Table, parts: _Parts) -> Table:
        """Lists of words, with a tag for each."""
        for field in ("pair", "split_by", "sample_weight"):
            if getattr(self, field) is not None:
                raise UserError(
                    f"HFDataset.{field}={getattr(self, field)!r} has no meaning for "
                    f"the lists of words of {self.text!r}; leave it out."
                )
        if not isinstance(self.target, str):
            raise UserError(
                f"HFDataset.target={self.target!r}: words of {self.text!r} need one "
                "column of lists of tags."
            )
        words = self._column_of("text", whole).to_pylist()
        lists = self._column_of("target", whole)
        if not arrow_columns.is_list(lists.type):
            raise UserError(
                f"HFDataset.target: column {self.target!r} is of the type "
                f"{lists.type}; words need a list of tags."
            )
        rows = self._columns(whole, parts).origins
        sentences = _sentences(words, lists.to_pylist(), rows)
        declared = arrow_columns.tag_names(whole.schema).get(self.target)
        y, names, notes = tag_labels(sentences, declared)
        used = (self.text, self.target)
        unused = [name for name in whole.column_names if name not in used]
        notes += [f"columns that are not used: {', '.join(unused)}"] if unused else []
        return Table(
            **word_fields([s.words for s in sentences]),
            y=y,
            class_names=names,
            task="entities" if are_spans(names) else "tags",
            origins=rows,
            notes=tuple(notes),
        )

    def _read_images(self, whole: pyarrow.Table, parts: _Parts) -> Table:
        column = self._column_of("image", whole)
        if not arrow_columns.is_encoded(column.type):
            raise UserError(
                f"HFDataset.image: column {self.image!r} is of the type {column.type}; "
                "expected encoded pictures (datasets.Image, or bytes of their files)."
            )
        table = self._columns(whole, parts)
        reader = functools.partial(
            arrow_datasets.read_column,
            parts.source,
            tuple(parts.names.values()),
            self.image,
        )
        names = tuple(table.origins[row] for row in range(len(whole)))
        pictures = self.read_pictures(ArrowImages(reader, names))
        labels = self._labels(table, (self.image,), pictures.kept)
        return Table(
            x=pictures.x,
            preprocess=pictures.preprocess,
            digests=pictures.digests,
            **labels | {"notes": (*labels["notes"], *pictures.notes)},
        )

    def _labels(
        self, table: Columns, inputs: Sequence[str | None], kept: np.ndarray | slice
    ) -> dict[str, Any]:
        """The fields of a `Table` beside its inputs, of the rows that are kept."""
        targets, labels, groups, weights = self.read_labels(table)
        used = {*inputs, *targets, *map(str, (self.split_by, self.sample_weight))}
        unused = [name for name in table.columns if name not in used]
        notes = [f"columns that are not used: {', '.join(unused)}"] if unused else []
        return {
            "y": labels.y[kept],
            "class_names": labels.class_names,
            "task": labels.task,
            "target_names": targets if labels.task == "regression" else (),
            "origins": table.origins.select(kept),
            "notes": (*table.notes, *labels.notes, *notes),
            "groups": None if groups is None else groups[kept],
            "weights": None if weights is None else weights[kept],
        }


class _Parts(NamedTuple):
    """The tables that are read by their splits, and the splits' names in the source."""

    tables: dict[str, pyarrow.Table]
    names: dict[str, str]
    source: pathlib.Path | InMemoryDatasets
    notes: list[str]


def _texts(values: pyarrow.ChunkedArray, field: str) -> list[str]:
    """The texts of a column."""
    pa = arrow_columns.library("HFDataset")
    kind = values.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise UserError(f"{field}: the column is of the type {kind}; expected texts.")
    return values.to_pylist()


def _sentences(
    words: Sequence[Sequence[Any]], tags: Sequence[Sequence[Any]], rows: Origins
) -> list[Sentence]:
    """Words with their tags, which are as many."""
    for row, (example, marks) in enumerate(zip(words, tags)):
        if len(example) != len(marks) or not example or None in (*example, *marks):
            raise UserError(
                f"HFDataset.target: {rows[row]} has {len(example)} words and "
                f"{len(marks)} tags; each word needs one tag."
            )
    return [
        Sentence(tuple(map(str, example)), tuple(map(str, marks)), row)
        for row, (example, marks) in enumerate(zip(words, tags))
    ]
