"""The arrays of `.npy` and `.npz` files, and the entries of the latter."""

from __future__ import annotations

import io
import itertools
import pathlib
from collections.abc import Mapping

import numpy as np

from jaxtl.core import numpy_files
from jaxtl.core.errors import UserError, nearest
from jaxtl.data import images, lazy_array, sparse_rows


def open_arrays(
    path: pathlib.Path, memory_limit: int = 2**62
) -> np.ndarray | lazy_array.LazyArray | dict[str, np.ndarray]:
    """An array from a `.npy`, a dict of arrays from a `.npz`.

    Args:
      path: of the file.
      memory_limit: bytes; a larger `.npy` stays on disk.
    """
    if path.suffix != ".npy":
        entries = numpy_files.read_npz(path)
        if sparse_rows.is_sparse_file(entries):
            return sparse_rows.as_rows(sparse_rows.read_npz(path), f"Arrays: {path}")
        return entries
    mapped = numpy_files.read_npy(path, mmap_mode="r")
    if mapped.nbytes > memory_limit:
        return lazy_array.MemoryMapped(str(path), image=mapped.ndim == 3)
    return np.array(mapped)


def entry(
    entries: Mapping[str, np.ndarray], name: str, path: pathlib.Path, field: str
) -> np.ndarray:
    """An entry of a `.npz`; UserError where there is none of this name."""
    if name in entries:
        return entries[name]
    raise UserError(
        f"{field}: {path} has no entry {name!r}{nearest(name, entries)}; "
        f"its entries are {', '.join(sorted(entries))}."
    )


def decoded_jpegs(entries: Mapping[str, np.ndarray], path: pathlib.Path) -> np.ndarray:
    """Decodes the JPEG files that lie between consecutive offsets."""
    data, offsets = entries["jpeg"].tobytes(), entries["offsets"]
    decoded = [
        images.decode(io.BytesIO(data[start:end]))
        for start, end in itertools.pairwise(offsets)
    ]
    shapes = {image.shape for image in decoded}
    if len(shapes) > 1:
        raise UserError(f"{path}: the JPEG images differ in shape: {sorted(shapes)}.")
    return np.stack(decoded)
