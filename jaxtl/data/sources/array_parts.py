"""The examples of array files by split: which entries are read, and which are not."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.data import lazy_array, sparse_rows, split_fields
from jaxtl.data.sources import array_files
from jaxtl.data.sparse_rows import SparseRows

_LISTED = 8  # entries that a note names


class Entries(NamedTuple):
    """The entries that `Arrays` names.

    Attributes:
      x: name of the entry of the examples, without its split.
      y: that of the labels, or task -> such a name.
      columns: field of `Arrays` -> name of the entry with its value for each row.
      has_labels_file: whether the labels of train rows come from another file.
    """

    x: str
    y: Any
    columns: Mapping[str, str]
    has_labels_file: bool


class Part(NamedTuple):
    """Examples of one split of one file; "all" where the file has no splits.

    Attributes:
      split: "all", "train", "val" or "test".
      x: (n, ...).
      y: (n,) or (n, k), or task -> such an array; None where the file has no labels.
      names: the arrays that x was read from, each with its number of examples.
      columns: field of `Arrays` -> (n,) values of the rows.
      notes: what of the file is not read.
    """

    split: str
    x: np.ndarray | lazy_array.LazyArray
    y: Any
    names: tuple[tuple[str, int], ...]
    columns: Mapping[str, np.ndarray] = {}
    notes: tuple[str, ...] = ()


def read(
    path: pathlib.Path, names: Entries, memory_limit: int
) -> tuple[list[Part], tuple[str, ...] | None]:
    """One file's parts, and its class names.

    Args:
      path: of the file.
      names: the entries to read.
      memory_limit: bytes; a larger `.npy` stays on disk.

    Raises:
      UserError: an entry that the file does not have, or a name for a file without
        entries.
    """
    entries = array_files.open_arrays(path, memory_limit)
    if not isinstance(entries, dict):
        _check_no_names(path, names)
        return [Part("all", entries, None, ((path.name, len(entries)),))], None
    class_names = entries.get("class_names")
    parts, entries_read = [], {"class_names"}
    for split, x_key, y, suffix in _splits(entries, names):
        if x_key == "jpeg":
            x = array_files.decoded_jpegs(entries, path)
            names_of_x = ((path.name, len(x)),)
        else:
            x = array_files.entry(entries, x_key, path, "Arrays.x")
            names_of_x = ((f"{path.name}, {x_key}", len(x)),)
        labels = None
        # Train labels of another file take the place of those that are here.
        if not names.has_labels_file or (y + suffix in entries):
            labels = _labels(entries, y, suffix, path)
        columns = {
            field: array_files.entry(entries, name + suffix, path, f"Arrays.{field}")
            for field, name in names.columns.items()
        }
        read_here = [x_key, *(v + suffix for v in names.columns.values())]
        read_here += [
            v + suffix for v in (y.values() if isinstance(y, Mapping) else [y])
        ]
        entries_read |= {"offsets", *read_here} if x_key == "jpeg" else set(read_here)
        parts.append(Part(split, x, labels, names_of_x, columns))
    notes = _unread([key for key in entries if key not in entries_read], names, path)
    if class_names is not None:
        class_names = tuple(str(name) for name in class_names)
    return [parts[0]._replace(notes=notes), *parts[1:]], class_names


def _splits(
    entries: Mapping[str, Any], names: Entries
) -> list[tuple[str, str, Any, str]]:
    """(split, entry of x, name of y, suffix of y and columns) of a file's parts."""
    x, y = names.x, names.y
    if {"jpeg", "offsets"} <= entries.keys() and x not in entries:
        one_task = not isinstance(y, Mapping)
        return [("all", "jpeg", "label" if one_task and y not in entries else y, "")]
    own_splits = [
        (split, f"{x}_{split}", y, f"_{split}")
        for split in split_fields.SPLITS
        if f"{x}_{split}" in entries
    ]
    return [("all", x, y, "")] if x in entries or not own_splits else own_splits


def _labels(entries: Mapping[str, Any], y: Any, suffix: str, path: pathlib.Path) -> Any:
    """The labels that a file holds, of each task where y names several."""
    if isinstance(y, Mapping):
        return {
            task: array_files.entry(entries, name + suffix, path, f"Arrays.y[{task!r}]")
            for task, name in y.items()
        }
    return array_files.entry(entries, y + suffix, path, "Arrays.y")


def _check_no_names(path: pathlib.Path, names: Entries) -> None:
    """Raises UserError for names of entries where a file is one array."""
    named = {"x": names.x} if names.x != "x" else {}
    if isinstance(names.y, Mapping):
        named["y"] = names.y
    for field, name in {**named, **names.columns}.items():
        raise UserError(
            f"Arrays.{field}={name!r} names an entry of a .npz, but {path} is one "
            "array; put the arrays into a .npz, or pass all as arrays in memory."
        )


def _unread(keys: Sequence[str], names: Entries, path: pathlib.Path) -> tuple[str, ...]:
    """Says which entries of a file with the usual names are not read.

    A file whose x is named has further entries on purpose, unless they are its splits.
    """
    splits = [f"{names.x}_{split}" for split in split_fields.SPLITS]
    has_splits = bool(set(splits) & set(keys))
    if not keys or (names.x != "x" and not has_splits):
        return ()
    listed = ", ".join(map(repr, keys[:_LISTED]))
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    reason = f", as there is {names.x!r}" if has_splits else ""
    return (
        f"{path.name}: {listed}{more} not read{reason}; a file's own splits are "
        f"{', '.join(splits[:-1])} and {splits[-1]}",
    )


def check(parts: Sequence[Part]) -> None:
    """Raises UserError for parts without labels, or with arrays of unequal lengths."""
    for part in parts:
        count, split = len(part.x), part.split
        for name, values in part.columns.items():
            if np.shape(values) != (count,):
                raise UserError(
                    f"Arrays.{name}: {split} x has {count} examples, but the array has "
                    f"the shape {np.shape(values)}."
                )
        if part.y is None:
            raise UserError(
                f"Arrays: {split} x has {count} examples, but there is no y for it; a "
                ".npy needs labels_path, a .npz the entry that y= names."
            )
        labels = part.y.items() if isinstance(part.y, dict) else [("", part.y)]
        for task, values in labels:
            if count != len(values):
                shown = f"y[{task!r}]" if task else "y"
                raise UserError(
                    f"Arrays: {split} x has {count} examples, but {shown} has "
                    f"{len(values)}."
                )


def relabelled(parts: Sequence[Part], path: pathlib.Path, y: Any) -> list[Part]:
    """Joins the train parts and gives them the labels of another file.

    Args:
      parts: of the files of examples.
      path: of a `.npy`, or of a `.npz` with the entry `y`.
      y: name of that entry.
    """
    labels = array_files.open_arrays(path)
    if isinstance(labels, dict):
        labels = array_files.entry(labels, y, path, "Arrays.y")
    elif y != "y":
        raise UserError(
            f"Arrays.y={y!r} names an entry of a .npz, but labels_path={str(path)!r} "
            "is one array; leave y out."
        )
    train = [part for part in parts if part.split in ("all", "train")]
    held_out = [part for part in parts if part.split not in ("all", "train")]
    x = concatenated([part.x for part in train])
    names = tuple(name for part in train for name in part.names)
    fields = train[0].columns if train else {}
    columns = {field: row_values(train, field) for field in fields}
    notes = tuple(note for part in train for note in part.notes)
    return [Part("all", x, labels, names, columns, notes), *held_out]


def common_class_names(
    names: Mapping[pathlib.Path, tuple[str, ...] | None],
) -> tuple[str, ...] | None:
    """The class names of all files, where files have any.

    Args:
      names: file -> its class names in label order, or None.

    Raises:
      UserError: two files whose names differ, of which label 0 is not the same class.
    """
    named = {file: of_file for file, of_file in names.items() if of_file is not None}
    for file, of_file in named.items():
        first, of_first = next(iter(named.items()))
        if of_file != of_first:
            raise UserError(
                f"Arrays: class_names are {', '.join(of_first)} in {first}, but "
                f"{', '.join(of_file)} in {file}; renumber the labels of one of them, "
                "or pass class_names= if the numbers mean the same."
            )
    return next(iter(named.values()), None)


def row_values(parts: Sequence[Part], field: str) -> np.ndarray | None:
    """(n,) the values of all rows that a field names; None where it is not set."""
    if not any(field in part.columns for part in parts):
        return None
    return np.concatenate([np.asarray(part.columns[field]) for part in parts])


def concatenated(arrays: Sequence[Any]) -> np.ndarray | lazy_array.LazyArray:
    """The examples of several files one after another."""
    if len(arrays) == 1:
        return arrays[0]
    if all(isinstance(array, SparseRows) for array in arrays):
        return sparse_rows.concatenated(arrays, "Arrays.path")
    if any(lazy_array.is_lazy(array) for array in arrays):
        raise UserError(
            "Arrays: several files can't be joined where one stays on disk; "
            "raise memory_limit or join them into one .npy."
        )
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) > 1:
        raise UserError(f"Arrays: the files' examples differ in shape: {shapes}.")
    types = {str(array.dtype): array for array in arrays}
    if len(types) > 1 and "uint8" in types and arrays[0].ndim > 2:
        ranges = (f"{k} from {a.min():g} to {a.max():g}" for k, a in types.items())
        raise UserError(
            f"Arrays: the images of the files or splits differ in type: "
            f"{', '.join(ranges)}; one scale can't divide both: bring them to one type "
            "and range."
        )
    return np.concatenate(arrays)
