"""The database of a sweep: the status and the result of every cell, in one SQLite file.

Several processes may work on one sweep. Each claims cells before it runs them and sends
a heartbeat while it works; the cells of a process that died can be claimed again. A
cell that is done is never run again.
"""

import contextlib
import functools
import json
import math
import os
import pathlib
import secrets
import socket
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtl.core import processes
from jaxtl.core.errors import UserError
from jaxtl.training import run_dir

DATABASE_FILE = run_dir.SWEEP
CLAIM_TIMEOUT = 60.0  # seconds without a heartbeat after which a claim is void
LOCK_TIMEOUT = 30.0  # seconds that a process waits for another's transaction

WAITING, RUNNING = "waiting", "running"
DONE, FAILED, STOPPED = "done", "failed", "stopped"
FINISHED = (DONE, FAILED, STOPPED)
DAMAGED = "damaged"
INTERRUPTED = "interrupted"  # of a run that ended without a result, not of a cell
_UTF8 = {"encoding": "utf-8", "errors": "replace"}

# SQL that tests the result of a finished row; `_entry` checks its curve and labels too.
_READABLE = "CASE WHEN json_valid(result) THEN json_type(result) = 'object' ELSE 0 END"
_LOST = f"(status IN {FINISHED} AND NOT {_READABLE})"

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS cells (
  key TEXT PRIMARY KEY, place INTEGER NOT NULL, labels TEXT NOT NULL,
  status TEXT NOT NULL, owner TEXT, beat REAL,
  result TEXT, curve TEXT, error TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS by_status ON cells (status);
"""

# Primary result codes of SQLite -> the reason that a user is given.
_REASONS = {
    sqlite3.SQLITE_FULL: "no space is left on the disk; what was recorded is kept",
    **dict.fromkeys(
        (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN),
        "it can't be written; check the folder's permissions",
    ),
    **dict.fromkeys(
        (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB),
        "it is damaged; `sqlite3 sweep.sqlite .recover` may save its rows",
    ),
}


def new_owner() -> str:
    """Returns an identifier for this process that no other process has."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def _may_be_alive(owner: str) -> bool:
    """Whether a process may still run: unknown, hence True, on another machine."""
    host, _, process = owner.partition(":")
    number = process.partition(":")[0]
    if host != socket.gethostname() or not number.isdigit():
        return True
    return processes.is_running(int(number))


def _error_code(error: sqlite3.Error) -> int | None:
    """The primary result code of SQLite, without the bits of an extended code."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _execute_when_unlocked(connection: sqlite3.Connection, statement: str) -> None:
    """Retries while another process creates the same file.

    SQLite's own timeout does not cover a change of the journal mode.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            connection.execute(statement)
            return
        except sqlite3.OperationalError as error:
            locked = _error_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not locked or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


class CellEntry(NamedTuple):
    """One row of the database: a cell with its status and its result.

    Attributes:
      key: identity of the cell's experiment.
      labels: axis -> value as it is shown.
      status: "waiting", "running", "done", "failed" (`error` holds the reason),
        "stopped" (by successive halving), or "damaged" (the row can't be read).
      result: as in result.json, {} before the cell is done.
      curve: {"step": […], "loss": […], "val": [{"step": …, metric: …}, …]}.
      error: one sentence, "" without an error.
    """

    key: str
    labels: Mapping[str, Any]
    status: str
    result: Mapping[str, Any]
    curve: Mapping[str, Any]
    error: str


class Outcome(NamedTuple):
    """The outcome of a cell that finished; fields as in `CellEntry`."""

    key: str
    status: str
    result: Mapping[str, Any]
    curve: Mapping[str, Any]
    error: str = ""


class Database:
    """An open database of a sweep; a context manager that closes it.

    Every method raises a UserError where the disk is full or the file can't be written;
    what was recorded before stays.

    Args:
      folder: the sweep's folder.
      create: whether to create the file where there is none.

    Raises:
      UserError: the folder holds no database, or the database is damaged.
    """

    def __init__(self, folder: str | pathlib.Path, *, create: bool = False):
        self.path = pathlib.Path(folder) / DATABASE_FILE
        if not create and not self.path.exists():
            raise UserError(
                f"{folder} holds no sweep: there is no {DATABASE_FILE} in it."
            )
        with self._errors():
            self.connection = sqlite3.connect(
                self.path,
                timeout=LOCK_TIMEOUT,
                isolation_level=None,
                check_same_thread=False,
            )
            # An invalid byte damages its own row only.
            self.connection.text_factory = functools.partial(str, **_UTF8)
            if not create and not self._has_cells():
                self.close()
                raise UserError(
                    f"{self.path} holds no sweep: it has no table of cells; the "
                    "command that began the sweep begins it again."
                )
            _execute_when_unlocked(self.connection, "PRAGMA journal_mode=WAL")
            # A commit returns after its data is on the disk.
            self.connection.execute("PRAGMA synchronous=FULL")
            self.connection.executescript(_TABLES)

    def __enter__(self) -> "Database":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _has_cells(self) -> bool:
        """Whether the file has the table of cells; an empty file has none."""
        tables = "SELECT 1 FROM sqlite_master WHERE name = 'cells'"
        return self.connection.execute(tables).fetchone() is not None

    def close(self) -> None:
        """Closes the connection to the file."""
        self.connection.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns errors of SQLite into errors for the user."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            reason = _REASONS.get(_error_code(error), str(error))
            raise UserError(f"{self.path}: {reason}.") from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction: other processes see all of its changes or none."""
        with self._errors():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self.connection.execute("ROLLBACK")
                raise

    def _fetch(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple]:
        """Runs a query and returns all its rows."""
        with self._errors():
            return self.connection.execute(query, parameters).fetchall()

    def set_meta(self, **values: Any) -> None:
        """Stores values that describe the whole sweep, as JSON."""
        rows = [(name, json.dumps(value)) for name, value in values.items()]
        with self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)

    def meta(self) -> dict[str, Any]:
        """Returns name -> value of all that `set_meta` stored; None where damaged."""
        rows = self._fetch("SELECT name, value FROM meta")
        return {name: _parsed(value) for name, value in rows}

    def add(self, cells: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Adds cells (key, labels) as waiting, in the order given.

        A cell that is there already keeps its status and result and gets new labels.
        """
        with self._transaction() as connection:
            [(start,)] = connection.execute(
                "SELECT COALESCE(MAX(place) + 1, 0) FROM cells"
            )
            rows = (
                (key, start + i, json.dumps(dict(labels)), WAITING)
                for i, (key, labels) in enumerate(cells)
            )
            connection.executemany(
                "INSERT INTO cells (key, place, labels, status) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (key) DO UPDATE SET labels = excluded.labels "
                "WHERE labels IS NOT excluded.labels",
                rows,
            )

    def claim(self, keys: Sequence[str], owner: str) -> list[str]:
        """Claims cells that wait, whose owner died, or whose row is damaged.

        Args:
          keys: the cells to claim.
          owner: identifier of the claiming process, see `new_owner`.

        Returns:
          the keys that now belong to the owner, in the order given.
        """
        time_now, claimed = time.time(), []
        void = time_now - CLAIM_TIMEOUT
        with self._transaction() as connection:
            for key in keys:
                update = connection.execute(
                    "UPDATE cells SET status = ?, owner = ?, beat = ? "
                    "WHERE key = ? AND (status = ? OR (status = ? AND beat < ?) OR "
                    f"{_LOST})",
                    (RUNNING, owner, time_now, key, WAITING, RUNNING, void),
                )
                claimed += [key] * update.rowcount
        return claimed

    def heartbeat(self, owner: str) -> None:
        """Renews the claims of an owner."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE cells SET beat = ? WHERE owner = ? AND status = ?",
                (time.time(), owner, RUNNING),
            )

    def release_dead(self) -> int:
        """Puts the cells of this machine's dead processes back to waiting.

        A process that was killed leaves its claims behind. Claims of processes on other
        machines become void after CLAIM_TIMEOUT without a heartbeat.

        Returns:
          the number of dead processes.
        """
        owners = self._fetch(
            "SELECT DISTINCT owner FROM cells WHERE status = ?", (RUNNING,)
        )
        dead = [owner for (owner,) in owners if owner and not _may_be_alive(owner)]
        self._release(dead)
        return len(dead)

    def release(self, owner: str) -> None:
        """Puts the cells that an owner claimed and did not finish back to waiting."""
        self._release([owner])

    def _release(self, owners: Iterable[str]) -> None:
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE cells SET status = ?, owner = NULL WHERE owner = ? AND "
                "status = ?",
                [(WAITING, owner, RUNNING) for owner in owners],
            )

    def requeue(self, statuses: Sequence[str]) -> int:
        """Puts the cells of some statuses back to waiting; returns their number."""
        with self._transaction() as connection:
            marks = ", ".join("?" * len(statuses))
            update = connection.execute(
                f"UPDATE cells SET status = ? WHERE status IN ({marks})",
                (WAITING, *statuses),
            )
        return update.rowcount

    def requeue_damaged(self) -> int:
        """Puts cells whose row can't be read back to waiting; returns their number."""
        damaged = [entry.key for entry in self.entries() if entry.status == DAMAGED]
        marks = ", ".join("?" * len(FINISHED))
        with self._transaction() as connection:
            connection.executemany(
                f"UPDATE cells SET status = ? WHERE key = ? AND status IN ({marks})",
                [(WAITING, key, *FINISHED) for key in damaged],
            )
        return len(damaged)

    def finish(self, outcomes: Iterable[Outcome]) -> None:
        """Records the outcomes of some cells in one transaction."""
        rows = [
            (o.status, _strict_json(o.result), json.dumps(o.curve), o.error, o.key)
            for o in outcomes
        ]
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE cells SET status = ?, result = ?, curve = ?, error = ?, "
                "owner = NULL WHERE key = ?",
                rows,
            )

    def counts(self) -> dict[str, int]:
        """Returns status -> number of cells."""
        return dict(self._fetch("SELECT status, COUNT(*) FROM cells GROUP BY status"))

    def statuses(self) -> dict[str, str]:
        """Returns key -> status; "damaged" where a cell's result can't be read."""
        rows = self._fetch(f"SELECT key, status, {_LOST} FROM cells")
        return {key: DAMAGED if lost else status for key, status, lost in rows}

    def owners(self) -> dict[str, tuple[int, float]]:
        """Returns owner -> (cells that it runs, seconds since its last heartbeat)."""
        rows = self._fetch(
            "SELECT owner, COUNT(*), MAX(beat) FROM cells WHERE status = ? "
            "GROUP BY owner",
            (RUNNING,),
        )
        time_now = time.time()
        return {owner: (n, time_now - (beat or 0.0)) for owner, n, beat in rows}

    def done_values(self) -> list[tuple[dict, dict]]:
        """Returns (labels, some fields of the result) of the cells that are done.

        These are "val", "test", "seconds", "monitor" and "higher_is_better".

        Faster than `entries`, which parses curves too, so it can be called often.
        """
        columns = (
            "json_object('val', json_extract(result, '$.val'), 'test', "
            "json_extract(result, '$.test'), 'seconds', "
            "json_extract(result, '$.seconds'), 'monitor', "
            "json_extract(result, '$.monitor'), 'higher_is_better', "
            "json_extract(result, '$.higher_is_better'))"
        )
        rows = self._fetch(
            f"SELECT labels, {columns} FROM cells WHERE status = ? AND "
            f"{_READABLE} AND json_valid(labels) ORDER BY place",
            (DONE,),
        )
        return [(json.loads(labels), json.loads(result)) for labels, result in rows]

    def entries(self) -> list[CellEntry]:
        """Returns all cells in the sweep's order."""
        rows = self._fetch(
            "SELECT key, labels, status, result, curve, error FROM cells ORDER BY place"
        )
        return [_entry(*row) for row in rows]


def _entry(
    key: str,
    labels: str,
    status: str,
    result: str | None,
    curve: str | None,
    error: str,
) -> CellEntry:
    """Parses a row; one that can't be parsed becomes a damaged entry."""
    try:
        labels = json.loads(labels)
        result = json.loads(result) if result else {}
        curve = json.loads(curve) if curve else {}
        if not all(isinstance(x, dict) for x in (labels, result, curve)):
            raise ValueError("not a mapping")
    except ValueError as problem:
        labels = labels if isinstance(labels, dict) else {}
        error = f"the row of the cell {key} can't be read ({problem}); run it again"
        return CellEntry(key, labels, DAMAGED, {}, {}, error)
    return CellEntry(key, labels, status, result, curve, error)


def _strict_json(result: Mapping[str, Any]) -> str:
    """Encodes a result, with null for NaN and infinities.

    JSON has no such numbers; SQLite would count a row with one of them as damaged.
    """

    def without_nan(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: without_nan(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [without_nan(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(without_nan(result), allow_nan=False)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
