"""Digests of files on disk, so that a large folder is hashed once and not per process.

The store is one SQLite file in the user's cache directory. Whatever goes wrong with it,
files can be hashed again, so nothing here raises.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_TIMEOUT = 10.0  # seconds to wait for another process that writes
_COLUMNS = "path PRIMARY KEY, size, modified_ns, changed_ns, inode, digest"

State = tuple[Any, ...]  # the columns but the last


def load(states: Iterable[State]) -> dict[State, str]:
    """State -> digest, for those that are stored; {} where the store can't be read.

    It costs about 10 µs per state.
    """
    stored: dict[State, str] = {}
    with contextlib.suppress(sqlite3.Error, OSError), _open() as connection:
        for state in states:
            query = "SELECT * FROM digests WHERE path = ?"
            row = connection.execute(query, (state[0],)).fetchone()
            if row is not None and row[:-1] == tuple(state):
                stored[state] = row[-1]
    return stored


def save(digests: Mapping[State, str]) -> None:
    """Stores digests; those of earlier states of the same paths are replaced."""
    rows = [(*state, digest) for state, digest in digests.items()]
    with contextlib.suppress(sqlite3.Error, OSError), _open() as connection:
        insert = "INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?, ?)"
        with connection:
            connection.executemany(insert, rows)


@contextlib.contextmanager
def _open() -> Iterator[sqlite3.Connection]:
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    path = pathlib.Path(base) / "jaxtl" / "digests.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path, timeout=_TIMEOUT)) as connection:
        connection.execute(f"CREATE TABLE IF NOT EXISTS digests ({_COLUMNS})")
        yield connection
