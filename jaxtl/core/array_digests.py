"""Hashes of arrays in memory, equal in every process."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np


def array_digest(value: Any) -> str:
    """SHA-256 of the values of an array, or of a matrix of scipy.sparse, in hex.

    Objects count as they are written; the shape and the type do not count.
    """
    if hasattr(value, "tocsr"):
        csr = value.tocsr()
        parts = [csr.indptr, csr.indices, csr.data]
    else:
        parts = [np.asarray(value)]
    sha = hashlib.sha256()
    for part in parts:
        if part.dtype.hasobject:
            sha.update(repr(part.tolist()).encode("utf-8", "surrogatepass"))
        else:
            # As bytes: dates have no buffer of their own.
            sha.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()
