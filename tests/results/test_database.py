"""The ledger: claims are exclusive, results are safe, damage stays where it is."""

import json
import math
import sqlite3
import subprocess
import sys
import time

import pytest

from jaxtl.core.errors import UserError
from jaxtl.results import database
from jaxtl.results.database import (
    DAMAGED,
    DONE,
    FAILED,
    RUNNING,
    STOPPED,
    WAITING,
    Outcome,
)

CURVE = {"step": [1], "loss": [0.5], "val": []}


def done(key, value=0.5):
    return Outcome(key, DONE, {"val": {"accuracy": value}}, CURVE)


@pytest.fixture
def book(tmp_path):
    with database.Database(tmp_path, create=True) as made:
        made.add((key, {"seed": i}) for i, key in enumerate("abcd"))
        yield made


def sql(book, text, *values):
    with sqlite3.connect(book.path) as other:
        other.execute(text, values)


def test_cells_wait_are_claimed_and_done(book):
    assert book.counts() == {WAITING: 4}
    assert book.claim(["b", "a"], "me") == ["b", "a"]
    assert book.claim(["a", "c"], "you") == ["c"]
    assert book.counts() == {WAITING: 1, RUNNING: 3}
    assert {owner: n for owner, (n, _) in book.owners().items()} == {"me": 2, "you": 1}
    book.finish([done("a"), Outcome("b", FAILED, {}, {}, "it failed.")])
    assert book.statuses() == {"a": DONE, "b": FAILED, "c": RUNNING, "d": WAITING}
    first, second, *_ = book.entries()
    assert first == ("a", {"seed": 0}, DONE, {"val": {"accuracy": 0.5}}, CURVE, "")
    assert (second.status, second.error) == (FAILED, "it failed.")


def test_what_is_finished_is_not_claimed_again(book):
    every = [done("a"), Outcome("b", FAILED, {}, {}), Outcome("c", STOPPED, {}, {})]
    book.finish(every)
    assert book.claim("abcd", "me") == ["d"]
    assert book.again((FAILED,)) == 1
    assert book.claim("abcd", "me") == ["b"]


def test_what_is_known_stays_when_cells_are_added(book):
    book.finish([done("a")])
    book.add([("e", {"seed": 9}), ("a", {"method": "x", "seed": 0})])
    found = {entry.key: entry for entry in book.entries()}
    assert list(found) == ["a", "b", "c", "d", "e"]
    assert found["a"].status == DONE
    assert found["a"].labels == {"method": "x", "seed": 0}, "labels are the newest"


def test_release_hands_back_what_is_not_finished(book):
    book.claim("abc", "me")
    book.claim("d", "you")
    book.finish([done("a")])
    book.release("me")
    assert book.statuses() == {"a": DONE, "b": WAITING, "c": WAITING, "d": RUNNING}


def test_claims_without_a_sign_of_life_are_void(book, monkeypatch):
    book.claim("ab", "me")
    now = time.time()
    monkeypatch.setattr(database.time, "time", lambda: now + database.STALE - 1)
    assert book.claim("ab", "you") == []
    book.beat("me")
    monkeypatch.setattr(database.time, "time", lambda: now + 2 * database.STALE - 2)
    assert book.claim("ab", "you") == []
    monkeypatch.setattr(database.time, "time", lambda: now + 2 * database.STALE)
    assert book.claim("ab", "you") == ["a", "b"]


def test_the_cells_of_dead_processes_wait_at_once(book):
    text = "from jaxtl.results import database; print(database.owner())"
    dead = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=True
    ).stdout.strip()
    book.claim("ab", dead)
    book.claim("c", database.owner())
    elsewhere = "another-machine:1:ab"
    book.claim("d", elsewhere)
    assert book.free_dead() == 1
    assert book.statuses() == {"a": WAITING, "b": WAITING, "c": RUNNING, "d": RUNNING}


CLAIMS = """
import sys, time
from jaxtl.results import database

print("ready", flush=True)
sys.stdin.readline()
for i in range(60):
    with database.Ledger(f"{sys.argv[1]}/new{i}", create=True) as book:
        book.tell(doc="text")
with database.Ledger(sys.argv[1]) as book:
    for i in range(0, 200, 5):
        for key in book.claim([str(j) for j in range(i, i + 8)], database.owner()):
            print(key)
"""


def test_ledgers_are_made_at_once_and_no_cell_is_claimed_twice(tmp_path):
    for i in range(60):
        (tmp_path / f"new{i}").mkdir()
    with database.Database(tmp_path, create=True) as book:
        book.add((str(i), {}) for i in range(203))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", CLAIMS, str(tmp_path)]
    workers = [subprocess.Popen(command, **pipes) for _ in range(3)]
    assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 3
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    told = [worker.communicate(timeout=60)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    taken = [key for text in told for key in text.split()]
    assert sorted(taken, key=int) == [str(i) for i in range(203)]


def test_not_a_number_is_null_and_no_damage(book):
    book.finish([Outcome("a", DONE, {"val": {"nll": math.nan, "x": [math.inf]}}, {})])
    assert book.statuses()["a"] == DONE
    assert book.entries()[0].result == {"val": {"nll": None, "x": [None]}}


def test_values_are_those_of_cells_that_are_done(book):
    result = {"val": {"accuracy": 0.5}, "seconds": 2.0, "monitor": "accuracy"}
    book.finish([Outcome("b", DONE, {**result, "drift": 3.0}, CURVE)])
    assert book.values() == [({"seed": 1}, result)]


# --- damage --------------------------------------------------------------------------

HALF = '{"val": {"accu'


@pytest.mark.parametrize("text", [HALF, "3", "", None])
@pytest.mark.parametrize("status", [DONE, STOPPED])
def test_a_row_without_a_result_is_run_again(book, text, status):
    book.finish([done("a"), done("b")])
    sql(book, "UPDATE cells SET result = ?, status = ? WHERE key = 'a'", text, status)
    assert book.statuses()["a"] == DAMAGED
    assert len(book.values()) == 1
    assert book.claim("ab", "me") == ["a"]
    book.finish([done("a", 0.7)])
    assert book.entries()[0].result == {"val": {"accuracy": 0.7}}


@pytest.mark.parametrize("column", ["result", "curve"])
def test_damaged_rows_are_told_and_wait_again(book, column):
    book.finish([done(key) for key in "abc"])
    sql(book, f"UPDATE cells SET {column} = ? WHERE key = 'b'", HALF)
    entry = book.entries()[1]
    assert (entry.status, entry.result) == (DAMAGED, {})
    assert "the row of the cell b can't be read" in entry.error
    assert book.again_damaged() == 1
    assert book.statuses() == {"a": DONE, "b": WAITING, "c": DONE, "d": WAITING}


def test_a_byte_that_is_no_text_damages_one_row(book):
    book.finish([done("a"), done("b")])
    sql(book, "UPDATE cells SET result = CAST(X'7BFF22' AS TEXT) WHERE key = 'a'")
    assert [entry.status for entry in book.entries()[:2]] == [DAMAGED, DONE]
    assert book.statuses()["a"] == DAMAGED


def test_damaged_labels_are_written_anew(book):
    book.finish([done("a")])
    sql(book, "UPDATE cells SET labels = '{' WHERE key = 'a'")
    assert book.entries()[0].status == DAMAGED
    book.add([("a", {"seed": 0})])
    assert book.again_damaged() == 0
    assert book.entries()[0].status == DONE


def test_damaged_facts_are_nothing(book):
    book.tell(doc="text", axes={"seed": [0]})
    sql(book, "UPDATE meta SET value = '{' WHERE name = 'doc'")
    assert book.meta() == {"doc": None, "axes": {"seed": [0]}}


def test_a_file_that_is_no_ledger_is_told(tmp_path):
    (tmp_path / database.FILE).write_bytes(b"no database at all, but long enough" * 99)
    with pytest.raises(UserError, match=r"sweep\.sqlite: it is damaged; `sqlite3"):
        database.Database(tmp_path)


def test_no_ledger_is_told(tmp_path):
    with pytest.raises(UserError, match=r"holds no sweep: there is no sweep\.sqlite"):
        database.Database(tmp_path)
    with pytest.raises(UserError, match="can't be written; check the folder's perm"):
        database.Database(tmp_path / "none", create=True)


def test_a_full_disk_keeps_what_was_recorded(book):
    book.finish([done("a")])
    pages = book._connection.execute("PRAGMA page_count").fetchone()[0]
    book._connection.execute(f"PRAGMA max_page_count = {pages}")
    large = Outcome("b", DONE, {"text": "x" * 10**6}, {})
    with pytest.raises(UserError, match="no space is left on the disk; what was rec"):
        book.finish([done("c"), large])
    book._connection.execute("PRAGMA max_page_count = 1000000")
    assert book.statuses() == {"a": DONE, "b": WAITING, "c": WAITING, "d": WAITING}
    book.finish([large])


def test_a_ledger_that_is_only_read_is_told(book):
    book._connection.execute("PRAGMA query_only = 1")
    for change in (
        lambda: book.claim(["a"], "me"),
        lambda: book.finish([done("a")]),
        lambda: book.tell(doc=""),
    ):
        with pytest.raises(UserError, match="can't be written; check the folder's"):
            change()
    assert json.dumps(book.counts()) == '{"waiting": 4}'
