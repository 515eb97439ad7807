"""Runs of sweeps: every cell trains once, whatever interrupts them."""

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
from jaxtl.core import compilation, devices
from jaxtl.core.errors import UserError
from jaxtl.results import records
from jaxtl.results.database import DATABASE_FILE, Database, new_owner
from jaxtl.sweep import (
    local_workers,
    runner,
    stacking,
    vectorized_loop,
    vectorized_step,
)
from jaxtl.sweep.axes import Grid, Halving, log
from jaxtl.sweep.grid import build_grid
from jaxtl.sweep.sweep_folder import build_sweep, open_database
from jaxtl.sweep.vectorized_runs import VectorizedRuns
from jaxtl.training import experiment_file, loop, setup

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
def folder(tmp_path):
    """A folder with the file tiny.py."""
    (tmp_path / "tiny.py").write_text(FILE)
    return tmp_path


def tiny_sweep(folder, axes=None, *, text=None, **settings):
    """The sweep of tiny.py in the folder "out", with other axes or another text."""
    if text is not None:
        (folder / "tiny.py").write_text(text)
    file = experiment_file.read_file(folder / "tiny.py")
    module = sys.modules[experiment_file.MODULE + "tiny"]
    grid = build_grid(file, module.SWEEP if axes is None else axes)
    return build_sweep(file, grid, folder / "out", **settings)


def run(sweep, on_outcomes=lambda outcomes: None):
    """Runs a sweep; returns its entries by key."""
    with open_database(sweep) as database:
        runner.run(sweep, database, on_outcomes)
        return {entry.key: entry for entry in database.entries()}


def statuses_of(entries):
    return {entry.status for entry in entries.values()}


def stored_rows(folder):
    """{key: (status, result as text)} of the sweep in the folder "out"."""
    with sqlite3.connect(folder / "out" / DATABASE_FILE) as connection:
        rows = connection.execute("SELECT key, status, result FROM cells").fetchall()
    return {key: (status, result) for key, status, result in rows}


def done_rows(folder):
    rows = stored_rows(folder)
    return {key: row for key, row in rows.items() if row[0] == "done"}


def counts(folder):
    with Database(folder / "out") as database:
        return database.counts()


# --- recorded outcomes ---------------------------------------------------------------


@pytest.mark.parametrize("mode", ["map", "vmap", "alone"])
def test_cells_are_recorded_as_single_runs_would_be(folder, mode):
    sweep = tiny_sweep(folder, mode=mode)
    entries = run(sweep)
    assert [entry.labels for entry in entries.values()] == [
        {"optim.lr": lr, "seed": seed} for lr in (0.1, 0.2) for seed in (0, 1)
    ]
    for cell in sweep.cells:
        entry, single = entries[cell.key], tl.setup(cell.exp)
        result = tl.train(single, progress=False)
        assert entry.status == "done"
        assert {*result, "seconds"} == {*entry.result} - {"lanes"}
        for split in ("val", "test"):
            assert entry.result[split] == pytest.approx(result[split], rel=1e-4)
        assert entry.curve["step"] == single.curve["step"]
        assert entry.curve["loss"] == pytest.approx(single.curve["loss"], rel=1e-4)
        assert entry.result.get("lanes") == (None if mode == "alone" else 4)
    assert (sweep.folder / "experiment.py").read_text() == FILE
    collection = records.read([sweep.folder])
    assert collection.title == "Rates on the digits."
    assert collection.axes == {"optim.lr": (0.1, 0.2), "seed": (0, 1)}


def test_cells_that_are_done_do_not_run_again(folder):
    run(tiny_sweep(folder))
    before, outcomes = stored_rows(folder), []
    run(tiny_sweep(folder), outcomes.extend)
    assert outcomes == []
    assert stored_rows(folder) == before
    longer = {"optim.lr": [0.1, 0.2, 0.3], "seed": range(2)}
    run(tiny_sweep(folder, longer), outcomes.extend)
    assert len(outcomes) == 2, "an axis that has grown adds its cells"
    after = stored_rows(folder)
    assert {key: after[key] for key in before} == before


def test_chunks_of_equal_size_compile_one_program(folder):
    axes = {
        "optim.lr": log(1e-3, 0.1, 5),
        "terms.task.label_smoothing": [0.0, 0.1, 0.2],
        "seed": range(4),
    }
    before, sizes = len(compilation.stored(vectorized_step.compiled)), []
    sweep = tiny_sweep(folder, axes, mode="map", max_replicas=25)
    assert len(sweep.cells) == 60
    run(sweep, lambda outcomes: sizes.append(len(outcomes)))
    assert sizes == [20, 20, 20]
    assert len(compilation.stored(vectorized_step.compiled)) == before + 1


@pytest.mark.parametrize("mode", ["map", "alone"])
def test_a_cell_that_fails_is_recorded_with_its_error(folder, mode):
    axes = {"optim.lr": [0.1, 1e30], "data.labels_per_class": [10, 10_000]}
    entries = list(run(tiny_sweep(folder, axes, mode=mode)).values())
    assert [entry.status for entry in entries] == ["done", "failed", "failed", "failed"]
    assert entries[2].error.startswith("training stopped at step")
    assert "optim.lr or an optim.clip is the usual remedy" in entries[2].error
    for entry in (entries[1], entries[3]):
        assert "labels_per_class" in entry.error
        assert entry.result == {}


def test_failed_cells_run_again_with_retry(folder, capsys):
    axes = ["optim.lr=0.1,1e30", "seed=0"]
    command = ["sweep", str(folder / "tiny.py"), *axes, "--out", str(folder / "out")]
    assert main.main(command) == 1
    message = "optim.lr=1e+30, seed=0 failed: training stopped at step"
    assert message in capsys.readouterr().err
    assert main.main(command) == 1
    assert "training stopped" not in capsys.readouterr().err
    assert main.main([*command, "--retry"]) == 1
    assert "training stopped" in capsys.readouterr().err


def test_runs_that_can_not_be_stacked_run_one_by_one(folder, monkeypatch):
    def incompatible(self, *_, **settings):
        raise stacking.IncompatibleRuns("an array is (3,) in one run")

    monkeypatch.setattr(VectorizedRuns, "__init__", incompatible)
    assert statuses_of(run(tiny_sweep(folder, mode="map"))) == {"done"}


def test_replicas_that_exceed_the_memory_are_halved(folder, monkeypatch):
    train, sizes = vectorized_loop.train_vectorized, []

    def out_of_memory(replicas, **settings):
        sizes.append(len(replicas.runs))
        if len(replicas.runs) > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return train(replicas, **settings)

    monkeypatch.setattr(vectorized_loop, "train_vectorized", out_of_memory)
    entries = run(tiny_sweep(folder, mode="map"))
    assert sizes == [4, 2, 2]
    assert statuses_of(entries) == {"done"}


def test_halving_stops_half_of_the_settings_for_good(folder):
    axes = {"optim.lr": [1e-4, 0.1, 0.3, 1e-3], "seed": range(2)}
    sweep = tiny_sweep(folder, Grid(axes, halving=Halving((0.5,))), mode="map")
    entries = list(run(sweep).values())
    by_rate = {entry.labels["optim.lr"]: set() for entry in entries}
    for entry in entries:
        by_rate[entry.labels["optim.lr"]].add(entry.status)
    assert sorted(map(str, by_rate.values())) == [
        *["{'done'}"] * 2,
        *["{'stopped'}"] * 2,
    ]
    outcomes = []
    run(sweep, outcomes.extend)
    assert outcomes == [], "stopped cells do not run again"


# --- sources -------------------------------------------------------------------------

SOURCE = FILE.replace("    return tl.Experiment(", "    base = tl.Experiment(").replace(
    "SWEEP =",
    """    import dataclasses
    init = tl.Variant("base", reset="head", per_seed=PER_SEED)
    return {"base": base, "tuned": dataclasses.replace(base, init=init)}

PER_SEED = False
SWEEP =""",
)


@pytest.mark.parametrize(("per_seed", "expected"), [(False, [0]), (True, [0, 1])])
def test_a_source_is_trained_once(folder, monkeypatch, per_seed, expected):
    text = SOURCE.replace("PER_SEED = False", f"PER_SEED = {per_seed}")
    set_up, seeds = setup.setup, []

    def counted(exp, *args, **settings):
        seeds.append(exp.seed)
        return set_up(exp, *args, **settings)

    monkeypatch.setattr(setup, "setup", counted)
    entries = run(tiny_sweep(folder, text=text))
    assert seeds == expected
    assert statuses_of(entries) == {"done"}
    assert all(entry.labels["variant"] == "tuned" for entry in entries.values())
    assert all(entry.result["drift"] > 0 for entry in entries.values())
    run(tiny_sweep(folder, text=text))
    assert seeds == expected


def test_a_source_that_fails_is_trained_once_and_fails_its_cells(folder, monkeypatch):
    text = (
        SOURCE.replace("base, init=init", "base, init=init, optim=tl.optim.SGD()")
        .replace("lr=0.1", "lr=1e30")
        .replace("optim.lr", "optim.momentum")
    )
    train, directories = loop.train, []

    def counted(run, **settings):
        directories.append(run.directory)
        return train(run, **settings)

    monkeypatch.setattr(loop, "train", counted)
    entries = run(tiny_sweep(folder, text=text))
    assert statuses_of(entries) == {"failed"}
    [error] = {entry.error for entry in entries.values()}
    assert error.startswith("its source 'base' failed: training stopped at")
    assert len(directories) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            'tl.Variant("bsae"',
            r"init=Variant\('bsae'\) is no variant of this file; did",
        ),
        ('tl.Variant("tuned"', "variants wait for each other: tuned → tuned"),
    ],
)
def test_wrong_sources_are_refused(folder, change, message):
    with pytest.raises(UserError, match=message):
        tiny_sweep(folder, text=SOURCE.replace('tl.Variant("base"', change))


def test_a_wrong_source_on_an_axis_is_refused(folder):
    axes = {"init": [None, tl.Variant("none")]}
    with pytest.raises(UserError, match=r"init=Variant\('none'\) is no variant"):
        tiny_sweep(folder, axes)


# --- folders -------------------------------------------------------------------------


def test_a_changed_experiment_does_not_continue_a_sweep(folder):
    run(tiny_sweep(folder))
    text = FILE.replace("steps=4", "steps=5")
    message = "sweep of other experiments: the experiment changed"
    with pytest.raises(UserError, match=message):
        run(tiny_sweep(folder, text=text))


def test_overwriting_starts_from_the_beginning(folder):
    run(tiny_sweep(folder))
    (folder / "out" / "report").mkdir()
    sweep = tiny_sweep(folder, text=FILE.replace("steps=4", "steps=5"))
    with open_database(sweep, overwrite=True) as database:
        assert database.counts() == {"waiting": 4}
    assert "steps=5" in (folder / "out" / "experiment.py").read_text()
    assert not (folder / "out" / "report").exists()


def test_a_sweep_in_use_by_another_process_is_not_overwritten(folder):
    sweep = tiny_sweep(folder)
    with open_database(sweep) as database:
        database.claim([sweep.cells[0].key], new_owner())
        with pytest.raises(UserError, match="in use by another process"):
            open_database(sweep, overwrite=True)
        assert database.counts() == {"waiting": 3, "running": 1}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_other_files_is_left_unchanged(folder, overwrite):
    (folder / "out").mkdir()
    (folder / "out" / "thesis.tex").write_text("text")
    with pytest.raises(UserError, match="overwr"):
        open_database(tiny_sweep(folder), overwrite=overwrite)
    assert [path.name for path in (folder / "out").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "vamp"}, "mode='vamp': expected auto, vmap, map or alone"),
        ({"max_replicas": 0}, "lanes=0: expected at least 1"),
        ({"max_replicas": -1}, "lanes=-1: expected at least 1"),
    ],
)
def test_wrong_settings_are_refused(folder, settings, message):
    with pytest.raises(UserError, match=message):
        tiny_sweep(folder, **settings)


# --- damage --------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["result", "curve"])
def test_only_the_cell_of_a_damaged_row_runs_again(folder, column):
    run(tiny_sweep(folder))
    before = stored_rows(folder)
    key = list(before)[1]
    with sqlite3.connect(folder / "out" / DATABASE_FILE) as connection:
        cut = f"UPDATE cells SET {column} = substr({column}, 1, 9) WHERE key = ?"
        connection.execute(cut, (key,))
    outcomes = []
    entries = run(tiny_sweep(folder), outcomes.extend)
    assert [outcome.key for outcome in outcomes] == [key]
    assert entries[key].status == "done"
    after = stored_rows(folder)
    assert {k: v for k, v in after.items() if k != key} == {
        k: v for k, v in before.items() if k != key
    }


def test_a_full_disk_ends_the_sweep_and_keeps_finished_cells(folder, monkeypatch):
    sweep = tiny_sweep(folder, mode="map", max_replicas=2)
    finish = Database.finish

    def fill_disk(self, outcomes):
        if self.counts().get("done", 0):
            pages = self.connection.execute("PRAGMA page_count").fetchone()[0]
            self.connection.execute(f"PRAGMA max_page_count = {pages}")
            outcomes = [o._replace(error="x" * 10**5) for o in outcomes]
        finish(self, outcomes)

    monkeypatch.setattr(Database, "finish", fill_disk)
    with pytest.raises(UserError, match="no space is left on the disk"):
        run(sweep)
    monkeypatch.undo()
    statuses = sorted(status for status, _ in stored_rows(folder).values())
    assert statuses == ["done", "done", "waiting", "waiting"]
    before, outcomes = done_rows(folder), []
    run(sweep, outcomes.extend)
    assert len(outcomes) == 2
    after = stored_rows(folder)
    assert {key: after[key] for key in before} == before


# --- the command ---------------------------------------------------------------------


def test_the_command_plans_runs_and_summarizes(folder, capsys):
    command = ["sweep", str(folder / "tiny.py"), "--out", str(folder / "out")]
    assert main.main([*command, "--plan"]) == 0
    assert "4 cells in 1 program" in capsys.readouterr().out
    assert not (folder / "out").exists()
    assert main.main([*command, "steps=3", "optim.lr=0.3", "seed=0..2"]) == 0
    output = capsys.readouterr().out
    assert "3/3 cells" in output
    assert "3 done; recorded in" in " ".join(output.split())
    with Database(folder / "out") as database:
        assert [entry.labels for entry in database.entries()] == [
            {"optim.lr": 0.3, "seed": seed} for seed in range(3)
        ]
        assert database.entries()[0].result["steps"] == 3
        assert database.meta()["overrides"] == ["steps=3"]


def test_many_programs_cause_a_warning_before_training(folder, capsys):
    axis = f"steps={','.join(map(str, range(1, 252)))}"
    command = ["sweep", str(folder / "tiny.py"), axis, "optim.lr=0.1", "seed=0"]
    assert main.main([*command, "--plan"]) == 0
    expected = "warning: 251 programs will be compiled, since 'steps'"
    assert capsys.readouterr().err.startswith(expected)


def test_a_file_without_axes_is_refused(folder, capsys):
    (folder / "tiny.py").write_text(FILE[: FILE.index("SWEEP")])
    assert main.main(["sweep", str(folder / "tiny.py")]) == 1
    assert "has no SWEEP, and no axis is given; try" in capsys.readouterr().err


# --- processes -----------------------------------------------------------------------

LONG = FILE.replace("steps=4", "steps=1500").replace("[0.1, 0.2]", "[0.1, 0.2, 0.3]")
LONG = LONG.replace("range(2)", "range(8)")  # twelve chunks of two replicas

WORKER = """
import sys
from jaxtl.cli import grid, main
from jaxtl.sweep import runner
from jaxtl.sweep.sweep_folder import open_database

sweep = grid.prepare(main.parse(sys.argv[1:]))
print("ready", flush=True)
sys.stdin.readline()
with open_database(sweep) as database:
    runner.run(sweep, database, lambda done: print(*(o.key for o in done), flush=True))
"""


def start(folder, *program):
    """Starts a process that runs the sweep of tiny.py."""
    arguments = ["sweep", str(folder / "tiny.py"), "--out", str(folder / "out")]
    cache = str(jax.config.jax_compilation_cache_dir)
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", *program, *arguments, "--lanes", "2"],
        cwd=ROOT,
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": cache},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_two_workers(folder):
    """Runs the sweep in two processes at once; returns the keys that both trained."""
    workers = [start(folder, "-c", WORKER) for _ in range(2)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    outputs = [worker.communicate(timeout=240) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    return [key for output, _ in outputs for key in output.split()]


def wait_until_done(folder, count, process):
    """Waits until more than `count` cells are done and others are running."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "out" / DATABASE_FILE).exists():
            with Database(folder / "out") as database:
                statuses = database.counts()
                if statuses.get("done", 0) > count and statuses.get("running"):
                    return
        time.sleep(0.005)
    raise AssertionError(process.communicate())


def test_a_sweep_that_is_stopped_and_killed_continues(folder):
    (folder / "tiny.py").write_text(LONG)
    command = ("-m", "jaxtl")
    stopped = start(folder, *command)
    wait_until_done(folder, 0, stopped)
    stopped.send_signal(signal.SIGTERM)
    errors = stopped.communicate(timeout=60)[1]
    assert stopped.returncode == 128 + signal.SIGTERM, errors
    assert "stopped; the same command goes on." in errors
    first = done_rows(folder)
    assert 0 < len(first) < 24
    assert counts(folder) == {"done": len(first), "waiting": 24 - len(first)}

    killed = start(folder, *command)
    wait_until_done(folder, len(first), killed)
    killed.kill()
    killed.communicate(timeout=60)
    second = done_rows(folder)
    assert len(first) < len(second) < 24
    assert counts(folder)["running"] == 2, "a killed process leaves its claims behind"
    assert {key: second[key] for key in first} == first

    # Two processes finish the sweep, the cells that the killed one claimed included.
    keys = run_two_workers(folder)
    assert counts(folder) == {"done": 24}
    last = done_rows(folder)
    assert {key: last[key] for key in second} == second
    assert sorted(keys) == sorted(set(last) - set(second)), "each by one process, once"
    seeds = [json.loads(result)["seed"] for _, result in last.values()]
    assert sorted(seeds) == sorted([*range(8)] * 3)


def test_processes_may_start_a_sweep_at_once(folder):
    keys = run_two_workers(folder)
    assert sorted(keys) == sorted(done_rows(folder))
    assert len(keys) == 4


def test_an_interrupt_inside_a_single_run_keeps_finished_cells(folder, monkeypatch):
    sweep, train = tiny_sweep(folder, mode="alone"), loop.train

    def interrupted(run, **settings):
        if run.exp.seed == 1:
            raise KeyboardInterrupt("stopped after step 2; nothing is stored.")
        return train(run, **settings)

    monkeypatch.setattr(loop, "train", interrupted)
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        run(sweep)
    assert counts(folder) == {"done": 1, "waiting": 3}


CONVOLUTIONS = FILE.replace("MLP(widths=(8,))", "CNN(widths=(2, 2), units=4)")


def test_processes_share_the_cells_of_a_grid(folder, monkeypatch, capsys):
    monkeypatch.setattr(devices, "core_count", lambda: 2)
    (folder / "tiny.py").write_text(CONVOLUTIONS)
    command = ["sweep", str(folder / "tiny.py"), "optim.lr=0.1,1e38", "--out"]
    assert main.main([*command, str(folder / "out"), "--workers", "2"]) == 1
    output = capsys.readouterr()
    assert "2 done, 2 failed" in output.out
    assert "optim.lr=1e+38, seed=0 failed" in output.err
    with Database(folder / "out") as database:
        owners = database.owners()
    assert owners == {}  # no process is left


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--workers", "0"], "--workers 0: expected 1 to "),
        (["--workers", "1000"], "--workers 1000: expected 1 to "),
        (["--workers", "2", "--search", "tpe"], "--workers belongs to a grid"),
    ],
)
def test_a_number_of_processes_without_cores_is_refused(
    folder, capsys, arguments, sentence
):
    assert main.main(["sweep", str(folder / "tiny.py"), *arguments]) == 1
    assert sentence in capsys.readouterr().err


def test_processes_that_end_before_all_cells_are_told(folder, monkeypatch, capsys):
    monkeypatch.setattr(devices, "core_count", lambda: 2)
    monkeypatch.setattr(local_workers, "_START", "import sys; sys.exit('no jax here')")
    command = ["sweep", str(folder / "tiny.py"), "--out", str(folder / "out")]
    assert main.main([*command, "--workers", "2"]) == 1
    assert "4 of 4 cells did not run: no jax here" in capsys.readouterr().err
