"""Sparse matrices as examples: their rows become dense when a batch is read."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from jaxtl.core.errors import UserError, first_line
from jaxtl.data.lazy_array import LazyArray

# Entries of a `.npz` that scipy.sparse.save_npz writes, whatever the format.
_ENTRIES = {"format", "shape", "data"}
# Largest error of rounding to float32, in standard deviations of the column.
_TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True, eq=False)
class SparseRows(LazyArray):
    """The rows of a sparse matrix, dense float32 where they are indexed.

    Attributes:
      matrix: scipy's `csr_array` (n, features) of float32, in canonical form.
    """

    matrix: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.matrix.shape)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    def rows(self, index: np.ndarray) -> np.ndarray:
        return self.matrix[index].toarray()

    def digests(self) -> np.ndarray:
        """SHA-256 of each row's values and columns, (n,) bytes of hex digits.

        Rows are equal exactly where their dense forms are.
        """
        matrix = self.matrix
        width = str(matrix.shape[1]).encode()
        columns = matrix.indices.astype(np.int64)
        bounds = matrix.indptr.tolist()
        return np.asarray(
            [
                hashlib.sha256(
                    width + columns[a:b].tobytes() + matrix.data[a:b].tobytes()
                ).hexdigest()
                for a, b in itertools.pairwise(bounds)
            ],
            "S64",
        )


def is_sparse(value: Any) -> bool:
    """Whether a value is a matrix of scipy.sparse, without importing it."""
    return type(value).__module__.startswith("scipy.sparse")


def is_sparse_file(entries: Collection[str]) -> bool:
    """Whether the entries of a `.npz` are those of scipy.sparse.save_npz."""
    return set(entries) >= _ENTRIES


def read_npz(path: pathlib.Path) -> Any:
    """The matrix of a file that scipy.sparse.save_npz wrote.

    Raises:
      UserError: the file is damaged.
    """
    import scipy.sparse

    try:
        return scipy.sparse.load_npz(path)
    except (OSError, ValueError, KeyError, AttributeError, NotImplementedError) as e:
        raise UserError(
            f"{path} holds no readable sparse matrix: {first_line(e)}."
        ) from None


def as_rows(matrix: Any, where: str) -> SparseRows:
    """A sparse matrix of any format as examples; zeros that it stores are dropped.

    Args:
      matrix: (n, features) of real numbers.
      where: what named it, for messages.

    Raises:
      UserError: another shape or kind of numbers, NaN or infinite values, or a column
        whose values 32 bits can't tell apart.
    """
    import scipy.sparse

    if matrix.ndim != 2 or matrix.dtype.kind not in "biuf":
        raise UserError(
            f"{where} is a sparse matrix of {matrix.dtype} of the shape "
            f"{tuple(matrix.shape)}; expected numbers of the shape (n, features)."
        )
    csr = scipy.sparse.csr_array(matrix, copy=True)
    csr.sum_duplicates()
    csr.eliminate_zeros()
    values = csr.data
    is_bad = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(1, bool)
    if is_bad.any():
        row = int(np.searchsorted(csr.indptr, np.argmax(is_bad), side="right")) - 1
        raise UserError(
            f"{where} has {int(is_bad.sum())} NaN or infinite values, the first in row "
            f"{row}."
        )
    _check_32_bits(csr, where)
    return SparseRows(csr.astype(np.float32))


def _check_32_bits(csr: Any, where: str) -> None:
    """Raises UserError for values that float32 can't hold or tell apart.

    Only columns without a zero can lose their differences: others spread from zero.
    """
    with np.errstate(over="ignore"):
        stored = csr.data.astype(np.float32)
    if not np.isfinite(stored).all():
        column = int(csr.indices[np.argmin(np.isfinite(stored))])
        raise UserError(
            f"{where}: column {column} has values beyond the range of 32 bits; "
            "multiply it by a constant."
        )
    counts = np.bincount(csr.indices, minlength=csr.shape[1])
    full = np.flatnonzero(counts == csr.shape[0])
    by_column = csr.tocsc() if len(full) else csr
    for column in full:
        start, end = by_column.indptr[column : column + 2]
        values = by_column.data[start:end].astype(np.float64)
        error = np.abs(values.astype(np.float32) - values).max()
        if error > _TOLERANCE * values.std() and values.min() < values.max():
            raise UserError(
                f"{where}: column {column} has values from {values.min():.10g} to "
                f"{values.max():.10g}, which 32 bits can't tell apart; subtract an "
                "offset from it."
            )


def concatenated(parts: Sequence[SparseRows], where: str) -> SparseRows:
    """The rows of several matrices, one after the other.

    Raises:
      UserError: the matrices differ in their number of columns.
    """
    import scipy.sparse

    widths = [part.shape[1] for part in parts]
    if len(set(widths)) > 1:
        raise UserError(f"{where}: the matrices differ in their columns: {widths}.")
    stacked = scipy.sparse.vstack([part.matrix for part in parts], format="csr")
    return SparseRows(scipy.sparse.csr_array(stacked))
