"""Carving: which rows are test, validation, labelled and unlabelled, and label noise.

Every class's rows are put into one random order, by the split's seed; test takes the
first of each, then validation. What is left is shuffled by the run's seed, and the
labels are the first of that. So test and validation do not depend on how many labels
there are (nor on the run's seed, where split_seed is given), and fewer labels are a
subset of more.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import pathlib

import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.data import lazy_array

# Separate random streams of one seed; the numbers only have to differ.
_ORDER, _NOISY_ROWS, _NOISY_LABELS, _LABELLED = 1, 2, 3, 4


@functools.lru_cache(maxsize=1024)
def apportion(counts: tuple[int, ...], total: int) -> tuple[int, ...]:
    """Divides `total` places among classes in proportion to their counts.

    The quota method: within one place of the exact share, and monotone: a larger total
    never takes a place from a class, so the rows it gives are nested.

    Args:
      counts: examples per class.
      total: places, at most sum(counts).

    Returns:
      Places per class, summing to `total`.

    References:
      Balinski & Young, The Quota Method of Apportionment, Am. Math. Monthly 82 (1975).
    """
    have = np.asarray(counts, np.int64)
    everything, seats = int(have.sum()), np.zeros(len(counts), np.int64)
    for place in range(1, total + 1):
        below_quota = seats * everything < place * have
        claim = np.where(below_quota, have / (seats + 1), -1.0)
        seats[np.argmax(claim)] += 1
    return tuple(seats.tolist())


def make_splits(data, table, seed: int) -> dict[str, np.ndarray]:
    """Returns int32 rows of "train", "val", "test" and, if not empty, "unlabelled".

    Args:
      data: the options (`Data`); `data.split_seed` decides test and validation.
      table: checked; its own splits are used where it brings them.
      seed: decides which train rows keep their labels, and the rest where split_seed
        is None.

    Raises:
      UserError: a split that would be empty or larger than what there is, or fewer
        examples than labels_per_class in a class.
    """
    if seed < 0:
        raise UserError(f"the split seed must not be negative; got {seed}.")
    given = table.splits
    for name, rows in given.items():
        if len(rows) == 0:
            raise UserError(f"the data's own {name} split is empty.")
    split_seed = seed if data.split_seed is None else data.split_seed
    queues = _queues(table, _pool(table), split_seed)
    out, available = {}, sum(map(len, queues))
    if data.limit is not None and data.limit < available:
        queues, _ = _take(queues, data.limit)
    for name in ("test", "val"):
        if name in given:
            out[name] = np.sort(given[name])
        if name in given or getattr(data, name) == 0:
            continue
        size = _size(name, getattr(data, name), sum(map(len, queues)))
        taken, queues = _take(queues, size)
        out[name] = _rows(taken)
    draw = np.random.default_rng([seed, _LABELLED])
    queues = [draw.permutation(queue) for queue in queues]
    labelled, rest = _labelled(data, table, queues)
    out["train"] = _rows(labelled)
    if sum(map(len, rest)):
        out["unlabelled"] = _rows(rest)
    return out


def _pool(table) -> np.ndarray:
    """Rows to carve from: the data's train rows, or whatever no split claims."""
    if "train" in table.splits:
        return table.splits["train"]
    free = np.ones(len(table.y), bool)
    for rows in table.splits.values():
        free[rows] = False
    return np.flatnonzero(free)


def _queues(table, pool, seed) -> list[np.ndarray]:
    """The pool in random order, one queue per class (one in all for other tasks)."""
    rows = np.random.default_rng([seed, _ORDER]).permutation(np.sort(pool))
    if table.task != "classification":
        return [rows]
    labels = table.y[rows]
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(1, len(table.class_names)))
    return np.split(rows[order], bounds)


def _take(queues, size) -> tuple[list, list]:
    """Splits the queues in the first `size` rows, stratified, and the rest."""
    seats = apportion(tuple(map(len, queues)), size)
    first = [queue[:k] for queue, k in zip(queues, seats)]
    return first, [queue[k:] for queue, k in zip(queues, seats)]


def _rows(queues) -> np.ndarray:
    return np.sort(np.concatenate(queues)).astype(np.int32)


def _size(name, share, available) -> int:
    """Rows of a split, from a count or a fraction of what is left."""
    whole = isinstance(share, (int, np.integer))
    size = share if whole else round(share * available)
    if size < 1:
        raise UserError(
            f"data.{name}={share} of {available} train examples leaves an empty {name} "
            "split; give a larger fraction or a count of at least 1."
        )
    if size >= available:
        raise UserError(
            f"data.{name}={share} asks for {size} of {available} train examples, "
            "which leaves none to train on."
        )
    return int(size)


def _labelled(data, table, queues) -> tuple[list, list]:
    """Splits the train queues in those that keep their labels and those that lose."""
    left = sum(map(len, queues))
    if data.labels_per_class is not None:
        per_class = data.labels_per_class
        if table.task != "classification":
            raise UserError(
                f"data.labels_per_class needs classes, and this is {table.task}; "
                "labels= counts labels in all."
            )
        short = [
            f"{name!r} has {len(queue)}"
            for name, queue in zip(table.class_names, queues)
            if len(queue) < per_class
        ]
        if short:
            raise UserError(
                f"data.labels_per_class={per_class} is more than the train examples "
                f"left after test and val: {', '.join(short[:10])}."
            )
        first = [queue[:per_class] for queue in queues]
        return first, [queue[per_class:] for queue in queues]
    if data.labels is None:
        return queues, [queue[:0] for queue in queues]
    if data.labels > left:
        raise UserError(
            f"data.labels={data.labels} is more than the {left} train examples "
            "left after test and val."
        )
    return _take(queues, data.labels)


def add_label_noise(table, train: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Returns y with round(fraction·n) of the n train labels replaced.

    The new label is uniform over the other classes; which one a row would get depends
    on (seed, row) alone. Symmetric noise of rate `fraction`.

    Raises:
      UserError: fraction > 0 where there is no class to change to.
    """
    if not fraction:
        return table.y
    count = len(table.class_names)
    if table.task != "classification" or count < 2:
        raise UserError(
            f"data.label_noise={fraction} needs at least two classes; "
            f"this is {table.task} with {count}."
        )
    lot = np.random.default_rng([seed, _NOISY_ROWS]).random(len(table.y))
    shift = np.random.default_rng([seed, _NOISY_LABELS]).integers(
        1, count, len(table.y), dtype=np.int32
    )
    hit = train[np.argsort(lot[train])[: round(fraction * len(train))]]
    y = table.y.copy()
    y[hit] = (y[hit] + shift[hit]) % count
    return y


def keep_classes(table, classes: tuple):
    """Keeps the examples of some classes and relabels them 0..K-1 in that order.

    Args:
      table: a classification `Table`.
      classes: names, or integer labels as the data give them.

    Raises:
      UserError: a class that does not exist, or one without examples.
    """
    if table.task != "classification":
        raise UserError(f"data.classes needs classification; this is {table.task}.")
    labels = [_label(c, table.class_names) for c in classes]
    if len(set(labels)) < len(labels):
        raise UserError(f"data.classes names a class twice: {classes}.")
    new = np.full(len(table.class_names), -1, np.int32)
    new[labels] = np.arange(len(labels))
    keep = np.flatnonzero(new[table.y] >= 0)
    if len(keep) == 0:
        raise UserError(f"there are no examples of data.classes={classes}.")
    place = np.full(len(table.y), -1, np.int32)
    place[keep] = np.arange(len(keep))
    rows = {name: place[r][place[r] >= 0] for name, r in table.splits.items()}
    return dataclasses.replace(
        table,
        x=lazy_array.select(table.x, keep),
        y=new[table.y[keep]],
        class_names=tuple(table.class_names[label] for label in labels),
        splits=rows,
    )


def _label(wanted, names) -> int:
    if isinstance(wanted, (int, np.integer)) and 0 <= wanted < len(names):
        return int(wanted)
    if str(wanted) in names:
        return names.index(str(wanted))
    raise UserError(
        f"data.classes: there is no class {wanted!r}{nearest(wanted, names)}; "
        f"the classes are {', '.join(names[:20])}{', …' if len(names) > 20 else ''}."
    )


def fingerprint(table) -> str:
    """Short hash of shapes, dtypes, labels, class names and a sample of the values."""
    digest = hashlib.sha256()
    parts = table.x if isinstance(table.x, dict) else {"x": table.x}
    rows = np.unique(np.linspace(0, len(table.y) - 1, 32).astype(np.int64))
    for name, values in sorted(parts.items()):
        digest.update(f"{name}{tuple(values.shape)}{np.dtype(values.dtype)}".encode())
        digest.update(np.ascontiguousarray(values[rows]).tobytes())
    digest.update(np.ascontiguousarray(table.y).tobytes())
    digest.update("\0".join(table.class_names).encode())
    return digest.hexdigest()[:16]


def save_splits(path: str | os.PathLike, dataset) -> None:
    """Writes the rows, the train labels (noise and all) and the fingerprint (.npz)."""
    path = pathlib.Path(path)
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        np.savez_compressed(
            file,
            fingerprint=dataset.fingerprint,
            y_train=dataset.y[dataset.rows["train"]],
            **{f"rows_{name}": rows for name, rows in dataset.rows.items()},
        )
    os.replace(part, path)


def load_splits(path: str | os.PathLike, dataset):
    """Returns the dataset with the rows and train labels that `save_splits` wrote.

    Raises:
      UserError: no such file, or splits of other data.
    """
    if not os.path.exists(path):
        raise UserError(f"there is no splits file {str(path)!r}.")
    with np.load(path, allow_pickle=False) as file:
        saved = {name: file[name] for name in file.files}
    if str(saved["fingerprint"]) != dataset.fingerprint:
        raise UserError(
            f"{path} holds splits of other data: its fingerprint is "
            f"{saved['fingerprint']}, that of {dataset.name} is {dataset.fingerprint}."
        )
    rows = {k[5:]: v for k, v in saved.items() if k.startswith("rows_")}
    y = dataset.y_clean.copy()
    y[rows["train"]] = saved["y_train"]
    return dataclasses.replace(dataset, rows=rows, y=y)
