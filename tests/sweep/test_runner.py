"""Sweeps run: every cell once, whatever happens meanwhile."""

import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import time

import jax
import pytest

import jaxtl as tl
from jaxtl.cli import main
from jaxtl.core import compilation
from jaxtl.core.errors import UserError
from jaxtl.results import records
from jaxtl.results.database import DATABASE_FILE, Database, new_owner
from jaxtl.sweep import (
    runner,
    stacking,
    vectorized_loop,
    vectorized_runs,
    vectorized_step,
)
from jaxtl.sweep.axes import Grid, Halving, log
from jaxtl.sweep.grid import build_grid
from jaxtl.training import experiment_file

ROOT = pathlib.Path(tl.__file__).parent.parent

FILE = '''
"""Rates on the digits."""
import jaxtl as tl

def experiment():
    return tl.Experiment(
        model=tl.models.MLP(widths=(8,)),
        data=tl.data.Digits(labels_per_class=10),
        terms={"task": tl.losses.CrossEntropy()},
        optim=tl.optim.SGD(lr=0.1),
        steps=4,
        batch=16,
    )

SWEEP = {"optim.lr": [0.1, 0.2], "seed": range(2)}
'''


@pytest.fixture
def place(tmp_path):
    """Returns a folder with the file tiny.py."""
    (tmp_path / "tiny.py").write_text(FILE)
    return tmp_path


def sweep_of(place, axes=None, *, text=None, out="out", **settings):
    if text is not None:
        (place / "tiny.py").write_text(text)
    file = experiment_file.read_file(place / "tiny.py")
    module = sys.modules[experiment_file.MODULE + "tiny"]
    grid = build_grid(file, module.SWEEP if axes is None else axes)
    return runner.build_sweep(file, grid, place / out, **settings)


def run(made, tell=lambda outcomes: None):
    """Runs a sweep; returns its rows by key."""
    with runner.open_database(made) as database:
        runner.run(made, database, tell)
        return {entry.key: entry for entry in database.entries()}


def rows(folder):
    """Returns key -> (status, result as it is stored)."""
    with sqlite3.connect(folder / DATABASE_FILE) as connection:
        found = connection.execute("SELECT key, status, result FROM cells").fetchall()
    return {key: (status, result) for key, status, result in found}


# --- what is recorded ----------------------------------------------------------------


@pytest.mark.parametrize("mode", ["map", "vmap", "alone"])
def test_cells_are_recorded_as_runs_alone_would_be(place, mode):
    made = sweep_of(place, mode=mode)
    found = run(made)
    assert [entry.labels for entry in found.values()] == [
        {"optim.lr": lr, "seed": seed} for lr in (0.1, 0.2) for seed in (0, 1)
    ]
    for cell in made.cells:
        entry, one = found[cell.key], tl.setup(cell.exp)
        result = tl.train(one, progress=False)
        assert entry.status == "done"
        assert {*result, "seconds"} == {*entry.result} - {"lanes"}
        for split in ("val", "test"):
            assert entry.result[split] == pytest.approx(result[split], rel=1e-4)
        assert entry.curve["step"] == one.curve["step"]
        assert entry.curve["loss"] == pytest.approx(one.curve["loss"], rel=1e-4)
        lanes_of = entry.result.get("lanes")
        assert lanes_of == (None if mode == "alone" else 4)
    assert (made.folder / "experiment.py").read_text() == FILE
    collection = records.read([made.folder])
    assert collection.title == "Rates on the digits."
    assert collection.axes == {"optim.lr": (0.1, 0.2), "seed": (0, 1)}


def test_what_is_done_is_not_run_again(place):
    run(sweep_of(place))
    before, told = rows(place / "out"), []
    run(sweep_of(place), told.extend)
    assert told == []
    assert rows(place / "out") == before
    run(sweep_of(place, {"optim.lr": [0.1, 0.2, 0.3], "seed": range(2)}), told.extend)
    assert len(told) == 2, "an axis that has grown adds its cells"
    after = rows(place / "out")
    assert {key: after[key] for key in before} == before


def test_chunks_of_equal_size_compile_one_program(place):
    axes = {
        "optim.lr": log(1e-3, 0.1, 5),
        "terms.task.label_smoothing": [0.0, 0.1, 0.2],
        "seed": range(4),
    }
    before, sizes = len(compilation.stored(vectorized_step.compiled)), []
    made = sweep_of(place, axes, mode="map", most=25)
    assert len(made.cells) == 60
    run(made, lambda outcomes: sizes.append(len(outcomes)))
    assert sizes == [20, 20, 20]
    assert len(compilation.stored(vectorized_step.compiled)) == before + 1


@pytest.mark.parametrize("mode", ["map", "alone"])
def test_a_cell_that_fails_is_recorded_with_its_sentence(place, mode):
    axes = {"optim.lr": [0.1, 1e30], "data.labels_per_class": [10, 10_000]}
    found = list(run(sweep_of(place, axes, mode=mode)).values())
    assert [entry.status for entry in found] == ["done", "failed", "failed", "failed"]
    assert found[2].error.startswith("training stopped at step")
    assert "optim.lr or an optim.clip is the usual remedy" in found[2].error
    for entry in (found[1], found[3]):
        assert "labels_per_class" in entry.error
        assert entry.result == {}


def test_failed_cells_run_again_if_asked(place, capsys):
    axes = ["optim.lr=0.1,1e30", "seed=0"]
    command = ["sweep", str(place / "tiny.py"), *axes, "--out", str(place / "out")]
    assert main.main(command) == 1
    told = capsys.readouterr().err
    assert "optim.lr=1e+30, seed=0 failed: training stopped at step" in told
    assert main.main(command) == 1
    assert "training stopped" not in capsys.readouterr().err
    assert main.main([*command, "--retry"]) == 1
    assert "training stopped" in capsys.readouterr().err


def test_runs_that_turn_out_unlike_run_one_by_one(place, monkeypatch):
    def unlike(self, *_, **settings):
        raise stacking.IncompatibleRuns("an array is (3,) in one and not in another")

    monkeypatch.setattr(vectorized_runs.VectorizedRuns, "__init__", unlike)
    found = run(sweep_of(place, mode="map"))
    assert {entry.status for entry in found.values()} == {"done"}


def test_too_many_lanes_for_the_memory_are_halved(place, monkeypatch):
    train, tried = vectorized_loop.train_vectorized, []

    def full(side, **settings):
        tried.append(len(side.runs))
        if len(side.runs) > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return train(side, **settings)

    monkeypatch.setattr(vectorized_loop, "train_vectorized", full)
    found = run(sweep_of(place, mode="map"))
    assert tried == [4, 2, 2]
    assert {entry.status for entry in found.values()} == {"done"}


def test_halving_through_a_sweep(place):
    axes = {"optim.lr": [1e-4, 0.1, 0.3, 1e-3], "seed": range(2)}
    grid = Grid(axes, halving=Halving((0.5,)))
    made = sweep_of(place, grid, mode="map")
    found = list(run(made).values())
    by_rate = {entry.labels["optim.lr"]: set() for entry in found}
    for entry in found:
        by_rate[entry.labels["optim.lr"]].add(entry.status)
    assert sorted(map(str, by_rate.values())) == [
        *["{'done'}"] * 2,
        *["{'stopped'}"] * 2,
    ]
    told = []
    run(made, told.extend)
    assert told == [], "what was stopped stays so"


# --- sources -------------------------------------------------------------------------

SOURCE = FILE.replace("    return tl.Experiment(", "    made = tl.Experiment(").replace(
    "SWEEP =",
    """    import dataclasses
    init = tl.Variant("base", reset="head", per_seed=PER_SEED)
    return {"base": made, "tuned": dataclasses.replace(made, init=init)}

PER_SEED = False
SWEEP =""",
)


@pytest.mark.parametrize(("per_seed", "expected"), [(False, [0]), (True, [0, 1])])
def test_a_source_is_trained_once(place, monkeypatch, per_seed, expected):
    text = SOURCE.replace("PER_SEED = False", f"PER_SEED = {per_seed}")
    setup, seeds = runner.store.setup, []

    def counted(exp, *args, **settings):
        seeds.append(exp.seed)
        return setup(exp, *args, **settings)

    monkeypatch.setattr(runner.store, "setup", counted)
    found = run(sweep_of(place, text=text))
    assert seeds == expected
    assert {entry.status for entry in found.values()} == {"done"}
    assert all(entry.labels["variant"] == "tuned" for entry in found.values())
    assert all(entry.result["drift"] > 0 for entry in found.values())
    run(sweep_of(place, text=text))
    assert seeds == expected


def test_a_source_that_fails_is_trained_once_and_told(place, monkeypatch):
    text = (
        SOURCE.replace("made, init=init", "made, init=init, optim=tl.optim.SGD()")
        .replace("lr=0.1", "lr=1e30")
        .replace("optim.lr", "optim.momentum")
    )
    train, tried = runner.training.train, []

    def counted(one, **settings):
        tried.append(one.directory)
        return train(one, **settings)

    monkeypatch.setattr(runner.training, "train", counted)
    found = run(sweep_of(place, text=text))
    assert {entry.status for entry in found.values()} == {"failed"}
    sentences = {entry.error for entry in found.values()}
    assert len(sentences) == 1
    assert sentences.pop().startswith("its source 'base' failed: training stopped at")
    assert len(tried) == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            'tl.Variant("bsae"',
            r"init=Variant\('bsae'\) is no variant of this file; did",
        ),
        ('tl.Variant("tuned"', "variants wait for each other: tuned → tuned"),
    ],
)
def test_wrong_sources_are_told(place, change, sentence):
    with pytest.raises(UserError, match=sentence):
        sweep_of(place, text=SOURCE.replace('tl.Variant("base"', change))


def test_a_wrong_source_on_an_axis_is_told(place):
    axes = {"init": [None, tl.Variant("none")]}
    with pytest.raises(UserError, match=r"init=Variant\('none'\) is no variant"):
        sweep_of(place, axes)


# --- folders -------------------------------------------------------------------------


def test_another_experiment_is_no_continuation(place):
    run(sweep_of(place))
    other = FILE.replace("steps=4", "steps=5")
    with pytest.raises(
        UserError, match="sweep of other experiments: the experiment ch"
    ):
        run(sweep_of(place, text=other))


def test_overwriting_starts_anew(place):
    run(sweep_of(place))
    (place / "out" / "report").mkdir()
    made = sweep_of(place, text=FILE.replace("steps=4", "steps=5"))
    with runner.open_database(made, overwrite=True) as database:
        assert database.counts() == {"waiting": 4}
    assert "steps=5" in (place / "out" / "experiment.py").read_text()
    assert not (place / "out" / "report").exists()


def test_a_sweep_that_others_work_on_is_not_overwritten(place):
    made = sweep_of(place)
    with runner.open_database(made) as database:
        database.claim([made.cells[0].key], new_owner())
        with pytest.raises(UserError, match="in use by another process"):
            runner.open_database(made, overwrite=True)
        assert database.counts() == {"waiting": 3, "running": 1}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_stays_as_it_is(place, overwrite):
    (place / "out").mkdir()
    (place / "out" / "thesis.tex").write_text("text")
    with pytest.raises(UserError, match="overwr"):
        runner.open_database(sweep_of(place), overwrite=overwrite)
    assert [path.name for path in (place / "out").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"mode": "vamp"}, "mode='vamp': expected auto, vmap, map or alone"),
        ({"most": 0}, "lanes=0: expected at least 1"),
        ({"most": -1}, "lanes=-1: expected at least 1"),
    ],
)
def test_wrong_settings_are_told(place, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        sweep_of(place, **settings)


# --- damage --------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["result", "curve"])
def test_a_damaged_row_runs_again_and_no_other(place, column):
    run(sweep_of(place))
    before = rows(place / "out")
    key = list(before)[1]
    with sqlite3.connect(place / "out" / DATABASE_FILE) as connection:
        half = f"UPDATE cells SET {column} = substr({column}, 1, 9) WHERE key = ?"
        connection.execute(half, (key,))
    told = []
    found = run(sweep_of(place), told.extend)
    assert [outcome.key for outcome in told] == [key]
    assert found[key].status == "done"
    after = rows(place / "out")
    assert {k: v for k, v in after.items() if k != key} == {
        k: v for k, v in before.items() if k != key
    }


def test_a_full_disk_ends_the_sweep_and_keeps_what_there_is(place, monkeypatch):
    made, finish = sweep_of(place, mode="map", most=2), Database.finish

    def filling(self, outcomes):
        done = self.counts().get("done", 0)
        if done:
            pages = self.connection.execute("PRAGMA page_count").fetchone()[0]
            self.connection.execute(f"PRAGMA max_page_count = {pages}")
            outcomes = [o._replace(error="x" * 10**5) for o in outcomes]
        finish(self, outcomes)

    monkeypatch.setattr(Database, "finish", filling)
    with pytest.raises(UserError, match="no space is left on the disk"):
        run(made)
    monkeypatch.undo()
    before = rows(place / "out")
    statuses = sorted(status for status, _ in before.values())
    assert statuses == ["done", "done", "waiting", "waiting"]
    told = []
    run(made, told.extend)
    assert len(told) == 2
    after = rows(place / "out")
    assert {k: after[k] for k, v in before.items() if v[0] == "done"} == {
        k: v for k, v in before.items() if v[0] == "done"
    }


# --- the command ---------------------------------------------------------------------


def test_the_command_plans_runs_and_sums_up(place, capsys):
    command = ["sweep", str(place / "tiny.py"), "--out", str(place / "out")]
    assert main.main([*command, "--plan"]) == 0
    assert "4 cells in 1 program" in capsys.readouterr().out
    assert not (place / "out").exists()
    assert main.main([*command, "steps=3", "optim.lr=0.3", "seed=0..2"]) == 0
    told = capsys.readouterr().out
    assert "3/3 cells" in told
    assert "3 done; recorded in" in " ".join(told.split())
    with Database(place / "out") as database:
        assert [entry.labels for entry in database.entries()] == [
            {"optim.lr": 0.3, "seed": seed} for seed in range(3)
        ]
        assert database.entries()[0].result["steps"] == 3
        assert database.meta()["overrides"] == ["steps=3"]


def test_many_programs_are_told_before_anything_starts(place, capsys):
    axis = f"steps={','.join(map(str, range(1, 252)))}"
    command = ["sweep", str(place / "tiny.py"), axis, "optim.lr=0.1", "seed=0"]
    assert main.main([*command, "--plan"]) == 0
    told = capsys.readouterr()
    assert told.err.startswith("warning: 251 programs will be compiled, since 'steps'")


def test_a_file_without_axes_is_told(place, capsys):
    (place / "tiny.py").write_text(FILE[: FILE.index("SWEEP")])
    assert main.main(["sweep", str(place / "tiny.py")]) == 1
    assert "has no SWEEP, and no axis is given; try" in capsys.readouterr().err


# --- processes -----------------------------------------------------------------------

LONG = FILE.replace("steps=4", "steps=1500").replace("[0.1, 0.2]", "[0.1, 0.2, 0.3]")
LONG = LONG.replace("range(2)", "range(8)")  # twelve chunks of two lanes

WORKER = """
import sys
from jaxtl.cli import grid, main
from jaxtl.sweep import runner

sweep = grid.prepare(main.parse(sys.argv[1:]))
print("ready", flush=True)
sys.stdin.readline()
with runner.open_database(sweep) as database:
    runner.run(sweep, database, lambda done: print(*(o.key for o in done), flush=True))
"""


def start(place, *program):
    given = ["sweep", str(place / "tiny.py"), "--out", str(place / "out")]
    cache = str(jax.config.jax_compilation_cache_dir)
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", *program, *given, "--lanes", "2"],
        cwd=ROOT,
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": cache},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(place, more, process):
    """Waits until a sweep has more cells done than that, and is at work on others."""
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        if (place / "out" / DATABASE_FILE).exists():
            with Database(place / "out") as database:
                found = database.counts()
                if found.get("done", 0) > more and found.get("running"):
                    return
        time.sleep(0.005)
    raise AssertionError(process.communicate())


def counts(place):
    with Database(place / "out") as database:
        return database.counts()


def done(place):
    found = rows(place / "out")
    return {key: row for key, row in found.items() if row[0] == "done"}


def test_a_sweep_that_is_stopped_and_killed_goes_on_where_it_was(place):
    (place / "tiny.py").write_text(LONG)
    module = ("-m", "jaxtl")
    stopped = start(place, *module)
    wait_for(place, 0, stopped)
    stopped.send_signal(signal.SIGINT)
    told = stopped.communicate(timeout=60)[1]
    assert stopped.returncode == 130, told
    assert "stopped; the same command goes on." in told
    first = done(place)
    assert 0 < len(first) < 24
    assert counts(place) == {"done": len(first), "waiting": 24 - len(first)}

    killed = start(place, *module)
    wait_for(place, len(first), killed)
    killed.kill()
    killed.communicate(timeout=60)
    second = done(place)
    assert len(first) < len(second) < 24
    assert counts(place)["running"] == 2, "what it claimed is left behind"
    assert {key: second[key] for key in first} == first

    # Two processes end it together, the claims of the one that was killed included.
    workers = [start(place, "-c", WORKER) for _ in range(2)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    told = [worker.communicate(timeout=240) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], told
    assert counts(place) == {"done": 24}
    last = done(place)
    assert {key: last[key] for key in second} == second
    ran = [key for out, _ in told for key in out.split()]
    assert sorted(ran) == sorted(set(last) - set(second)), "each by one of them, once"
    seeds = [json.loads(result)["seed"] for _, result in last.values()]
    assert sorted(seeds) == sorted([*range(8)] * 3)


def test_processes_may_begin_a_sweep_at_once(place):
    workers = [start(place, "-c", WORKER) for _ in range(2)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    told = [worker.communicate(timeout=240) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], told
    ran = [key for out, _ in told for key in out.split()]
    assert sorted(ran) == sorted(done(place))
    assert len(ran) == 4


def test_a_second_ctrl_c_does_not_lose_what_is_done(place, monkeypatch):
    """As does one while a run takes its steps alone."""
    made, train = sweep_of(place, mode="alone"), runner.training.train

    def interrupted(one, **settings):
        if one.exp.seed == 1:
            raise KeyboardInterrupt("stopped after step 2; nothing is stored.")
        return train(one, **settings)

    monkeypatch.setattr(runner.training, "train", interrupted)
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        run(made)
    assert counts(place) == {"done": 1, "waiting": 3}
