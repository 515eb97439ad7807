"""Splits of a table's rows: test, validation, labelled, unlabelled; and label noise.

The rows of every class are put into one random order, by the split's seed; test takes
the first of each, then validation. The remaining rows are shuffled by the run's seed,
and the first of those keep their labels. So test and validation do not depend on the
number of labels (nor on the run's seed, where split_seed is given), and the rows that
keep few labels are a subset of those that keep more.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxtl.core import atomic, files, numpy_files
from jaxtl.core.errors import DataChanged, UserError
from jaxtl.data import class_splits, fingerprint, grouped_splits
from jaxtl.data.dataset import Data, Dataset, Table
from jaxtl.data.episodic import Episodes

# Separate random streams of one seed; the numbers only have to differ.
_ORDER, _NOISY_ROWS, _NOISY_LABELS, _LABELLED = 1, 2, 3, 4


@functools.lru_cache(maxsize=1024)
def apportion(counts: tuple[int, ...], total: int) -> tuple[int, ...]:
    """Divides `total` seats among classes in proportion to their counts.

    The quota method: within one seat of the exact share, and monotone: a larger total
    never takes a seat from a class, so the row sets it gives are nested.

    Args:
      counts: examples per class.
      total: seats, at most sum(counts).

    Returns:
      Seats per class, summing to `total`.

    References:
      Balinski & Young, The Quota Method of Apportionment, Am. Math. Monthly 82 (1975).
    """
    sizes = np.asarray(counts, np.int64)
    size, seats = int(sizes.sum()), np.zeros(len(counts), np.int64)
    for number in range(1, total + 1):
        below_quota = seats * size < number * sizes
        claim = np.where(below_quota, sizes / (seats + 1), -1.0)
        seats[np.argmax(claim)] += 1
    return tuple(seats.tolist())


def consecutive(
    lengths: Mapping[str, int], read: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Rows of splits whose examples lie one split after another.

    Args:
      lengths: split -> its number of examples, in order.
      read: numbers of the examples that became rows, rising; None for all.
    """
    ends = np.cumsum([*lengths.values()])
    part = np.searchsorted(ends, np.arange(ends[-1]) if read is None else read, "right")
    return {name: np.flatnonzero(part == i) for i, name in enumerate(lengths)}


def make_splits(data: Data, table: Table, seed: int) -> dict[str, np.ndarray]:
    """Draws the rows of all splits.

    Args:
      data: the options; `data.split_seed` decides test and validation.
      table: checked; its own splits are used where it has them.
      seed: decides which train rows keep their labels, and also test and validation
        where split_seed is None.

    Returns:
      Sorted int32 rows of "train", "val", "test" and, if not empty, "unlabelled".
      "train" is empty where the data have held-out splits alone, or test=1.0.

    Raises:
      UserError: a split that would be empty or larger than the rows there are, or fewer
        examples than labels_per_class in a class.
    """
    if seed < 0:
        raise UserError(f"the split seed must not be negative; got {seed}.")
    for name, rows in table.splits.items():
        if len(rows) == 0:
            raise UserError(f"the data's own {name} split is empty.")
    if table.groups is not None and table.splits:
        free = {"train": _pool(table)} | dict(table.splits)
        grouped_splits.check_own_splits(data, table.groups, free)
    split_seed = seed if data.split_seed is None else data.split_seed
    if isinstance(data.sampling, Episodes):
        return class_splits.make_splits(data, data.sampling, table, split_seed)
    rows_by_class = _shuffled_by_class(table, _pool(table), split_seed)
    if data.limit is not None and data.limit < _count(rows_by_class):
        rows_by_class, _ = _take(rows_by_class, data.limit)
    splits = {}
    for name in ("test", "val"):
        share = getattr(data, name)
        if name in table.splits:
            splits[name] = np.sort(table.splits[name])
        elif share != 0 and _count(rows_by_class):
            size = _size(name, share, _count(rows_by_class))
            if table.groups is None or size == _count(rows_by_class):
                held_out, rows_by_class = _take(rows_by_class, size)
            else:
                held_out, rows_by_class = _take_groups(
                    data, table.groups, rows_by_class, size, [split_seed, len(splits)]
                )
            splits[name] = _sorted_rows(held_out)
    rng = np.random.default_rng([seed, _LABELLED])
    rows_by_class = [rng.permutation(rows) for rows in rows_by_class]
    labelled, unlabelled = _label_split(data, table, rows_by_class)
    splits["train"] = _sorted_rows(labelled)
    if _count(unlabelled):
        splits["unlabelled"] = _sorted_rows(unlabelled)
    return splits


def _pool(table: Table) -> np.ndarray:
    """Rows to draw splits from: the data's train rows, or those in no other split."""
    if "train" in table.splits:
        return table.splits["train"]
    free = np.ones(len(table.y), bool)
    for rows in table.splits.values():
        free[rows] = False
    return np.flatnonzero(free)


def _shuffled_by_class(table: Table, pool: np.ndarray, seed: int) -> list[np.ndarray]:
    """The pool in random order, one array per class (one in all for other tasks)."""
    rows = np.random.default_rng([seed, _ORDER]).permutation(np.sort(pool))
    if table.task != "classification":
        return [rows]
    labels = table.y[rows]
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(1, len(table.class_names)))
    return np.split(rows[order], bounds)


def _take(
    rows_by_class: list[np.ndarray], size: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The first `size` rows, stratified, and the remaining ones, each by class."""
    seats = apportion(tuple(map(len, rows_by_class)), size)
    first = [rows[:k] for rows, k in zip(rows_by_class, seats)]
    return first, [rows[k:] for rows, k in zip(rows_by_class, seats)]


def _take_groups(
    data: Data,
    groups: np.ndarray,
    rows_by_class: list[np.ndarray],
    size: int,
    seed: list[int],
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """About `size` rows of whole groups, stratified, and the remaining ones."""
    rows = np.concatenate(rows_by_class)
    labels = np.repeat(np.arange(len(rows_by_class)), list(map(len, rows_by_class)))
    if len(np.unique(groups[rows])) < 2:
        raise UserError(
            f"data.split_by={data.split_by!r}: only one group is left to split, "
            f"{str(groups[rows[0]])!r}; a split needs two."
        )
    chosen = grouped_splits.held_out_groups(
        groups[rows], labels, size / len(rows), seed
    )
    is_chosen = [np.isin(groups[part], chosen) for part in rows_by_class]
    return (
        [part[mask] for part, mask in zip(rows_by_class, is_chosen)],
        [part[~mask] for part, mask in zip(rows_by_class, is_chosen)],
    )


def _count(rows_by_class: list[np.ndarray]) -> int:
    return sum(map(len, rows_by_class))


def _sorted_rows(rows_by_class: list[np.ndarray]) -> np.ndarray:
    return np.sort(np.concatenate(rows_by_class)).astype(np.int32)


def _size(name: str, share: float, available: int) -> int:
    """Rows of a split, from a count or a fraction of the available ones."""
    is_count = isinstance(share, (int, np.integer))
    if not is_count and share == 1:
        return available
    size = share if is_count else round(share * available)
    if size < 1:
        raise UserError(
            f"data.{name}={share} of {available} train examples leaves an empty {name} "
            "split; give a larger fraction or a count of at least 1."
        )
    if size >= available:
        raise UserError(
            f"data.{name}={share} asks for {size} of {available} train examples, "
            f"which leaves none to train on; {name}=1.0 takes all of them, for "
            "evaluation only."
        )
    return int(size)


def _label_split(
    data: Data, table: Table, rows_by_class: list[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The train rows that keep their labels and those that lose them, by class."""
    if data.labels_per_class is not None:
        return _labels_per_class(data.labels_per_class, table, rows_by_class)
    if data.labels is None:
        return rows_by_class, [rows[:0] for rows in rows_by_class]
    available = _count(rows_by_class)
    if data.labels > available:
        raise UserError(
            f"data.labels={data.labels} is more than the {available} train examples "
            "left after test and val."
        )
    return _take(rows_by_class, data.labels)


def _labels_per_class(
    count: int, table: Table, rows_by_class: list[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    if table.task != "classification":
        raise UserError(
            f"data.labels_per_class needs classes, but the task is {table.task}; "
            "labels= counts labels in all."
        )
    short = [
        f"{name!r} has {len(rows)}"
        for name, rows in zip(table.class_names, rows_by_class)
        if len(rows) < count
    ]
    if short:
        raise UserError(
            f"data.labels_per_class={count} is more than the train examples left after "
            f"test and val: {', '.join(short[:10])}."
        )
    first = [rows[:count] for rows in rows_by_class]
    return first, [rows[count:] for rows in rows_by_class]


def add_label_noise(
    table: Table, train: np.ndarray, fraction: float, seed: int
) -> np.ndarray:
    """Replaces round(fraction·n) of the n train labels by other classes.

    Symmetric noise of rate `fraction`: the new label is uniform over the other classes.
    The label that a row would get depends on (seed, row) alone.

    Args:
      table: gives all labels.
      train: (n,) the train rows.
      fraction: of the train labels, 0 to 1.
      seed: of the rows and of their new labels.

    Returns:
      All labels, those of other rows unchanged.

    Raises:
      UserError: fraction > 0 where there is no other class.
    """
    if not fraction:
        return table.y
    classes = len(table.class_names)
    if table.task != "classification" or classes < 2:
        raise UserError(
            f"data.label_noise={fraction} needs at least two classes; "
            f"the task is {table.task} with {classes}."
        )
    rank = np.random.default_rng([seed, _NOISY_ROWS]).random(len(table.y))
    shift = np.random.default_rng([seed, _NOISY_LABELS]).integers(
        1, classes, len(table.y), dtype=np.int32
    )
    noisy = train[np.argsort(rank[train])[: round(fraction * len(train))]]
    y = table.y.copy()
    y[noisy] = (y[noisy] + shift[noisy]) % classes
    return y


def save_splits(path: str | os.PathLike, dataset: Dataset) -> None:
    """Writes what the data of a stored run are compared with when read again (.npz).

    These are the rows of every split, the train labels (with noise), the fingerprint,
    and for messages the number of examples and the files that they were read from.
    """
    summaries = [
        _FileSummary(str(file), *files.summary(file)) for file in dataset.files
    ]
    with atomic.file(path) as draft:
        np.savez_compressed(
            draft,
            fingerprint=dataset.fingerprint,
            y_train=dataset.y[dataset.rows["train"]],
            examples=dataset.examples,
            files=json.dumps(summaries),
            **{f"rows_{name}": rows for name, rows in dataset.example_rows.items()},
        )


def load_splits(path: str | os.PathLike, dataset: Dataset) -> Dataset:
    """Gives a data set the rows and train labels that `save_splits` wrote.

    Raises:
      UserError: no such file.
      DataChanged: the splits are those of other data.
    """
    if not os.path.exists(path):
        raise UserError(f"there is no splits file {str(path)!r}.")
    saved = numpy_files.read_npz(path)
    if "fingerprint" not in saved or "y_train" not in saved:
        raise UserError(f"{os.fspath(path)} is damaged: it holds no splits.")
    stored, current = str(saved["fingerprint"]), dataset.fingerprint
    if fingerprint.is_sampled(stored):
        current = fingerprint.sampled(dataset.x, dataset.y_clean, dataset.class_names)
    if stored != current:
        raise DataChanged(_changes(pathlib.Path(path), saved, dataset))
    rows = {k[5:]: v for k, v in saved.items() if k.startswith("rows_")}
    y = dataset.y_clean
    if dataset.task == "classification":  # no other labels are ever noisy
        y = y.copy()
        y[rows["train"]] = saved["y_train"]
    return dataclasses.replace(dataset, rows=rows, y=y)


class _FileSummary(NamedTuple):
    """A file or folder that a data set was read from, and what `files.summary` says."""

    path: str
    count: int
    size: int
    modified_ns: int


def _changes(path: pathlib.Path, saved: dict[str, np.ndarray], data: Dataset) -> str:
    """The message for data that are not those of a splits file: what differs, and how.

    Args:
      path: of the splits file, in its run's directory.
      saved: its content.
      data: the data set as it was read now.
    """
    stored = [_FileSummary(*s) for s in json.loads(str(saved.get("files", "[]")))]
    current = {str(file): files.summary(file) for file in data.files}
    changed = [s.path for s in stored if current.get(s.path) != tuple(s[1:])]
    what = ", ".join(changed or current) or data.name
    now = f"{len(data.y):,}"
    then = f"{int(saved['examples']):,}" if "examples" in saved else None
    if then is None:
        rows = f"has {now} rows whose fingerprint is not the one that was stored"
    elif then == now:
        rows = f"has {now} rows as before, but not the same ones"
    else:
        rows = f"had {then} rows when the run began and has {now} now"
    return (
        f"{path} holds splits of other data: {what} {rows}; rows that were trained on "
        "could be counted as unseen. Restore the data, or begin a new run on them as "
        f"they are: init=tl.pretrained.FromRun({str(path.parent)!r}) takes these "
        "weights, and steps=0 only evaluates them."
    )
