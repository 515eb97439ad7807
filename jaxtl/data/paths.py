"""Where data files are: as named, or under the folder that JAXTL_DATA_DIR names."""

from __future__ import annotations

import os
import pathlib

from jaxtl.core.errors import UserError, nearest

VARIABLE = "JAXTL_DATA_DIR"


def find(path: str | os.PathLike, field: str) -> pathlib.Path:
    """Returns an existing path.

    Args:
      path: absolute, relative to the working directory, or to $JAXTL_DATA_DIR.
      field: the option that named it, for the message.

    Raises:
      UserError: it exists in neither place.
    """
    places = candidates(path)
    for place in places:
        if place.exists():
            return place
    names = [p.name for place in places for p in _siblings(place)]
    close = nearest(pathlib.Path(path).name, names)
    root = os.environ.get(VARIABLE)
    where = f"names {root}" if root else "can name a folder of data"
    raise UserError(
        f"{field}: there is no {str(path)!r}{close}; paths are relative to the working "
        f"directory or to ${VARIABLE}, which {where}."
    )


def candidates(path: str | os.PathLike) -> list[pathlib.Path]:
    """The places where a path is looked for, in order."""
    path, root = pathlib.Path(path).expanduser(), os.environ.get(VARIABLE)
    return [path] + ([pathlib.Path(root) / path] if root else [])


def _siblings(place: pathlib.Path) -> list[pathlib.Path]:
    return sorted(place.parent.iterdir()) if place.parent.is_dir() else []


def modification_times(paths) -> tuple:
    """Size and modification time of those paths that exist."""
    found = []
    for path in paths:
        for place in candidates(path):
            if place.exists():
                status = place.stat()
                found.append((str(place), status.st_mtime_ns, status.st_size))
                break
    return tuple(found)
