"""Paths of data files: as named, or below the folder that JAXTL_DATA_DIR names."""

from __future__ import annotations

import os
import pathlib

from jaxtl.core.errors import UserError, nearest

_VARIABLE = "JAXTL_DATA_DIR"


def find(path: str | os.PathLike, field: str) -> pathlib.Path:
    """Finds an existing file or folder.

    Args:
      path: absolute, relative to the working directory, or to $JAXTL_DATA_DIR.
      field: the option that named it, for the message.

    Raises:
      UserError: it exists in neither place.
    """
    paths = candidates(path)
    for candidate in paths:
        if candidate.exists():
            return candidate
    names = [p.name for candidate in paths for p in _siblings(candidate)]
    close = nearest(pathlib.Path(path).name, names)
    root = os.environ.get(_VARIABLE)
    variable = f"is {root}" if root else "is not set"
    raise UserError(
        f"{field}: there is no {str(path)!r}{close}; paths are relative to the working "
        f"directory or to ${_VARIABLE}, which {variable}."
    )


def candidates(path: str | os.PathLike) -> list[pathlib.Path]:
    """The paths that a path of an experiment may stand for, in order of preference."""
    path, root = pathlib.Path(path).expanduser(), os.environ.get(_VARIABLE)
    return [path] + ([pathlib.Path(root) / path] if root else [])


def _siblings(path: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path.parent.iterdir()) if path.parent.is_dir() else []
