"""Files and folders that are written whole or not at all, whenever the process ends.

A draft is written beside its target and renamed at the end. Its name holds the machine
and the process, so that two processes never write the same draft. What a killed process
leaves is removed, or put back in its place, by the next one that writes beside it.
"""

import contextlib
import functools
import hashlib
import os
import pathlib
import re
import shutil
import socket
from collections.abc import Iterator

from jaxtl.core.processes import is_running

_PART, _OLD = "part", "old"  # a draft; what it is about to replace


@contextlib.contextmanager
def file(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a block the path of a draft, which replaces a file when the block ends.

    The draft's name ends as the file's does. After an exception in the block the file
    is as it was.
    """
    path = pathlib.Path(path)
    _remove_abandoned(path.parent)
    draft = _beside(path, _PART)
    try:
        yield draft
        with open(draft, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


@contextlib.contextmanager
def folder(path: str | os.PathLike, *, replace: bool = True) -> Iterator[pathlib.Path]:
    """Gives a block an empty folder, which takes the place of another when it ends.

    Args:
      path: the folder, which need not exist, nor its parents.
      replace: whether a folder that lies there when the block ends is replaced.

    Raises:
      OSError: something lies there that is not to be replaced.
    """
    path = pathlib.Path(path).absolute()
    _remove_abandoned(path.parent)
    draft, old = _beside(path, _PART), _beside(path, _OLD)
    try:
        draft.mkdir(parents=True)
        yield draft
        if replace and path.is_dir():
            os.replace(path, old)
        try:
            os.replace(draft, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file whole or not at all."""
    with file(path) as draft:
        draft.write_bytes(content)


def is_draft(name: str) -> bool:
    """Whether a file's name is that of a draft, or of what a draft was to replace."""
    return _NAME.fullmatch(name) is not None


_NAME = re.compile(r"\.(part|old)-([0-9a-f]{8})-(\d+)-(.+)", re.DOTALL)


def _beside(path: pathlib.Path, kind: str) -> pathlib.Path:
    return path.with_name(f".{kind}-{_machine()}-{os.getpid()}-{path.name}")


@functools.cache
def _machine() -> str:
    name = socket.gethostname().encode(errors="replace")
    return hashlib.blake2b(name, digest_size=4).hexdigest()


def _remove_abandoned(parent: pathlib.Path) -> None:
    """Removes drafts of ended processes; puts back what one was about to replace."""
    try:
        names = [_NAME.fullmatch(name) for name in os.listdir(parent)]
    except OSError:
        return
    for name in filter(None, names):
        kind, machine, process, target = name.groups()
        if machine != _machine() or is_running(int(process)):
            continue
        left = parent / name.string
        with contextlib.suppress(OSError):  # another process may do the same
            if kind == _OLD and not (parent / target).exists():
                os.replace(left, parent / target)
            elif left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()
