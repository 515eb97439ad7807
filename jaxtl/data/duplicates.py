"""Examples of held-out splits whose inputs are those of a train example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxtl.data import lazy_array

_CHUNK = 4096  # rows that are copied at once
_TRAIN = ("train", "unlabelled")


def count_shared(x: Any, rows: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Counts the examples of each held-out split whose inputs occur in train.

    Args:
      x: array (n, …), or a dict of them; those on disk are not read for this.
      rows: split -> row numbers; rows of "unlabelled" count as train rows.

    Returns:
      {split: count} of the splits that have any; {} where a part of x is on disk.
    """
    parts = list(x.values()) if isinstance(x, dict) else [x]
    if any(lazy_array.is_lazy(part) or part.dtype.hasobject for part in parts):
        return {}
    train = {
        digest
        for split in _TRAIN
        if split in rows
        for digest in _digests(parts, rows[split])
    }
    counts = {
        split: sum(digest in train for digest in _digests(parts, numbers))
        for split, numbers in rows.items()
        if split not in _TRAIN
    }
    return {split: count for split, count in counts.items() if count}


def _digests(parts: list[np.ndarray], rows: np.ndarray) -> Iterator[int]:
    """64-bit hashes of the bytes of some rows, one of each row over all parts."""
    for start in range(0, len(rows), _CHUNK):
        numbers = rows[start : start + _CHUNK]
        chunks = [np.ascontiguousarray(part[numbers]) for part in parts]
        for i in range(len(numbers)):
            yield hash(b"".join(chunk[i].tobytes() for chunk in chunks))
