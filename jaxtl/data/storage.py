"""Numbers in 32 bits without losing what tells them apart.

Models compute in float32, whose 24 bits can't tell 1.7e9 from 1.7e9 + 59: Unix seconds
over a minute are one number. Such columns are stored as float32(x − offset), with the
difference taken in higher precision and the offset kept in the preprocessing, whose
mean and standard deviation stay in the units of the data.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.data import lazy_array
from jaxtl.data.dataset import Table

# Largest error of rounding to float32, in standard deviations of the column.
_TOLERANCE = 1e-5
_EXACT_INTEGERS = 2**24  # float32 holds all integers up to this
# Smallest standard deviation whose square root and ratios stay normal in float32.
_SMALLEST = 1e-36


def in_32_bits(table: Table, name: str) -> Table:
    """Brings x and regression targets to types of at most 32 bits.

    Args:
      table: checked, with a preprocessing.
      name: of the source, for messages.

    Returns:
      The table, with `preprocess.offset` and `preprocess.target_offset` where numbers
      would lose their differences. Columns of features with an offset are standardized.

    Raises:
      UserError: values beyond the range of float32, or values of images that differ by
        too little.
    """
    table = _features(table, name) if not isinstance(table.x, dict) else table
    if table.task != "regression":
        return table
    y, offset = _split(table.y, f"{name}: y", "target")
    if offset is None:
        return dataclasses.replace(table, y=y)
    pre = dataclasses.replace(table.preprocess, target_offset=offset)
    note = "targets are trained on as differences from " + ", ".join(
        f"{v:.10g}" for v in offset
    )
    return dataclasses.replace(table, y=y, preprocess=pre, notes=(*table.notes, note))


def _features(table: Table, name: str) -> Table:
    x = table.x
    if lazy_array.is_lazy(x) or not _may_lose(x, table.standardize is not None):
        return table
    if x.ndim != 2:
        return dataclasses.replace(table, x=_whole(x, f"{name}: x"))
    is_hole = np.isnan(x) if x.dtype.kind == "f" else np.zeros(1, bool)
    if is_hole.any():  # a value of the column in their place changes no decision
        first = np.take_along_axis(x, np.argmin(is_hole, axis=0)[None], axis=0)
        x = np.where(is_hole, first, x)
    stored, offset = _split(x, f"{name}: x", "column")
    if is_hole.any():
        stored[is_hole] = np.nan
    if offset is None:
        is_kept = table.standardize is None and x.dtype.kind == "f"
        return table if is_kept else dataclasses.replace(table, x=stored)
    shifted = np.asarray(offset) != 0
    columns = table.standardize
    notes = [*table.notes]
    if columns is None or (shifted & ~columns).any():
        columns = shifted | (np.zeros(x.shape[1], bool) if columns is None else columns)
        numbers = ", ".join(map(str, np.flatnonzero(shifted)[:10]))
        notes.append(
            f"columns {numbers} of x are standardized, since their differences are "
            "lost in 32 bits"
        )
    return dataclasses.replace(
        table,
        x=stored,
        standardize=columns,
        preprocess=dataclasses.replace(table.preprocess, offset=offset),
        notes=tuple(notes),
    )


def _may_lose(x: np.ndarray, is_table: bool) -> bool:
    """Whether x is of a type that float32 may not hold."""
    if x.dtype.kind == "f":
        return x.dtype.itemsize > 4 and (is_table or x.ndim == 2 or _is_large(x))
    is_wide = x.dtype.kind in "iu" and x.dtype.itemsize >= 4
    return is_wide and x.size > 0 and _is_large(x)


def _is_large(x: np.ndarray) -> bool:
    return max(abs(float(x.min())), abs(float(x.max()))) > _EXACT_INTEGERS


def _split(
    x: np.ndarray, where: str, kind: str
) -> tuple[np.ndarray, tuple[float, ...] | None]:
    """(float32 of x − offset, offset per column), None where no column needs one."""
    columns = x[:, None] if x.ndim == 1 else x
    with np.errstate(over="ignore", invalid="ignore"):
        stored = columns.astype(np.float32)
        spread = _TOLERANCE * columns.std(0, dtype=np.float64)
        bounds = np.stack([columns.min(0), columns.max(0)]).astype(np.float64)
        largest = np.abs(bounds).max(0)
        is_safe = (largest * 2.0**-24 <= spread) & (spread > _SMALLEST)
        is_safe &= np.isfinite(stored).all(0)
    offset = np.zeros(columns.shape[1])
    for i in np.flatnonzero(~is_safe):
        stored[:, i], offset[i] = _split_column(columns[:, i], f"{where}: {kind} {i}")
    return stored.reshape(x.shape), tuple(offset.tolist()) if offset.any() else None


def _split_column(x: np.ndarray, where: str) -> tuple[np.ndarray, float]:
    """(float32 of x − offset, offset) of one column; 0 where it needs none."""
    exact = np.asarray(x, np.longdouble)  # holds 64-bit integers on most machines
    low, high, std = exact.min(), exact.max(), exact.std()
    with np.errstate(over="ignore"):
        stored = exact.astype(np.float32)
        if low < high and not np.abs(stored - exact).max() <= _TOLERANCE * std:
            offset = float(np.rint(exact.mean()) if std > 1 else exact.mean())
            stored = (exact - offset).astype(np.float32)
        else:
            offset = 0.0
    if not np.isfinite(stored).all() or (low < high and std < _SMALLEST):
        raise UserError(
            f"{where} has values from {low:.6g} to {high:.6g}, which 32 bits can't "
            "hold or tell apart; multiply it by a constant."
        )
    return stored, offset


def _whole(x: np.ndarray, where: str) -> np.ndarray:
    """float32 of an array whose entries share one meaning, such as pixels."""
    with np.errstate(over="ignore"):
        stored = x.astype(np.float32)
    exact = x.astype(np.float64)
    error, std = np.abs(stored - exact).max(), exact.std()
    if not np.isfinite(stored).all() or (std > 0 and not error <= _TOLERANCE * std):
        raise UserError(
            f"{where} has values from {exact.min():.6g} to {exact.max():.6g}, which 32 "
            "bits can't tell apart; subtract an offset before they are read."
        )
    return stored
