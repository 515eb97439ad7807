"""State and contents of files: the one key of every cache of what was read from disk.

A cache keyed by `states` of all files that it read is never stale: size, times and
inode of a file change with its contents. Where they may not (a file written twice
within the resolution of the file system's clock), the state holds a hash as well.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from jaxtl.core import digest_store, progress

_COARSE_NS = 2 * 10**9  # resolution of clocks that count whole seconds, twice
_FINE_NS = 10**8  # ten ticks of a kernel's clock at 100 Hz
_THREADS = 4  # hashing releases the interpreter lock
_CHUNK = 64  # files that a thread hashes before it takes more
STORED_BYTES = 2**28  # of files to hash, from which on their digests are stored


class FileState(NamedTuple):
    """A file as the file system describes it; two equal states have equal contents.

    Attributes:
      path: as it was named.
      size: in bytes.
      modified_ns: time of the last change of the contents, in ns.
      changed_ns: time of the last change of contents or attributes, which no program
        can set back, in ns.
      inode: number of the file on its device.
      digest: of the contents, for a file that was so young when it was first seen that
        its times can't tell a later change; else "".
    """

    path: str
    size: int
    modified_ns: int
    changed_ns: int
    inode: int
    digest: str = ""


# States of files that were seen young, without their digest.
_seen_young: set[FileState] = set()
# State without a digest -> digest of the contents, for files that were not young.
_digests: dict[FileState, str] = {}


def states(paths: Iterable[str | os.PathLike]) -> tuple[FileState, ...]:
    """The states of files, and of all files below folders; of links, their targets'.

    This costs one `stat` per file, about 10 µs: 10 s for a million files whose folders
    the operating system remembers.

    Args:
      paths: files or folders; those that do not exist are left out.
    """
    return tuple(
        state for path in paths for file in _files(path) if (state := _state(file))
    )


def digest(path: str | os.PathLike) -> str:
    """SHA-256 of a file's contents, in hex; read once per process and state."""
    [file_digest] = digests([path])
    return file_digest


def digests(paths: Sequence[str | os.PathLike]) -> list[str]:
    """SHA-256 of the contents of each file, in hex, in the order of the paths.

    Files are read in blocks by a few threads, at 0.5 to 1 GB per second and core once
    they are in memory. A file of a state that this process has hashed is not read
    again. Digests of more than `STORED_BYTES` are kept for later processes as well
    (`digest_store`), which spend about 20 µs per file then: half a minute for the
    million pictures of ImageNet, whose first hashing reads 140 GB.
    """
    names = [os.fspath(path) for path in paths]
    keys = [_stat(name) for name in names]
    missing = [key for key in dict.fromkeys(keys) if key not in _digests]
    is_stored = sum(key.size for key in missing) >= STORED_BYTES
    if is_stored:
        stored = digest_store.load([key[:5] for key in missing])
        _digests.update({FileState(*state): d for state, d in stored.items()})
        missing = [key for key in missing if key not in _digests]
    hashed = dict(zip(missing, _hash_files(missing)))
    steady = {k: d for k, d in hashed.items() if not _is_young(k) and _stat(k[0]) == k}
    _digests.update(steady)
    if is_stored and steady:
        digest_store.save({k[:5]: d for k, d in steady.items()})
    return [hashed[key] if key in hashed else _digests[key] for key in keys]


def _hash_files(states_of_files: Sequence[FileState]) -> list[str]:
    if len(states_of_files) < _THREADS:
        return [_sha256(state.path) for state in states_of_files]
    paths = [state.path for state in states_of_files]
    chunks = [paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK)]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        parts = pool.map(lambda chunk: [*map(_sha256, chunk)], chunks)
        tracked = progress.track(parts, "hashing files, in blocks", len(chunks))
        return [sha for part in tracked for sha in part]


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state(path: str) -> FileState | None:
    """The state of one file, None where it has vanished."""
    try:
        state = _stat(path)
        if _is_young(state):
            _seen_young.add(state)
        if state in _seen_young:
            return state._replace(digest=digest(path))
    except FileNotFoundError:
        return None
    return state


def _stat(path: str) -> FileState:
    status = os.stat(path)
    return FileState(
        path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
    )


def _is_young(state: FileState) -> bool:
    """Whether a change right now might leave the file's state as it is."""
    is_coarse = state.changed_ns % 10**9 == 0
    age = time.time_ns() - max(state.modified_ns, state.changed_ns)
    return age < (_COARSE_NS if is_coarse else _FINE_NS)


def _files(path: str | os.PathLike) -> Iterator[str]:
    """The file itself, or all files below a folder, sorted, each folder once."""
    path = os.fspath(path)
    if not os.path.isdir(path):
        yield path
        return
    visited = set()
    for folder, folders, names in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link to a folder above it
            folders.clear()
            continue
        visited.add(real)
        folders.sort()
        yield from (os.path.join(folder, name) for name in sorted(names))


def summary(path: str | os.PathLike) -> tuple[int, int, int]:
    """Number of files at or below a path, their bytes, the latest change in ns."""
    below = states([path])
    latest = max((state.modified_ns for state in below), default=0)
    return len(below), sum(state.size for state in below), latest
