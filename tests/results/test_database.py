"""The database: claims are exclusive, results are safe, damage stays where it is."""

import json
import math
import sqlite3
import subprocess
import sys
import time

import pytest

from jaxtl.core.errors import UserError
from jaxtl.results.database import (
    CLAIM_TIMEOUT,
    DAMAGED,
    DATABASE_FILE,
    DONE,
    FAILED,
    RUNNING,
    STOPPED,
    WAITING,
    Database,
    Outcome,
    new_owner,
)

CURVE = {"step": [1], "loss": [0.5], "val": []}


def done_outcome(key, value=0.5):
    return Outcome(key, DONE, {"val": {"accuracy": value}}, CURVE)


@pytest.fixture
def database(tmp_path):
    with Database(tmp_path, create=True) as database:
        database.add((key, {"seed": i}) for i, key in enumerate("abcd"))
        yield database


def execute(database, statement, *values):
    with sqlite3.connect(database.path) as connection:
        connection.execute(statement, values)


def test_cells_go_from_waiting_to_running_to_done(database):
    assert database.counts() == {WAITING: 4}
    assert database.claim(["b", "a"], "me") == ["b", "a"]
    assert database.claim(["a", "c"], "you") == ["c"]
    assert database.counts() == {WAITING: 1, RUNNING: 3}
    assert {owner: n for owner, (n, _) in database.owners().items()} == {
        "me": 2,
        "you": 1,
    }
    database.finish([done_outcome("a"), Outcome("b", FAILED, {}, {}, "it failed.")])
    assert database.statuses() == {"a": DONE, "b": FAILED, "c": RUNNING, "d": WAITING}
    first, second, *_ = database.entries()
    assert first == ("a", {"seed": 0}, DONE, {"val": {"accuracy": 0.5}}, CURVE, "")
    assert (second.status, second.error) == (FAILED, "it failed.")


def test_a_finished_cell_is_not_claimed_again(database):
    outcomes = [
        done_outcome("a"),
        Outcome("b", FAILED, {}, {}),
        Outcome("c", STOPPED, {}, {}),
    ]
    database.finish(outcomes)
    assert database.claim("abcd", "me") == ["d"]
    assert database.requeue((FAILED,)) == 1
    assert database.claim("abcd", "me") == ["b"]


def test_adding_a_cell_again_keeps_its_result(database):
    database.finish([done_outcome("a")])
    database.add([("e", {"seed": 9}), ("a", {"method": "x", "seed": 0})])
    entries = {entry.key: entry for entry in database.entries()}
    assert list(entries) == ["a", "b", "c", "d", "e"]
    assert entries["a"].status == DONE
    assert entries["a"].labels == {"method": "x", "seed": 0}, "labels are the newest"


def test_released_cells_wait_unless_they_are_finished(database):
    database.claim("abc", "me")
    database.claim("d", "you")
    database.finish([done_outcome("a")])
    database.release("me")
    assert database.statuses() == {"a": DONE, "b": WAITING, "c": WAITING, "d": RUNNING}


def test_claims_without_a_heartbeat_become_void(database, monkeypatch):
    database.claim("ab", "me")
    start = time.time()
    monkeypatch.setattr(time, "time", lambda: start + CLAIM_TIMEOUT - 1)
    assert database.claim("ab", "you") == []
    database.heartbeat("me")
    monkeypatch.setattr(time, "time", lambda: start + 2 * CLAIM_TIMEOUT - 2)
    assert database.claim("ab", "you") == []
    monkeypatch.setattr(time, "time", lambda: start + 2 * CLAIM_TIMEOUT)
    assert database.claim("ab", "you") == ["a", "b"]


def test_cells_of_dead_processes_wait_at_once(database):
    text = "from jaxtl.results.database import new_owner; print(new_owner())"
    dead = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=True
    ).stdout.strip()
    database.claim("ab", dead)
    database.claim("c", new_owner())
    elsewhere = "another-machine:1:ab"
    database.claim("d", elsewhere)
    assert database.release_dead() == 1
    assert database.statuses() == {
        "a": WAITING,
        "b": WAITING,
        "c": RUNNING,
        "d": RUNNING,
    }


CLAIMS = """
import sys, time
from jaxtl.results.database import Database, new_owner

print("ready", flush=True)
sys.stdin.readline()
for i in range(60):
    with Database(f"{sys.argv[1]}/new{i}", create=True) as database:
        database.set_meta(doc="text")
with Database(sys.argv[1]) as database:
    for i in range(0, 200, 5):
        for key in database.claim([str(j) for j in range(i, i + 8)], new_owner()):
            print(key)
"""


def test_processes_create_databases_at_once_and_claim_no_cell_twice(tmp_path):
    for i in range(60):
        (tmp_path / f"new{i}").mkdir()
    with Database(tmp_path, create=True) as database:
        database.add((str(i), {}) for i in range(203))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", CLAIMS, str(tmp_path)]
    workers = [subprocess.Popen(command, **pipes) for _ in range(3)]
    assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 3
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    outputs = [worker.communicate(timeout=60)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    claimed = [key for text in outputs for key in text.split()]
    assert sorted(claimed, key=int) == [str(i) for i in range(203)]


def test_nan_is_stored_as_null_and_damages_no_row(database):
    database.finish(
        [Outcome("a", DONE, {"val": {"nll": math.nan, "x": [math.inf]}}, {})]
    )
    assert database.statuses()["a"] == DONE
    assert database.entries()[0].result == {"val": {"nll": None, "x": [None]}}


def test_values_are_read_from_the_cells_that_are_done(database):
    result = {
        "val": {"accuracy": 0.5},
        "test": None,
        "seconds": 2.0,
        "monitor": "accuracy",
    }
    database.finish([Outcome("b", DONE, {**result, "drift": 3.0}, CURVE)])
    expected = {**result, "higher_is_better": None}
    assert database.done_values() == [({"seed": 1}, expected)]


# --- damage --------------------------------------------------------------------------

HALF = '{"val": {"accu'


@pytest.mark.parametrize("text", [HALF, "3", "", None])
@pytest.mark.parametrize("status", [DONE, STOPPED])
def test_a_row_without_a_result_is_run_again(database, text, status):
    database.finish([done_outcome("a"), done_outcome("b")])
    execute(
        database,
        "UPDATE cells SET result = ?, status = ? WHERE key = 'a'",
        text,
        status,
    )
    assert database.statuses()["a"] == DAMAGED
    assert len(database.done_values()) == 1
    assert database.claim("ab", "me") == ["a"]
    database.finish([done_outcome("a", 0.7)])
    assert database.entries()[0].result == {"val": {"accuracy": 0.7}}


@pytest.mark.parametrize("column", ["result", "curve"])
def test_damaged_rows_are_reported_and_requeued(database, column):
    database.finish([done_outcome(key) for key in "abc"])
    execute(database, f"UPDATE cells SET {column} = ? WHERE key = 'b'", HALF)
    entry = database.entries()[1]
    assert (entry.status, entry.result) == (DAMAGED, {})
    assert "the row of the cell b can't be read" in entry.error
    assert database.requeue_damaged() == 1
    assert database.statuses() == {"a": DONE, "b": WAITING, "c": DONE, "d": WAITING}


def test_an_invalid_byte_damages_one_row(database):
    database.finish([done_outcome("a"), done_outcome("b")])
    execute(
        database, "UPDATE cells SET result = CAST(X'7BFF22' AS TEXT) WHERE key = 'a'"
    )
    assert [entry.status for entry in database.entries()[:2]] == [DAMAGED, DONE]
    assert database.statuses()["a"] == DAMAGED


def test_damaged_labels_are_replaced_when_the_cell_is_added(database):
    database.finish([done_outcome("a")])
    execute(database, "UPDATE cells SET labels = '{' WHERE key = 'a'")
    assert database.entries()[0].status == DAMAGED
    database.add([("a", {"seed": 0})])
    assert database.requeue_damaged() == 0
    assert database.entries()[0].status == DONE


def test_damaged_meta_values_are_none(database):
    database.set_meta(doc="text", axes={"seed": [0]})
    execute(database, "UPDATE meta SET value = '{' WHERE name = 'doc'")
    assert database.meta() == {"doc": None, "axes": {"seed": [0]}}


def test_a_file_that_is_no_database_is_reported(tmp_path):
    (tmp_path / DATABASE_FILE).write_bytes(b"no database at all, but long enough" * 99)
    with pytest.raises(UserError, match=r"sweep\.sqlite: it is damaged; `sqlite3"):
        Database(tmp_path)


def test_a_missing_database_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"holds no sweep: there is no sweep\.sqlite"):
        Database(tmp_path)
    with pytest.raises(UserError, match="can't be written; check the folder's perm"):
        Database(tmp_path / "none", create=True)


def test_a_full_disk_keeps_what_was_recorded(database):
    database.finish([done_outcome("a")])
    pages = database.connection.execute("PRAGMA page_count").fetchone()[0]
    database.connection.execute(f"PRAGMA max_page_count = {pages}")
    large = Outcome("b", DONE, {"text": "x" * 10**6}, {})
    with pytest.raises(UserError, match="no space is left on the disk; what was rec"):
        database.finish([done_outcome("c"), large])
    database.connection.execute("PRAGMA max_page_count = 1000000")
    assert database.statuses() == {"a": DONE, "b": WAITING, "c": WAITING, "d": WAITING}
    database.finish([large])


def test_a_read_only_database_is_reported(database):
    database.connection.execute("PRAGMA query_only = 1")
    for change in (
        lambda: database.claim(["a"], "me"),
        lambda: database.finish([done_outcome("a")]),
        lambda: database.set_meta(doc=""),
    ):
        with pytest.raises(UserError, match="can't be written; check the folder's"):
            change()
    assert json.dumps(database.counts()) == '{"waiting": 4}'
