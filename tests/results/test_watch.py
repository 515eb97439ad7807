"""The live view of a sweep, from databases in known states."""

import dataclasses
import io
import re
import time

import pytest
from rich.console import Console

from jaxtl.cli import main
from jaxtl.results import watch
from jaxtl.results.database import CLAIM_TIMEOUT, Database, Outcome


def finish(database, index, value, seconds=2.0, status="done"):
    result = {"val": {"nll": value, "accuracy": 1 - value}, "monitor": "nll"}
    result["seconds"] = seconds
    database.finish([Outcome(f"cell{index}", status, result, {}, "")])


@pytest.fixture
def database(tmp_path):
    """A database of ten cells: five settings with two seeds."""
    cells = [
        (f"cell{i}", {"method": "full", "optim.lr": i // 2 / 10, "seed": i % 2})
        for i in range(10)
    ]
    with Database(tmp_path, create=True) as database:
        database.set_meta(doc="A sweep.\n\nMore.")
        database.add(cells)
        yield database


def rendered(first, current):
    out = io.StringIO()
    Console(file=out, width=120).print(watch.render(first, current))
    return out.getvalue()


def test_the_view_shows_counts_the_best_setting_speed_and_processes(database):
    for index, value in enumerate((0.5, 0.6, 0.3, 0.4, 0.1)):
        finish(database, index, value)
    finish(database, 5, 0.0, status="failed")
    database.claim(["cell6", "cell7"], "host:1:a")
    database.claim(["cell8"], "host:2:b")
    state = watch.read_state(database)
    text = rendered(state, state)
    assert "6/10 cells" in text
    assert text.count("█") == 24
    assert text.count("░") == 16
    assert "5 done, 1 failed, 3 running, 1 waiting" in text
    # The third setting is better with one seed; the second has two.
    assert "best so far: val nll 0.3500 (2 seeds), method=full, lr=0.1" in text
    # Two processes at 2 s a cell: 60 cells a minute, 4 left.
    assert "60 cells/min, about 4 s left" in text
    assert "host:1:a: 2 cells, seen 0 s ago" in text
    assert "host:2:b: 1 cells" in text


def test_a_process_without_a_heartbeat_is_silent(database):
    finish(database, 0, 0.5)
    database.claim(["cell1"], "host:1:a")
    database.connection.execute(
        "UPDATE cells SET beat = beat - ?", (2 * CLAIM_TIMEOUT,)
    )
    state = watch.read_state(database)
    assert state.alive == 0
    text = rendered(state, state)
    assert "host:1:a: silent for 2 min; its cells are free" in text
    assert "about 18 s of work left for one process" in text


def test_the_rate_is_the_observed_one_after_half_a_minute(database):
    finish(database, 0, 0.5, seconds=0.001)
    first = watch.read_state(database)
    for index in (1, 2, 3):
        finish(database, index, 0.5, seconds=0.001)
    current = watch.read_state(database)
    early = dataclasses.replace(current, clock=first.clock + 1)
    late = dataclasses.replace(current, clock=first.clock + 60)
    assert watch.cells_per_minute(first, early) == pytest.approx(60_000)
    assert watch.cells_per_minute(first, late) == pytest.approx(3.0)


def test_a_sweep_that_has_not_started(database):
    state = watch.read_state(database)
    text = rendered(state, state)
    assert "10 waiting" in text
    assert "no cell is recorded yet" in text
    assert "best so far: –" in text
    assert "no process works on it" in text


def test_damaged_rows_are_left_out(database):
    for index in range(4):
        finish(database, index, 0.1 * (index + 1))
    database.connection.execute(
        "UPDATE cells SET result = '{\"val' WHERE key = 'cell0'"
    )
    assert watch.read_state(database).best.mean == pytest.approx(0.35)


def test_watching_ends_when_all_cells_are_finished(database, tmp_path, monkeypatch):
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        for index in range(5 * len(pauses) - 5, 5 * len(pauses)):
            finish(database, index, 0.5)

    monkeypatch.setattr(time, "sleep", sleep)
    out = io.StringIO()
    terminal = Console(file=out, width=100, force_terminal=True)
    watch.watch(tmp_path, interval=0.5, terminal=terminal)
    assert pauses == [0.5, 0.5]
    assert "all cells are finished" in out.getvalue()
    assert "10/10 cells" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())


def test_the_command_prints_once_where_there_is_no_terminal(database, tmp_path, capsys):
    assert main.main(["watch", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("A sweep.")
    assert "0/10 cells" in text
    assert main.main(["watch", str(tmp_path), "--interval", "0"]) == 1
    assert "interval=0.0 must be above 0 seconds" in capsys.readouterr().err
    assert main.main(["watch", str(tmp_path / "none")]) == 1
    assert "holds no sweep" in capsys.readouterr().err
