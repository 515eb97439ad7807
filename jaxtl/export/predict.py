"""Predictions of an exported model for files: images, arrays and tables.

Like `artefact.py` this runs without the model's program.
"""

import csv
import itertools
import os
import pathlib
import zipfile
from collections.abc import Iterable, Iterator

import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.data import preprocess
from jaxtl.export import bundle

TABLES = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
UNREADABLE = (OSError, ValueError, EOFError, csv.Error, zipfile.BadZipFile)


def predict(
    folder: str | pathlib.Path, files: str | os.PathLike | Iterable[str | os.PathLike]
) -> list[dict]:
    """Runs an exported model on files.

    Args:
      folder: what `jaxtl export` wrote.
      files: image files; `.npy` of one example or a batch of them, and `.npz` with an
        entry per input, in stored units; `.csv` and `.tsv` with a row per example;
        `.txt` with a text per line, of pairs with a tab between the two.

    Returns:
      One dict per example, "file" and "row" (counted from 0 within the file) and
      classification: "label", "probability" (of that label);
      multilabel: "labels" (those above ½, joined by ", ") and a "p(label)" for each;
      regression: "output", or "output 0", "output 1", …

    Raises:
      UserError: what `artefact.load` raises, and a file that can't be read or does not
        fit the model, by its name.
    """
    files = [files] if isinstance(files, str | os.PathLike) else list(files)
    if not files:
        raise UserError("there is nothing to predict: name at least one file.")
    predictor = _single(bundle.load(folder))
    examples, rows = _examples(predictor, files), []
    while chunk := list(itertools.islice(examples, bundle.BATCH)):
        batch = {k: np.stack([x[k] for *_, x in chunk]) for k in predictor.inputs}
        for (file, row, _), values in zip(chunk, predictor(batch)):
            if not np.isfinite(values).all():
                raise UserError(
                    f"{file}, row {row}: the model's output is not finite, as with a "
                    "NaN or an overflow in the input."
                )
            rows.append({"file": file, "row": row, **_answer(predictor, values)})
    return rows


def _single(predictor: bundle.Predictor) -> bundle.Predictor:
    """Raises UserError for a model of several answers per example (per token, say)."""
    if len(predictor.output_shape) != 1:
        raise UserError(
            f"{predictor.folder} gives outputs of shape {predictor.output_shape} for "
            "each example, no single answer: call artefact.load on it from Python."
        )
    return predictor


def _answer(predictor: bundle.Predictor, values: np.ndarray) -> dict:
    """Returns one example's prediction, flat."""
    if predictor.task == "regression":
        names = ["output"] if len(values) == 1 else None
        names = names or [f"output {i}" for i in range(len(values))]
        return dict(zip(names, map(float, values)))
    # A head may be wider than the data it was last trained on.
    names = predictor.class_names
    names += tuple(str(i) for i in range(len(names), len(values)))
    if predictor.task == "multilabel":
        chosen = [name for name, p in zip(names, values) if p > 0.5]
        each = {f"p({name})": float(p) for name, p in zip(names, values)}
        return {"labels": ", ".join(chosen), **each}
    best = int(values.argmax())
    return {"label": names[best], "probability": float(values[best])}


def _examples(predictor, files) -> Iterator[tuple[str, int, dict]]:
    """Yields (file, row within it, {input name: one example})."""
    for file in map(pathlib.Path, files):
        if not file.is_file():
            what = "is a folder, name its files" if file.is_dir() else "does not exist"
            raise UserError(f"the file {str(file)!r} {what}.")
        try:
            batch = _read(predictor, file)
        except UserError:
            raise
        except UNREADABLE as error:
            raise UserError(f"{file} can't be read: {error}.") from None
        arrays = predictor.checked(batch, where=str(file))
        for row in range(len(next(iter(arrays.values())))):
            yield str(file), row, {k: v[row] for k, v in arrays.items()}


def _read(predictor: bundle.Predictor, file: pathlib.Path):
    """Returns what a file holds: a batch, or {input name: batch}."""
    suffix = file.suffix.lower()
    if suffix == ".npy":
        return _batched(predictor, np.load(file, allow_pickle=False))
    if suffix == ".npz":
        return _archive(predictor, file)
    if suffix == ".txt":
        return predictor.tokenized(_texts(file, predictor), where=str(file))
    if suffix in TABLES:
        return _table(predictor, file, TABLES[suffix])
    return _image(predictor, file)


def _only(predictor, file, kind: str) -> tuple[tuple[int, ...], np.dtype]:
    """Returns (shape, dtype) of the only input; UserError where there are several."""
    if set(predictor.inputs) != {bundle.SINGLE}:
        raise UserError(
            f"{file} is {kind}, but {predictor.folder} takes the inputs "
            f"{', '.join(predictor.inputs)}: name a .npz that holds them."
        )
    return predictor.inputs[bundle.SINGLE]


def _batched(predictor, x: np.ndarray) -> np.ndarray:
    """Gives a lone example its batch axis."""
    spec = predictor.inputs.get(bundle.SINGLE)
    return x[None] if spec is not None and x.shape == spec[0] else x


def _archive(predictor, file):
    with np.load(file, allow_pickle=False) as archive:
        names = list(predictor.inputs)
        if names == [bundle.SINGLE] and len(archive.files) == 1:
            names = archive.files  # whatever it is called, it is the only one
        for name in names:
            if name not in archive.files:
                raise UserError(
                    f"{file} has no entry {name!r}{nearest(name, archive.files)} "
                    f"(entries: {', '.join(archive.files) or 'none'})."
                )
        if set(predictor.inputs) == {bundle.SINGLE}:
            return _batched(predictor, archive[names[0]])
        return {name: archive[name] for name in names}


def _texts(file, predictor) -> list:
    """Returns the lines that are not blank, of pairs cut at the tab."""
    lines = [line for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{file} holds no text.")
    paired = "token_type_ids" in predictor.inputs
    return [tuple(line.split("\t")) for line in lines] if paired else lines


def _image(predictor, file) -> np.ndarray:
    """Returns (1, height, width, channels) in stored units."""
    shape, dtype = _only(predictor, file, "read as an image")
    if len(shape) != 3:
        raise UserError(
            f"{file} is read as an image, but {predictor.folder} takes examples of "
            f"shape {shape}: name a .npy, .npz or .csv file of them."
        )
    x = preprocess.load_image(file, predictor.preprocess)
    return (np.rint(x) if dtype.kind in "ui" else x)[None].astype(dtype)


def _table(predictor, file, delimiter: str) -> np.ndarray:
    """Returns (n, features) of a table, its columns found by name where they have one.

    A model trained on a table knows its columns, so their order is free and others
    are ignored; for any other model the columns are the features in order, and a
    first row without a number is a header.
    """
    [width], _ = _vectors(predictor, file)
    rows = _lines(file, delimiter)
    columns = predictor.facts["columns"]
    if columns is None:
        if rows and not any(_is_number(cell) for cell in rows[0][1]):
            rows = rows[1:]
        columns = [{"name": str(i + 1), "categories": None} for i in range(width)]
        places = range(width)
    else:
        header = rows.pop(0)[1] if rows else []
        places, width = [_place(file, c["name"], header) for c in columns], len(header)
    if not rows:
        raise UserError(f"{file} holds no rows.")
    found = []
    for line, row in rows:
        where = f"{file}, line {line}"
        if len(row) != width:
            raise UserError(f"{where}: {len(row)} cells where {width} are expected.")
        cells = [_cell(where, c, row[p]) for c, p in zip(columns, places)]
        found.append([value for values in cells for value in values])
    return np.asarray(found, np.float32)


def _vectors(predictor, file):
    shape, dtype = _only(predictor, file, "a table")
    if len(shape) != 1:
        raise UserError(
            f"{file} is a table, but {predictor.folder} takes examples of shape "
            f"{shape}."
        )
    return shape, dtype


def _lines(file, delimiter: str) -> list[tuple[int, list[str]]]:
    """Returns (line number, cells) of the lines that are not empty."""
    with open(file, newline="", encoding="utf-8-sig") as stream:
        lines = enumerate(csv.reader(stream, delimiter=delimiter), 1)
        return [(at, [cell.strip() for cell in row]) for at, row in lines if row]


def _place(file, name: str, header: list[str]) -> int:
    if name not in header:
        raise UserError(
            f"{file} has no column {name!r}{nearest(name, header)} "
            f"(columns: {', '.join(header) or 'none'})."
        )
    return header.index(name)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _cell(where: str, column: dict, cell: str) -> list[float]:
    """Returns the features of one cell: its number, or one-hot of its category."""
    name, known = column["name"], column["categories"]
    if known is not None:
        if cell not in known:
            raise UserError(
                f"{where}, column {name}: {cell!r} is no category seen in training"
                f"{nearest(cell, known)} (categories: {', '.join(known)})."
            )
        return [float(cell == category) for category in known]
    if not _is_number(cell) or not np.isfinite(float(cell)):
        raise UserError(f"{where}, column {name}: {cell!r} is no finite number.")
    return [float(cell)]
