"""Predictions of an exported model for files of images, arrays, tables and texts.

Like `bundle.py` this imports no model, experiment or flax.
"""

import dataclasses
import itertools
import os
import pathlib
import sys
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from jaxtl.core import numpy_files, progress, text_files
from jaxtl.core.errors import UserError, nearest
from jaxtl.data import cells, origins, preprocess, sparse_rows, task_outputs
from jaxtl.data.dataset import MULTITASK, QUESTION_ANSWERING, TAG_TASKS
from jaxtl.data.sources import folder_layout, table_files
from jaxtl.data.table_encoding import Encoder, TableEncoding
from jaxtl.export import bundle
from jaxtl.export.predict_answers import answered_questions
from jaxtl.export.predict_text_tables import read_text_table
from jaxtl.export.predict_words import tagged_words
from jaxtl.export.predictor import BATCH, SINGLE_INPUT, Predictor

# Task -> what reads a file by itself, and yields predictions.
_READERS = {
    **dict.fromkeys(TAG_TASKS, tagged_words),
    QUESTION_ANSWERING: answered_questions,
}
_READ_ERRORS = (OSError, ValueError, EOFError, zipfile.BadZipFile)


def predict(
    folder: str | pathlib.Path,
    files: str | os.PathLike | Iterable[str | os.PathLike],
    *,
    name: str | None = None,
    each_class: bool = False,
) -> list[dict[str, Any]]:
    """Runs an exported model on files.

    Args:
      folder: as `jaxtl export` wrote it.
      files: image files; `.npy` of one example or a batch of them, and `.npz` with an
        entry per input, in stored units, or of scipy.sparse; `.csv`, `.tsv`, JSON
        (lines) and Parquet or Arrow files with a row per example;
        `.txt` with a text per line, of pairs with a tab between the two (of texts in
        a table the columns are those of training); a folder
        stands for the image files below it, in the order of their names.
      name: of the model in messages; None takes the folder.
      each_class: whether a classification has a "p(class)" for each class, too.

    Returns:
      One dict per example, "file", "row" (counted from 0 within the file; of a
      `.txt` the line, blank ones counted), "origin" (as `origins.Origins` writes it: a
      file and its line from 1, an array and its index, or a picture) and
      classification: "label", "probability" (of that label);
      multilabel: "labels" (those above ½ or the run's thresholds, joined by ", ") and
      a "p(label)" for each;
      regression: "output", or "output 0", "output 1", …;
      several tasks: for each what it would have alone, under its name: "kind" and
      "p(kind)" of a classification, "tags" and a "p(tags:label)" for each label of
      several, "size" or "size.length" of numbers;
      answers: a dict per question, "question", "answer", "probability" and "score" (see
      `predict_answers.answered_questions`);
      tags of words: a dict per word, "word", "label" and "probability" (see
      `predict_words.tagged_words`).

    Raises:
      UserError: as of `bundle.load`, and a file that can't be read or does not fit the
        model, by its name.
    """
    files = [files] if isinstance(files, str | os.PathLike) else list(files)
    if not files:
        raise UserError("there is nothing to predict: name at least one file.")
    predictor = bundle.load(folder)
    if name is not None:
        predictor = dataclasses.replace(predictor, name=name)
    if predictor.task in _READERS:
        paths = list(map(_existing, files))
        tracked = progress.track(paths, "predicting files")
        read = _READERS[predictor.task]
        return [p for path in tracked for p in read(predictor, path)]
    if len(predictor.output_shape) != 1:
        raise UserError(
            f"{predictor.name} gives outputs of shape {predictor.output_shape} for "
            "each example, not one prediction: call jaxtl.export.bundle.load on it "
            "from Python."
        )
    files = [path for file in files for path in _expanded(predictor, file)]
    examples, predictions = _examples(predictor, files), []
    while chunk := list(itertools.islice(examples, BATCH)):
        batch = {
            name: np.stack([example[name] for *_, example in chunk])
            for name in predictor.inputs
        }
        for (place, _), values in zip(chunk, predictor(batch)):
            if not np.isfinite(values).all():
                raise UserError(
                    f"{place['origin']}: the model's output is not finite; is there a "
                    "NaN or a very large value in the input?"
                )
            entry = _prediction(predictor, values, each_class)
            predictions.append({**place, **entry})
    return predictions


def _prediction(
    predictor: Predictor, values: np.ndarray, each_class: bool
) -> dict[str, Any]:
    """One example's prediction as a flat dict."""
    if predictor.task == "regression":
        if len(values) == 1:
            return {"output": float(values[0])}
        return {f"output {i}": float(v) for i, v in enumerate(values)}
    if predictor.task == MULTITASK:
        return _of_tasks(predictor.class_names, values, each_class)
    # A head may have more outputs than the data it was last trained on have classes.
    names = predictor.class_names
    names += tuple(str(i) for i in range(len(names), len(values)))
    thresholds = predictor.thresholds
    shares = {f"p({name})": float(p) for name, p in zip(names, values)}
    if predictor.task == "multilabel":
        thresholds = thresholds or (0.5,) * len(values)
        labels = [n for n, p, t in zip(names, values, thresholds) if p > t]
        return {"labels": ", ".join(labels), **shares}
    best = int(values.argmax())
    if thresholds is not None:
        best = int(values[1] > thresholds[0])
    prediction = {"label": names[best], "probability": float(values[best])}
    return {**prediction, **(shares if each_class else {})}


def _of_tasks(
    output_names: tuple[str, ...], values: np.ndarray, each_class: bool
) -> dict[str, Any]:
    """One example's predictions of several tasks as a flat dict."""
    prediction: dict[str, Any] = {}
    for name, task in task_outputs.tasks_of(output_names).items():
        part, names = values[task.outputs], output_names[task.outputs]
        shares = {f"p({n})": float(p) for n, p in zip(names, part)}
        if task.kind == "regression":
            prediction |= {n: float(value) for n, value in zip(names, part)}
        elif task.kind == "multilabel":
            labels = [n for n, p in zip(task.names, part) if p > 0.5]
            prediction |= {name: ", ".join(labels), **shares}
        else:
            best = int(part.argmax())
            prediction |= {name: task.names[best], f"p({name})": float(part[best])}
            prediction |= shares if each_class else {}
    return prediction


def _examples(
    predictor: Predictor, files: Iterable[str | os.PathLike]
) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Yields ({"file", "row", "origin"}, {input name: one example})."""
    paths = list(map(pathlib.Path, files))
    for file in progress.track(paths, "predicting files"):
        _existing(file)
        try:
            batch, rows = _read(predictor, file)
        except UserError:
            raise
        except _READ_ERRORS as error:
            raise UserError(f"{file} can't be read: {error}.") from None
        arrays = predictor.as_inputs(batch, name=str(file))
        count = len(next(iter(arrays.values())))
        rows = rows or origins.of_elements([(str(file), count)])
        for i in range(count):
            row = int(rows.number[i]) - 1 if text_files.suffix(file) == ".txt" else i
            place = {"file": str(file), "row": row, "origin": rows[i]}
            yield place, {name: v[i] for name, v in arrays.items()}


def _expanded(predictor: Predictor, file: str | os.PathLike) -> list[str | os.PathLike]:
    """A file, or the image files below a folder for a model of images."""
    path, shapes = pathlib.Path(file), [shape for shape, _ in predictor.inputs.values()]
    if not path.is_dir() or [len(shape) for shape in shapes] != [3]:
        return [file]
    return [path / name for name in folder_layout.list_images(path, str(path)).names]


def _existing(file: str | os.PathLike) -> pathlib.Path:
    """The path of a file, which must exist."""
    path = pathlib.Path(file)
    if not path.is_file():
        problem = "is a folder, name its files" if path.is_dir() else "does not exist"
        raise UserError(f"the file {str(path)!r} {problem}.")
    return path


def _read(
    predictor: Predictor, file: pathlib.Path
) -> tuple[np.ndarray | dict[str, np.ndarray], origins.Origins | None]:
    """Reads a file as a batch or {input name: batch}, and the origins of its rows.

    The origins are None where the rows are those of an array.
    """
    suffix = text_files.suffix(file)
    if suffix == ".npy":
        return _with_batch_axis(predictor, numpy_files.read_npy(file)), None
    if suffix == ".npz":
        return _read_npz(predictor, file), None
    if suffix == ".txt":
        texts, lines = _read_texts(predictor, file)
        rows = origins.of_lines([(file, lines)])
        return predictor.tokenize(texts, name=str(file), rows=rows), rows
    is_table = suffix in text_files.DELIMITERS or table_files.is_typed(file)
    if is_table and "input_ids" in predictor.inputs:
        texts, rows = read_text_table(predictor, file)
        return predictor.tokenize(texts, name=str(file), rows=rows), rows
    if suffix in text_files.DELIMITERS:
        table, lines = _read_table(predictor, file, text_files.DELIMITERS[suffix])
        return table, origins.of_lines([(file, lines)])
    if table_files.is_typed(file):
        return _read_typed_table(predictor, file)
    return _read_image(predictor, file), origins.of_files([file])


def _only_input(
    predictor: Predictor, file: pathlib.Path, kind: str
) -> tuple[tuple[int, ...], np.dtype]:
    """(shape, dtype) of the only input; UserError where there are several."""
    if set(predictor.inputs) != {SINGLE_INPUT}:
        raise UserError(
            f"{file} is {kind}, but {predictor.name} takes the inputs "
            f"{', '.join(predictor.inputs)}: name a .npz that holds them."
        )
    return predictor.inputs[SINGLE_INPUT]


def _with_batch_axis(predictor: Predictor, x: np.ndarray) -> np.ndarray:
    """Adds the batch axis to a single example."""
    spec = predictor.inputs.get(SINGLE_INPUT)
    return x[None] if spec is not None and x.shape == spec[0] else x


def _read_npz(
    predictor: Predictor, file: pathlib.Path
) -> np.ndarray | dict[str, np.ndarray]:
    arrays, names = numpy_files.read_npz(file), list(predictor.inputs)
    is_single = names == [SINGLE_INPUT]
    if is_single and sparse_rows.is_sparse_file(arrays):
        rows = sparse_rows.as_rows(sparse_rows.read_npz(file), str(file))
        return rows[np.arange(len(rows))]
    if is_single and len(arrays) == 1:
        names = list(arrays)  # the only entry, whatever its name
    for name in names:
        if name not in arrays:
            raise UserError(
                f"{file} has no entry {name!r}{nearest(name, arrays)} "
                f"(entries: {', '.join(arrays) or 'none'})."
            )
    if is_single:
        return _with_batch_axis(predictor, arrays[names[0]])
    return {name: arrays[name] for name in names}


def _read_texts(predictor: Predictor, file: pathlib.Path) -> tuple[list, list[int]]:
    """Reads the lines that are not blank, and their numbers from 1.

    Lines of pairs are cut at the tab.
    """
    lines = enumerate(text_files.read_lines(file, owner=str(file)), 1)
    numbered = {number: line for number, line in lines if line.strip()}
    if not numbered:
        raise UserError(f"{file} holds no text.")
    texts: list = list(numbered.values())
    if predictor.takes_pairs:
        texts = [tuple(line.split("\t")) for line in texts]
    return texts, list(numbered)


def _read_image(predictor: Predictor, file: pathlib.Path) -> np.ndarray:
    """Reads (1, height, width, channels) in stored units."""
    shape, dtype = _only_input(predictor, file, "read as an image")
    if len(shape) != 3:
        raise UserError(
            f"{file} is read as an image, but {predictor.name} takes examples of "
            f"shape {shape}: name a .npy, .npz or .csv file of them."
        )
    x = preprocess.load_image(file, predictor.preprocess)
    return (np.rint(x) if dtype.kind in "ui" else x)[None].astype(dtype)


def _read_table(
    predictor: Predictor, file: pathlib.Path, delimiter: str
) -> tuple[np.ndarray, list[int]]:
    """Reads the features (n, features) of a table, and the lines of its rows.

    A model trained on a table stores its columns, which are looked up by name, so that
    their order is free and other columns are ignored. For any other model the columns
    are the features in order, and a first row without a number is a header.
    """
    width = _table_width(predictor, file)
    rows = _read_rows(file, delimiter)
    columns = predictor.metadata["columns"]
    if columns is None:
        if rows and all(cells.number(cell) is None for cell in rows[0][1]):
            rows = rows[1:]
        columns = [{"name": str(i + 1), "categories": None} for i in range(width)]
        indices = range(width)
    else:
        header = rows.pop(0)[1] if rows else []
        indices = [_column_index(file, column["name"], header) for column in columns]
        width = len(header)
    if not rows:
        raise UserError(f"{file} holds no rows.")
    feature_cells = []
    for number, row in rows:
        if len(row) != width:
            raise UserError(
                f"{file}, line {number}: {len(row)} cells where {width} are expected."
            )
        feature_cells.append((f"line {number}", [row[i] for i in indices]))
    encoding = _encoding(predictor, columns)
    features = _encoded(predictor, file, encoding, feature_cells)
    return features, [number for number, _ in rows]


def _table_width(predictor: Predictor, file: pathlib.Path) -> int:
    """Number of features of a model of vectors; UserError for any other model."""
    shape, _ = _only_input(predictor, file, "a table")
    if len(shape) != 1:
        raise UserError(
            f"{file} is a table, but {predictor.name} takes examples of shape {shape}."
        )
    return shape[0]


def _read_typed_table(
    predictor: Predictor, file: pathlib.Path
) -> tuple[np.ndarray, origins.Origins]:
    """Reads the features (n, features) of a JSON, Parquet or Arrow file."""
    _table_width(predictor, file)
    columns = predictor.metadata["columns"]
    if columns is None:
        raise UserError(
            f"{file} is a table of named columns, but {predictor.name} was trained "
            "on arrays without names: name a .npy, .npz or .csv file."
        )
    encoding = _encoding(predictor, columns)
    table = table_files.read_columns(
        str(file), predictor.name, missing=encoding.missing_values
    )
    header = list(table.columns)
    names = [header[_column_index(file, c["name"], header)] for c in columns]
    labels = [
        [None if m else text for text, m in zip(column.labels, column.is_missing)]
        for column in map(table.columns.__getitem__, names)
    ]
    rows = [(table.place(i), list(row)) for i, row in enumerate(zip(*labels))]
    return _encoded(predictor, file, encoding, rows), table.origins


def _encoding(predictor: Predictor, columns: list[dict[str, Any]]) -> TableEncoding:
    """The encoding of columns, with the rules that the model was trained by."""
    return TableEncoding.from_json(
        {"columns": columns, **predictor.metadata.get("cells", {})}
    )


def _encoded(
    predictor: Predictor,
    file: pathlib.Path,
    encoding: TableEncoding,
    rows: list[tuple[str, list[str | None]]],
) -> np.ndarray:
    """The stored values (n, features) of (place, cells) of rows; prints decisions."""
    encoder = Encoder(encoding, predictor.preprocess)
    features = [encoder.row(row, f"{file}, {place}") for place, row in rows]
    for note in encoder.notes():
        print(f"{file}: {note}", file=sys.stderr)
    return np.asarray(features)


def _read_rows(file: pathlib.Path, delimiter: str) -> list[tuple[int, list[str]]]:
    """Reads (line number, normalized cells) of the lines that are not empty."""
    lines = text_files.read_lines(file, owner=str(file))
    rows = text_files.split_cells(lines, delimiter, owner=str(file))
    return [(number, [*map(cells.normalized, row)]) for number, row in rows]


def _column_index(file: pathlib.Path, name: str, header: list[str]) -> int:
    name = cells.normalized(name)
    if header.count(name) != 1:
        problem = "two columns" if name in header else "no column"
        close = "" if name in header else nearest(name, header)
        raise UserError(
            f"{file} has {problem} {name!r}{close} "
            f"(columns: {', '.join(header) or 'none'})."
        )
    return header.index(name)
