"""The data of a new experiment file: what they look like, and the source to write."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from jaxtl.core import text_files
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.names import listing
from jaxtl.data import cells, column_targets, paths
from jaxtl.data.columns import Columns
from jaxtl.data.sources import folder_layout, table_files

# Names as on Hugging Face's hub; what an experiment reads, and what it predicts.
TASKS = (
    "image-classification",
    "image-regression",
    "tabular-classification",
    "tabular-regression",
    "text-classification",
    "text-regression",
    "token-classification",
    "question-answering",
    "text-generation",
)
_TABLES = (*text_files.DELIMITERS, *table_files.JSON_SUFFIXES, ".parquet", ".pq")
_TAGGED = (".conll", ".conllu", ".iob", ".iob2", ".bio")
_TARGETS = ("label", "labels", "target", "class", "y", "category", "outcome")
_TEXTS = ("text", "sentence", "review", "content", "document", "title", "question")
_IMAGES = ("image", "file", "path", "filename", "file_name", "image_path")
_WORDS = 4.0  # of a cell on average: a column of more holds texts
_SPLITS = {"val_path": ("val", "dev", "valid", "validation"), "test_path": ("test",)}
_HEAD = 10_000  # characters of a JSON file that tell whether it holds questions


@dataclasses.dataclass(frozen=True)
class NewData:
    """The data of a new experiment.

    Attributes:
      task: one of `TASKS`.
      path: as the user wrote it.
      source: name of the source in `tl.data`.
      arguments: (Python text, comment) of each argument of the source, in order.
      examples: number of train rows, about; None where it is not known.
      side: of the largest image in pixels; None where there are none.
      notes: what was decided, for the user.
    """

    task: str
    path: str
    source: str
    arguments: tuple[tuple[str, str], ...]
    examples: int | None = None
    side: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def reads(self) -> str:
        """ "image", "tabular", or "text"."""
        first = self.task.partition("-")[0]
        return first if first in ("image", "tabular") else "text"


def guess_task(path: str, text: str | None, image: str | None) -> str:
    """The task that data look like.

    Args:
      path: of the data.
      text, image: columns that the user named.

    Raises:
      UserError: there are no such data, or none that a task is known of.
    """
    found = paths.find(path, "--data")
    if found.is_dir():
        names = _text_files(found)
        return "text-classification" if names else "image-classification"
    suffix = text_files.suffix(found)
    if suffix in _TAGGED:
        return "token-classification"
    if suffix == ".label":
        return "text-classification"
    if suffix == ".txt":
        return "text-generation"
    if suffix not in _TABLES:
        raise UserError(
            f"--data: {path} is of no kind that is known by its name (expected a "
            f"folder of images, {', '.join(_TABLES)}, .txt or {', '.join(_TAGGED)}); "
            "`jaxtl data` lists the sources of an experiment file."
        )
    if suffix in table_files.JSON_SUFFIXES and _holds_questions(found):
        return "question-answering"
    if image is not None:
        return "image-classification"
    columns = table_files.read_columns(path, "--data").columns
    numeric = sum(column.values is not None for column in columns.values())
    is_texts = not _has_header(list(columns)) and not (
        len(columns) > 2 and numeric >= len(columns) - 1
    )
    if text is not None or is_texts:
        return "text-classification"
    texts = [name for name in columns if _mean_words(columns[name].texts) > _WORDS]
    return "text-classification" if texts else "tabular-classification"


def describe(
    path: str, task: str, target: str | None, text: str | None, image: str | None
) -> NewData:
    """The source of the data, with its arguments.

    Args:
      path: of the data.
      task: one of `TASKS`.
      target, text, image: columns; None guesses them.

    Raises:
      UserError: an unknown task, data that do not fit it, or no such column.
    """
    if task not in TASKS:
        raise UserError(
            f"--task {task}: no such task{nearest(task, TASKS)} (known: "
            f"{', '.join(TASKS)})."
        )
    found, kind = paths.find(path, "--data"), task.partition("-")[0]
    if task == "question-answering":
        return _with_splits(found, NewData(task, path, "SQuAD", (_path(path),)))
    if task == "token-classification":
        return _with_splits(found, NewData(task, path, "CoNLL", (_path(path),)))
    if task == "text-generation":
        return NewData(task, path, "Lines", (_path(path), *_shares()))
    if found.is_dir():
        return _folder(found, path, task)
    if kind == "text" and text_files.suffix(found) == ".label":
        return _with_splits(found, NewData(task, path, "Text", (_path(path),)))
    return _table(path, task, target, text, image)


def _folder(folder: pathlib.Path, path: str, task: str) -> NewData:
    """A folder of images by class, or of a text file for each class."""
    names = _text_files(folder)
    if task == "text-classification" and names:
        files = tuple(str(pathlib.Path(path) / name) for name in names)
        classes = tuple(pathlib.Path(name).stem for name in names)
        names_of_classes = f"class_names={_tuple(classes)}"
        arguments = ((_tuple(files), ""), (names_of_classes, "one per file"))
        return NewData(task, path, "Text", (*arguments, *_shares()))
    if task != "image-classification":
        raise UserError(
            f"--task {task}: {path} is a folder; expected a file of a table for it."
        )
    listed = folder_layout.list_images(folder, "--data").names
    layout = folder_layout.layout(folder, listed)
    classes = tuple(sorted(set(layout.classes)))
    own = {split for split in layout.splits if split is not None}
    count = sum(split in (None, "train") for split in layout.splits)
    shares = [share for share in _shares() if share[0].partition("=")[0] not in own]
    note = f"{path}: {len(listed):,} images of {len(classes)} classes"
    note += f", with folders {', '.join(sorted(own))}" if own else ""
    side = _largest_side([folder / name for name in listed])
    return NewData(
        task, path, "ImageFolder", (_path(path), *shares), count, side, (note,)
    )


def _table(
    path: str, task: str, target: str | None, text: str | None, image: str | None
) -> NewData:
    """A table, a list of images, or texts in the columns of a table."""
    table = table_files.read_columns(path, "--data")
    names = list(table.columns)
    if task.startswith("text") and not _has_header(names):
        return _without_header(path, task, len(names), target, text)
    notes = _header_notes(path, names)
    name = _column("--target", target, names, _TARGETS, names[-1])
    others = [other for other in names if other != name]
    if not others:
        raise UserError(
            f"--data: {path} has the column {name!r} alone; expected one to predict "
            "and at least one to predict it from."
        )
    if not target:
        notes.append(f"the labels are taken from the column {name!r}")
    kind, _, predicts = task.partition("-")
    inferred = column_targets.target(table, (name,), None, "--target").task
    if inferred == "regression" and predicts == "classification":
        predicts = inferred
        notes.append(f"{name!r} holds quantities: the task is {kind}-{predicts}")
    of_task = (
        () if inferred in (predicts, "multilabel") else (f"task={quoted(predicts)}",)
    )
    common = (_path(path), *((argument, "") for argument in of_task))
    data = NewData(
        f"{kind}-{predicts}",
        path,
        "",
        common,
        examples=len(table.columns[name].is_missing),
        notes=tuple(notes),
    )
    if kind == "tabular":
        return _columns_of_numbers(data, name)
    if kind == "image":
        return _listed_images(data, table, name, image, others)
    return _texts(data, table, name, text, others)


def _without_header(
    path: str, task: str, columns: int, target: str | None, text: str | None
) -> NewData:
    """Texts in a file whose columns have numbers."""
    arguments = (
        _path(path),
        (f"text={_number('--text', text, 0, columns)}", "column, from 0"),
        (f"label={_number('--target', target, columns - 1, columns)}", "column"),
    )
    found = paths.find(path, "--data")
    lines = len(text_files.read_lines(found))
    return _with_splits(found, NewData(task, path, "Text", arguments, lines))


def _columns_of_numbers(data: NewData, target: str) -> NewData:
    """Columns that become a vector."""
    suffix = text_files.suffix(data.path)
    source = "Parquet" if suffix in table_files.PARQUET_SUFFIXES else "CSV"
    source = "JSON" if suffix in table_files.JSON_SUFFIXES else source
    arguments = (
        *data.arguments,
        (f"target={quoted(target)}", "the column to predict; the others are inputs"),
        ('missing="impute"', 'cells without a value; "refuse" stops at one'),
        *_shares(),
    )
    return dataclasses.replace(data, source=source, arguments=arguments)


def _listed_images(
    data: NewData, table: Columns, target: str, image: str | None, others: Sequence[str]
) -> NewData:
    """Images whose files are named in a column."""
    listed = _column("--image", image, others, _IMAGES, others[0])
    folder = paths.find(data.path, "--data").parent
    arguments = (
        *data.arguments,
        (f"target={quoted(target)}", ""),
        (f"image={quoted(listed)}", "column of the files"),
        *_shares(),
    )
    side = _largest_side([folder / name for name in table.columns[listed].labels])
    return dataclasses.replace(data, source="ImageList", arguments=arguments, side=side)


def _texts(
    data: NewData, table: Columns, target: str, text: str | None, others: Sequence[str]
) -> NewData:
    """Texts of a column."""
    words = {name: _mean_words(table.columns[name].texts) for name in others}
    longest = max(others, key=words.__getitem__)
    read = _column("--text", text, others, _TEXTS, longest)
    notes = () if text else (f"the texts are taken from the column {read!r}",)
    arguments = (
        *data.arguments,
        (f"text={quoted(read)}", ""),
        (f"label={quoted(target)}", ""),
    )
    data = dataclasses.replace(
        data, source="Text", arguments=arguments, notes=(*data.notes, *notes)
    )
    return _with_splits(paths.find(data.path, "--data"), data)


def quoted(text: str) -> str:
    """A text as it is written in Python, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def _tuple(texts: Sequence[str]) -> str:
    return f"({', '.join(map(quoted, texts))})"


def _path(path: str) -> tuple[str, str]:
    return quoted(path), ""


def _shares() -> tuple[tuple[str, str], ...]:
    return (
        ("val=0.1", "share of the examples that chooses the checkpoint"),
        ("test=0.2", "share that measures the result, once"),
    )


def _with_splits(file: pathlib.Path, data: NewData) -> NewData:
    """The data with the files of other splits that lie beside that of "train"."""
    arguments = list(data.arguments)
    sources = {name: _sibling(file, splits) for name, splits in _SPLITS.items()}
    for (name, sibling), share in zip(sources.items(), _shares()):
        if sibling is None:
            arguments.append(share)
            continue
        beside = str(pathlib.Path(data.path).with_name(sibling.name))
        arguments.append((f"{name}={quoted(beside)}", ""))
    return dataclasses.replace(data, arguments=tuple(arguments))


def _sibling(file: pathlib.Path, splits: Sequence[str]) -> pathlib.Path | None:
    stem, dot, suffixes = file.name.partition(".")
    names = [f"{s}{dot}{suffixes}" for s in splits] if stem == "train" else []
    return next((p for name in names if (p := file.with_name(name)).is_file()), None)


def _text_files(folder: pathlib.Path) -> list[str]:
    """The names of a folder's text files, where it has several and no folders.

    Text files beside folders (of images by class) describe these: a licence, say.
    """
    if any(p.is_dir() and not p.name.startswith(".") for p in folder.iterdir()):
        return []
    names = sorted(p.name for p in folder.glob("*.txt") if p.is_file())
    return names if len(names) > 1 else []


def _holds_questions(file: pathlib.Path) -> bool:
    text = text_files.read_text(file)[:_HEAD]
    return all(f'"{key}"' in text for key in ("question", "context", "answers")) or (
        json.dumps("paragraphs") in text
    )


def _has_header(names: Sequence[str]) -> bool:
    """Whether the first row names columns: no number or sentence is in it."""
    return not any(
        cells.number(name) is not None or len(name.split()) > _WORDS for name in names
    )


def _header_notes(path: str, names: Sequence[str]) -> list[str]:
    """Says that numbers are read as the names of columns.

    Raises:
      UserError: one has a fraction, so that the first row is one of the data.
    """
    numbers = [name for name in names if cells.number(name) is not None]
    if broken := [name for name in numbers if cells.integer(name) is None]:
        raise UserError(
            f"--data: the first row of {path} names no columns, as {broken[0]!r} is a "
            "number: write a line with the names of its "
            f"{len(names)} columns above it."
        )
    if not numbers:
        return []
    return [f"the first row is read as the names of columns: {listing(names)}"]


def _mean_words(texts: Sequence[str] | None) -> float:
    """Words of a cell on average; 0 for a column of numbers."""
    if texts is None or not len(texts):
        return 0.0
    return float(np.mean([len(text.split()) for text in texts[:500]]))


def _column(
    option: str,
    named: str | None,
    names: Sequence[str],
    usual: Sequence[str],
    default: str,
) -> str:
    """The column that an option names, or that is usually called so."""
    if named is None:
        lower = {name.lower(): name for name in names}
        return next((lower[name] for name in usual if name in lower), default)
    if cells.normalized(named) not in names:
        raise UserError(
            f"{option}: there is no column {named!r}{nearest(named, names)} (columns: "
            f"{listing(names)})."
        )
    return cells.normalized(named)


def _number(option: str, named: str | None, default: int, count: int) -> int:
    """The number of a column of a file without a header."""
    if named is None:
        return default
    if not (named.isdigit() and int(named) < count):
        raise UserError(
            f"{option} {named}: the file has no header, so columns are numbers from 0 "
            f"to {count - 1}."
        )
    return int(named)


def _largest_side(files: Sequence[pathlib.Path]) -> int | None:
    """The longest side of some of the images in pixels."""
    from PIL import Image

    sides = []
    for file in files[:: max(1, len(files) // 20)]:
        try:
            with Image.open(file) as image:
                sides.append(max(image.size))
        except OSError:
            continue  # the source says so
    return max(sides, default=None)
