"""The view of a running sweep, from a database in the state that is told."""

import io
import re

import pytest
from rich.console import Console

from jaxtl.cli import main
from jaxtl.results import watch
from jaxtl.results.database import CLAIM_TIMEOUT, Database, Outcome


def finish(database, place, value, seconds=2.0, status="done"):
    result = {"val": {"nll": value, "accuracy": 1 - value}, "monitor": "nll"}
    result["seconds"] = seconds
    database.finish([Outcome(f"cell{place}", status, result, {}, "")])


@pytest.fixture
def database(tmp_path):
    """Returns a database of ten cells: five settings, two seeds."""
    cells = [
        (f"cell{i}", {"method": "full", "optim.lr": i // 2 / 10, "seed": i % 2})
        for i in range(10)
    ]
    with Database(tmp_path, create=True) as database:
        database.set_meta(doc="A sweep.\n\nMore.")
        database.add(cells)
        yield database


def shown(first, now):
    out = io.StringIO()
    Console(file=out, width=120).print(watch.frame(first, now))
    return out.getvalue()


def test_a_frame_tells_counts_best_speed_and_workers(database):
    for place, value in enumerate((0.5, 0.6, 0.3, 0.4, 0.1)):
        finish(database, place, value)
    finish(database, 5, 0.0, status="failed")
    database.claim(["cell6", "cell7"], "host:1:a")
    database.claim(["cell8"], "host:2:b")
    state = watch.look(database)
    said = shown(state, state)
    assert "6/10 cells" in said
    assert said.count("█") == 24
    assert said.count("░") == 16
    assert "5 done, 1 failed, 3 running, 1 waiting" in said
    # The third setting is better with one seed; the second has two.
    assert "best so far: val nll 0.3500 (2 seeds), method=full, lr=0.1" in said
    # Two processes at 2 s a cell: 60 cells a minute, 4 left.
    assert "60 cells/min, about 4 s left" in said
    assert "host:1:a: 2 cells, seen 0 s ago" in said
    assert "host:2:b: 1 cells" in said


def test_a_silent_process_works_no_more(database):
    finish(database, 0, 0.5)
    database.claim(["cell1"], "host:1:a")
    database.connection.execute(
        "UPDATE cells SET beat = beat - ?", (2 * CLAIM_TIMEOUT,)
    )
    state = watch.look(database)
    assert state.alive == 0
    said = shown(state, state)
    assert "host:1:a: silent for 2 min; its cells are free" in said
    assert "about 18 s of work left for one process" in said


def test_after_a_while_the_rate_is_what_was_seen(database):
    finish(database, 0, 0.5, seconds=0.001)
    first = watch.look(database)
    for place in (1, 2, 3):
        finish(database, place, 0.5, seconds=0.001)
    now = watch.look(database)
    early = watch.dataclasses.replace(now, clock=first.clock + 1)
    late = watch.dataclasses.replace(now, clock=first.clock + 60)
    assert watch.rate(first, early) == pytest.approx(60_000)
    assert watch.rate(first, late) == pytest.approx(3.0)


def test_nothing_yet(database):
    state = watch.look(database)
    said = shown(state, state)
    assert "10 waiting" in said
    assert "no cell is recorded yet" in said
    assert "best so far: –" in said
    assert "no process works on it" in said


def test_damaged_rows_are_passed_over(database):
    for place in range(4):
        finish(database, place, 0.1 * (place + 1))
    database.connection.execute(
        "UPDATE cells SET result = '{\"val' WHERE key = 'cell0'"
    )
    assert watch.look(database).best[2] == pytest.approx(0.35)


def test_it_ends_when_all_are_finished(database, tmp_path, monkeypatch):
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        for place in range(5 * len(looks) - 5, 5 * len(looks)):
            finish(database, place, 0.5)

    monkeypatch.setattr(watch.time, "sleep", sleep)
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True)
    watch.watch(tmp_path, interval=0.5, console=console)
    assert looks == [0.5, 0.5]
    assert "all cells are finished" in out.getvalue()
    assert "10/10 cells" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())


def test_command_prints_one_frame_where_there_is_no_terminal(
    database, tmp_path, capsys
):
    assert main.main(["watch", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("A sweep.")
    assert "0/10 cells" in said
    assert main.main(["watch", str(tmp_path), "--interval", "0"]) == 1
    assert "interval=0.0 must be above 0 seconds" in capsys.readouterr().err
    assert main.main(["watch", str(tmp_path / "none")]) == 1
    assert "holds no sweep" in capsys.readouterr().err
