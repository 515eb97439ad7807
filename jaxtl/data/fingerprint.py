"""The fingerprint of a data set: a hash of all its examples, labels and class names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxtl.core import files, progress
from jaxtl.data import framing, lazy_array
from jaxtl.data.dataset import Data, Table
from jaxtl.data.tokenizer import as_tokenizer

_BLOCK = 2**26  # bytes that are read and hashed at once
_SAMPLED_LENGTH = 16  # hex digits of the fingerprints that `sampled` computes


def fingerprint(table: Table, data: Data) -> str:
    """Hashes every value of x and y, the names of classes and columns, and a tokenizer.

    Where the table holds digests of the files of x, these are hashed in place of the
    values, so that pictures that stay on disk need not be decoded. The cost is one
    pass over the data, about 1 GB per second, once per process and table.

    Args:
      table: checked, in the size and classes of its options.
      data: its source.
    """
    sha = hashlib.sha256()
    for name, values in _parts(table.x):
        sha.update(f"{name}{tuple(values.shape)}{np.dtype(values.dtype)}".encode())
        if table.digests is None:
            _hash_rows(sha, values)
    if table.digests is not None:
        sha.update(f"{framing.shortest_of(table, data)}".encode())
        sha.update((data.resample or "").encode())
        sha.update(np.ascontiguousarray(table.digests))
    sha.update(f"{table.y.shape}{table.y.dtype}".encode())
    sha.update(np.ascontiguousarray(table.y))
    for values in (table.groups, table.weights):
        if values is not None:
            sha.update(f"{list(values)}".encode())
    for names in (table.class_names, table.target_names, table.feature_names):
        sha.update(f"{list(names)}".encode())
    pre = table.preprocess
    if pre is not None and (pre.offset or pre.target_offset):
        sha.update(f"{pre.offset}{pre.target_offset}".encode())
    for path in tokenizer_files(data):
        sha.update(files.digest(path).encode())
    return sha.hexdigest()[:32]


def tokenizer_files(data: Data) -> tuple[Any, ...]:
    """Files of the tokenizer of a source of texts; () for other sources."""
    tokenizer = getattr(data, "tokenizer", None)
    return () if tokenizer is None else as_tokenizer(tokenizer).files()


def is_sampled(value: str) -> bool:
    """Whether a stored fingerprint is one of `sampled`."""
    return len(value) == _SAMPLED_LENGTH


def sampled(x: Any, y: np.ndarray, class_names: Iterable[str]) -> str:
    """The fingerprint that earlier runs stored: of 32 rows of x, and of all y.

    Args:
      x, y: of the table.
      class_names: in label order.
    """
    sha = hashlib.sha256()
    rows = np.unique(np.linspace(0, len(y) - 1, 32).astype(np.int64))
    for name, values in _parts(x):
        sha.update(f"{name}{tuple(values.shape)}{np.dtype(values.dtype)}".encode())
        sha.update(np.ascontiguousarray(values[rows]).tobytes())
    sha.update(np.ascontiguousarray(y).tobytes())
    sha.update("\0".join(class_names).encode())
    return sha.hexdigest()[:_SAMPLED_LENGTH]


def _parts(x: Any) -> list[tuple[str, Any]]:
    return sorted((x if isinstance(x, dict) else {"x": x}).items())


def _hash_rows(sha: Any, values: np.ndarray | lazy_array.LazyArray) -> None:
    """Adds the values of an array, in memory or not, to a hash, in blocks of rows."""
    row_bytes = int(np.prod(values.shape[1:])) * np.dtype(values.dtype).itemsize
    rows = max(1, _BLOCK // max(1, row_bytes))
    starts = range(0, len(values), rows)
    for start in progress.track(starts, "hashing the data, in blocks"):
        block = np.ascontiguousarray(values[start : start + rows])
        sha.update(block.astype(str) if block.dtype.hasobject else block)
