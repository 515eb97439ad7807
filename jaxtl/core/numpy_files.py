"""Reads numpy's .npy and .npz files; whatever is wrong with one is one sentence."""

import contextlib
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from jaxtl.core.errors import UserError, first_line


def read_npy(
    path: str | os.PathLike, mmap_mode: Literal["r"] | None = None
) -> np.ndarray:
    """Reads the array of a .npy file; "r" maps it into memory instead.

    Raises:
      UserError: a file that is missing, damaged or holds Python objects.
    """
    with _explained(path, ".npy"):
        array = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("it is an archive of arrays (.npz)")
        return array


def read_npz(
    path: str | os.PathLike, names: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Reads arrays of a .npz file, name -> array; those of some names or all.

    Raises:
      UserError: a file that is missing, damaged or holds Python objects.
    """
    with _explained(path, ".npz"):
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("it is a single array (.npy)")
        with archive:
            return {name: archive[name] for name in names or archive.files}


@contextlib.contextmanager
def _explained(path: str | os.PathLike, suffix: str) -> Iterator[None]:
    try:
        yield
    except (
        ValueError,
        OSError,
        EOFError,
        KeyError,
        NotImplementedError,  # a damaged header may name any compression
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
    ) as error:
        cause = first_line(error)
        if "pickle" in cause:  # numpy would advise to load it unsafely
            cause = "it holds Python objects, or is no file of arrays"
        if isinstance(error, OSError) and error.strerror:
            cause = error.strerror.lower()
        raise UserError(
            f"{os.fspath(path)} can't be read as a {suffix} file: {cause}."
        ) from None
