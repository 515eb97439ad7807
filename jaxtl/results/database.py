"""The ledger of a sweep: which cells wait, run and are done, in one SQLite file.

Several processes may work on one sweep: each claims cells before it runs them and beats
while it works; the cells of one that died are claimed anew. A cell that is done is
never run again.
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

from jaxtl.core.errors import UserError

FILE = "sweep.sqlite"
STALE = 60.0  # seconds without a beat after which a claim is void
WAIT = 30.0  # seconds that a process waits for another's transaction

WAITING, RUNNING = "waiting", "running"
DONE, FAILED, STOPPED = "done", "failed", "stopped"
FINISHED = (DONE, FAILED, STOPPED)
DAMAGED = "damaged"
_UTF8 = {"encoding": "utf-8", "errors": "replace"}

# Of a finished row; `_entry` looks at its curve and labels as well.
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


def owner() -> str:
    """Returns a name for this process that no other has."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def _alive(name: str) -> bool:
    """Whether a process may still be there; of other machines nobody knows."""
    host, _, rest = name.partition(":")
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(rest.partition(":")[0]), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        return True
    return True


def _patiently(connection: sqlite3.Connection, text: str) -> None:
    """Waits for others that make the same file, as SQLite itself does not do here."""
    until = time.monotonic() + WAIT
    while True:
        try:
            connection.execute(text)
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
        time.sleep(0.01)


class Entry(NamedTuple):
    """One row: a cell and what is known of it.

    Attributes:
      key: identity of the cell's experiment.
      labels: axis -> value as it is shown.
      status: "waiting", "running", "done", "failed" (its error says why), "stopped"
        (by successive halving), or "damaged" (the row can't be read).
      result: as in result.json, {} before it is done.
      curve: {"step": […], "loss": […], "val": [{"step": …, metric: …}, …]}.
      error: one sentence, "" without.
    """

    key: str
    labels: Mapping[str, Any]
    status: str
    result: Mapping[str, Any]
    curve: Mapping[str, Any]
    error: str


class Outcome(NamedTuple):
    """What became of a cell; fields as in `Entry`."""

    key: str
    status: str
    result: Mapping[str, Any]
    curve: Mapping[str, Any]
    error: str = ""


class Database:
    """An open ledger; a context manager.

    Args:
      folder: of the sweep.
      create: make the file where there is none.

    Raises:
      UserError: no ledger there, or one that is damaged; and, by every method, a disk
        that is full or a file that can't be written. What was recorded stays.
    """

    def __init__(self, folder: str | pathlib.Path, *, create: bool = False):
        self.path = pathlib.Path(folder) / FILE
        if not create and not self.path.exists():
            raise UserError(f"{folder} holds no sweep: there is no {FILE} in it.")
        with self._told():
            self._connection = sqlite3.connect(
                self.path, timeout=WAIT, isolation_level=None, check_same_thread=False
            )
            # A byte that is no text damages its row and no other.
            self._connection.text_factory = functools.partial(str, **_UTF8)
            _patiently(self._connection, "PRAGMA journal_mode=WAL")
            # Every commit is on the disk when it returns, whatever happens then.
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.executescript(_TABLES)

    def __enter__(self) -> "Database":
        return self

    def __exit__(self, *_) -> None:
        self._connection.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            text = str(error)
            if "full" in text:
                text = "no space is left on the disk; what was recorded is kept"
            elif "readonly" in text or "unable to open" in text:
                text = "it can't be written; check the folder's permissions"
            elif "malformed" in text or "not a database" in text:
                text = (
                    "it is damaged; `sqlite3 sweep.sqlite .recover` may save its rows"
                )
            raise UserError(f"{self.path}: {text}.") from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, of which other processes see all or nothing."""
        with self._told():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    def tell(self, **values: Any) -> None:
        """Stores facts of the whole sweep, as JSON."""
        rows = [(name, json.dumps(value)) for name, value in values.items()]
        with self._writing() as db:
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)

    def meta(self) -> dict[str, Any]:
        """Returns the facts of the whole sweep."""
        with self._told():
            rows = self._connection.execute("SELECT name, value FROM meta").fetchall()
        return {name: _parsed(value) for name, value in rows}

    def add(self, cells: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Adds (key, labels) as waiting, in order.

        Known ones stay as they are, but for labels that are others now.
        """
        with self._writing() as db:
            [start] = db.execute("SELECT COALESCE(MAX(place) + 1, 0) FROM cells")
            rows = (
                (key, start[0] + i, json.dumps(dict(labels)), WAITING)
                for i, (key, labels) in enumerate(cells)
            )
            db.executemany(
                "INSERT INTO cells (key, place, labels, status) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (key) DO UPDATE SET labels = excluded.labels "
                "WHERE labels IS NOT excluded.labels",
                rows,
            )

    def claim(self, keys: Sequence[str], owner: str) -> list[str]:
        """Takes those of some cells that wait, or whose owner died, for this process.

        Cells whose row is damaged are taken as well: nothing is known of them.

        Returns:
          the keys that are now the owner's, in the order given.
        """
        now, taken = time.time(), []
        with self._writing() as db:
            for key in keys:
                found = db.execute(
                    "UPDATE cells SET status = ?, owner = ?, beat = ? "
                    "WHERE key = ? AND (status = ? OR (status = ? AND beat < ?) OR "
                    f"{_LOST})",
                    (RUNNING, owner, now, key, WAITING, RUNNING, now - STALE),
                )
                taken += [key] * found.rowcount
        return taken

    def beat(self, owner: str) -> None:
        """Says that an owner is alive."""
        with self._writing() as db:
            db.execute(
                "UPDATE cells SET beat = ? WHERE owner = ? AND status = ?",
                (time.time(), owner, RUNNING),
            )

    def free_dead(self) -> int:
        """Lets the cells of this machine's dead processes wait anew; returns how many.

        A process that was killed leaves its claims behind; elsewhere than on its own
        machine they are void after a minute without a beat.
        """
        with self._told():
            owners = self._connection.execute(
                "SELECT DISTINCT owner FROM cells WHERE status = ?", (RUNNING,)
            ).fetchall()
        dead = [owner for (owner,) in owners if owner and not _alive(owner)]
        with self._writing() as db:
            for owner in dead:
                db.execute(
                    "UPDATE cells SET status = ?, owner = NULL WHERE owner = ? AND "
                    "status = ?",
                    (WAITING, owner, RUNNING),
                )
        return len(dead)

    def release(self, owner: str) -> None:
        """Hands back what an owner claimed and did not finish."""
        with self._writing() as db:
            db.execute(
                "UPDATE cells SET status = ?, owner = NULL WHERE owner = ? AND "
                "status = ?",
                (WAITING, owner, RUNNING),
            )

    def again(self, statuses: Sequence[str]) -> int:
        """Lets cells of some statuses wait anew; returns how many."""
        with self._writing() as db:
            marks = ", ".join("?" * len(statuses))
            found = db.execute(
                f"UPDATE cells SET status = ? WHERE status IN ({marks})",
                (WAITING, *statuses),
            )
        return found.rowcount

    def again_damaged(self) -> int:
        """Lets cells whose row can't be read wait anew; returns how many."""
        lost = [entry.key for entry in self.entries() if entry.status == DAMAGED]
        marks = ", ".join("?" * len(FINISHED))
        with self._writing() as db:
            db.executemany(
                f"UPDATE cells SET status = ? WHERE key = ? AND status IN ({marks})",
                [(WAITING, key, *FINISHED) for key in lost],
            )
        return len(lost)

    def finish(self, outcomes: Iterable[Outcome]) -> None:
        """Records what became of some cells, all at once."""
        rows = [
            (o.status, _text(o.result), json.dumps(o.curve), o.error, o.key)
            for o in outcomes
        ]
        with self._writing() as db:
            db.executemany(
                "UPDATE cells SET status = ?, result = ?, curve = ?, error = ?, "
                "owner = NULL WHERE key = ?",
                rows,
            )

    def counts(self) -> dict[str, int]:
        """Returns status -> number of cells."""
        with self._told():
            return dict(
                self._connection.execute(
                    "SELECT status, COUNT(*) FROM cells GROUP BY status"
                ).fetchall()
            )

    def statuses(self) -> dict[str, str]:
        """Returns key -> status; "damaged" where a cell's result can't be read."""
        with self._told():
            rows = self._connection.execute(
                f"SELECT key, status, {_LOST} FROM cells"
            ).fetchall()
        return {key: DAMAGED if bad else status for key, status, bad in rows}

    def owners(self) -> dict[str, tuple[int, float]]:
        """Returns owner -> (cells that it runs, seconds since it last beat)."""
        with self._told():
            rows = self._connection.execute(
                "SELECT owner, COUNT(*), MAX(beat) FROM cells WHERE status = ? "
                "GROUP BY owner",
                (RUNNING,),
            ).fetchall()
        now = time.time()
        return {owner: (n, now - (beat or 0.0)) for owner, n, beat in rows}

    def values(self) -> list[tuple[dict, dict]]:
        """Returns (labels, {"val", "seconds", "monitor"}) of cells that are done.

        Quicker than `entries`, which reads curves as well: made to be asked often.
        """
        part = "json_object('val', json_extract(result, '$.val'), 'seconds', "
        part += "json_extract(result, '$.seconds'), 'monitor', "
        part += "json_extract(result, '$.monitor'))"
        with self._told():
            rows = self._connection.execute(
                f"SELECT labels, {part} FROM cells WHERE status = ? AND "
                f"{_READABLE} AND json_valid(labels) ORDER BY place",
                (DONE,),
            ).fetchall()
        return [(json.loads(labels), json.loads(found)) for labels, found in rows]

    def entries(self) -> list[Entry]:
        """Returns every cell in the sweep's order."""
        with self._told():
            rows = self._connection.execute(
                "SELECT key, labels, status, result, curve, error FROM cells "
                "ORDER BY place"
            ).fetchall()
        return [_entry(*row) for row in rows]


def _entry(key, labels, status, result, curve, error) -> Entry:
    try:
        labels = json.loads(labels)
        result = json.loads(result) if result else {}
        curve = json.loads(curve) if curve else {}
        if not all(isinstance(x, dict) for x in (labels, result, curve)):
            raise ValueError("not a mapping")
    except ValueError as problem:
        known = labels if isinstance(labels, dict) else {}
        error = f"the row of the cell {key} can't be read ({problem}); run it again"
        return Entry(key, known, DAMAGED, {}, {}, error)
    return Entry(key, labels, status, result, curve, error)


def _text(result: Mapping[str, Any]) -> str:
    """Returns a result as JSON; NaN and infinities, which JSON has none of, as null.

    SQLite would take a row with a NaN for a damaged one.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: plain(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [plain(inner) for inner in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(result), allow_nan=False)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
