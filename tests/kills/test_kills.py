"""Whenever a command is killed or stopped, its work goes on and ends the same.

Moments are drawn evenly over the time that the command takes undisturbed, from jax's
start and the first compilation to the last file.
"""

import contextlib
import json
import os
import pathlib
import re
import signal
import sqlite3

import jax
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core import checkpoint
from jaxtl.results.database import DATABASE_FILE
from jaxtl.training import run_dir

pytestmark = pytest.mark.slow

# Signal -> moments of a run (two kills each), of a study, of a sweep, of workers: 50 by
# SIGKILL, 24 by SIGTERM, 12 each by Ctrl-C and by a closed terminal.
COUNTS = {
    signal.SIGKILL: (12, 10, 9, 7),
    signal.SIGTERM: (6, 5, 4, 3),
    signal.SIGINT: (3, 3, 3, 0),
    signal.SIGHUP: (3, 3, 3, 0),
}
ROOT = pathlib.Path(tl.__file__).parents[1]

SINGLE = '''
"""One run on the digits."""
import jaxtl as tl

def experiment():
    return tl.Experiment(
        model=tl.models.MLP(widths=(8,), dropout=0.3),
        data=tl.data.Digits(labels_per_class=10),
        terms={"task": tl.losses.CrossEntropy(label_smoothing=0.1)},
        optim=tl.optim.AdamW(lr=tl.optim.Cosine(peak=0.02, warmup=3)),
        steps=24, batch=16, log_every=2, evaluate_every=7, save_every=3,
        monitor="nll",
    )
'''
STUDY = (
    SINGLE.replace("def experiment", "def _base").replace("steps=24", "steps=9")
    + """
import dataclasses

def experiment():
    start = tl.Variant("source", reset="head")
    return {"source": _base(), "tuned": dataclasses.replace(_base(), init=start)}

SEEDS = (0, 1)
"""
)
COMMANDS = {"run": ("run",), "sweep": ("sweep", "--lanes", 3)}
SWEEP = SINGLE + '\nSWEEP = {"optim.lr": [0.01, 0.02, 0.03], "seed": range(4)}\n'


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the experiment files, a compilation cache, and the fork server."""
    folder = tmp_path_factory.mktemp("kills")
    texts = {"single": SINGLE, "study": STUDY, "grid": SWEEP}
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(ROOT / "tests/kills"), str(ROOT)])
        )
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder / "cache"))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patch.setenv("XDG_CACHE_HOME", str(folder / "features"))
        yield folder


@pytest.fixture
def live(place, tmp_path):
    """Returns a function: starts a process that runs a command line."""
    import lives

    def start(*arguments, name="output"):
        return lives.Life(tmp_path / name, *arguments)

    return start


def undisturbed(live, *arguments):
    """Runs a command twice; returns the seconds of the second time."""
    *command, out = arguments
    for suffix in ("0", ""):
        life = live(*command, f"{out}{suffix}").end()
        assert life.code == 0, life.text
    return life.seconds


def moments(seconds, count, seed):
    """Times of kills, one in each of `count` equal parts of `seconds`."""
    rng = np.random.default_rng(seed)
    return [seconds * (i + rng.random()) / count for i in range(count)]


def stopped(life, number, after):
    """Ends a process by a signal; it says so in a sentence, with the signal's code."""
    life.kill(number, after)
    life.end()
    if "Traceback" in life.text:  # of a callback of C++, which prints what it drops
        assert "/jaxtl/" not in life.text, life.text
    if number != signal.SIGKILL:
        # −number: before the command has begun, whatever ends every program.
        assert life.code in (0, 128 + number, -number), life.text
    return life


def rows(run):
    """The lines of metrics.jsonl without what the clock wrote."""
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in x.items() if k != "examples_per_second"} for x in lines]


def same_run(run, expected):
    """Compares all that two finished runs left, bit for bit."""
    result, wanted = (run_dir.read_json(d / "result.json") for d in (run, expected))
    for name in ("val", "test", "steps", "chosen", "examples", "seed"):
        assert result[name] == wanted[name], name
    assert rows(run) == rows(expected)
    folder, wanted = run / "checkpoints", expected / "checkpoints"
    step = checkpoint.latest(wanted)
    assert checkpoint.latest(folder) == step
    for item in ("last", "best", "state"):
        pair = (checkpoint.read(d, step, item) for d in (folder, wanted))
        jax.tree.map(np.testing.assert_array_equal, *pair)
    assert files(run) == files(expected)


def files(folder):
    """Names of the files of a folder, without checkpoints: no half file among them."""
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    return {name for name in names if "checkpoints" not in name}


def go_on(live, file, run):
    """The command that a user types after a kill: resume, or run if nothing began."""
    began = (run / run_dir.MARK).exists() or (run / run_dir.STUDY).exists()
    return live("resume", run) if began else live("run", file, "--out", run)


def reached(run):
    """The step of a run's last checkpoint, or 0."""
    return checkpoint.latest(run / "checkpoints") or 0


@pytest.fixture(scope="module")
def whole(place):
    """Returns a function: an undisturbed directory of a file, and its seconds."""
    import lives

    done = {}

    def get(command, name):
        out = place / f"whole-{command}-{name}"
        if out not in done:

            def start(*arguments):
                return lives.Life(place / "output", *arguments)

            file = place / f"{name}.py"
            done[out] = undisturbed(start, *COMMANDS[command], file, "--out", out)
        return out, done[out]

    return get


@pytest.mark.parametrize("number", COUNTS)
def test_a_run(place, live, whole, tmp_path, number):
    expected, seconds = whole("run", "single")
    file = place / "single.py"
    for i, after in enumerate(moments(seconds, COUNTS[number][0], number)):
        run, before = tmp_path / str(i), 0
        for again in range(3):  # the third life is undisturbed
            life = go_on(live, file, run)
            if again < 2:
                stopped(life, number, after / (again + 1))
            life.end()
            assert reached(run) >= before, "no death loses a checkpoint"
            before = reached(run)
            if told := re.search(r"after step (\d+) of .* checkpoint is", life.text):
                assert before == int(told[1])
                assert life.code == 128 + number
        assert life.code == 0, life.text
        same_run(run, expected)


@pytest.mark.parametrize("number", COUNTS)
def test_a_study(place, live, whole, tmp_path, number):
    expected, seconds = whole("run", "study")
    for i, after in enumerate(moments(seconds, COUNTS[number][1], number)):
        run = tmp_path / str(i)
        life = stopped(go_on(live, place / "study.py", run), number, after)
        finished = {p: p.read_bytes() for p in run.rglob("result.json")}
        if life.code == 0:
            assert len(finished) == len([*expected.rglob("result.json")])
        assert go_on(live, place / "study.py", run).end().code == 0
        for path, content in finished.items():
            assert path.read_bytes() == content, "a finished run is left alone"
        for other in sorted(expected.rglob("result.json")):
            same_run(run / other.parent.relative_to(expected), other.parent)
        assert files(run) == files(expected)


TABLES = "SELECT * FROM sqlite_master WHERE name = 'cells'"


def cells(folder):
    """Key -> (status, result without what the clock wrote) of a sweep's cells."""
    if not (folder / DATABASE_FILE).exists():
        return {}
    with sqlite3.connect(folder / DATABASE_FILE) as connection:
        if not connection.execute(TABLES).fetchall():
            return {}  # it was killed when the file had just been made
        stored = connection.execute("SELECT key, status, result, curve FROM cells")
        return {
            key: (status, timeless(json.loads(result or "{}")), curve)
            for key, status, result, curve in stored
        }


def timeless(result):
    return {k: v for k, v in result.items() if "second" not in k}


def is_done(row):
    return row[0] == "done"


@pytest.mark.parametrize("number", COUNTS)
def test_a_sweep(place, live, whole, tmp_path, number):
    expected, seconds = whole("sweep", "grid")
    for i, after in enumerate(moments(seconds, COUNTS[number][2], number)):
        folder = tmp_path / str(i)
        command = (*COMMANDS["sweep"], place / "grid.py", "--out", folder)
        stopped(live(*command), number, after)
        before = cells(folder)
        statuses = {row[0] for row in before.values()}
        if number != signal.SIGKILL:
            assert "running" not in statuses, "a stopped process hands its cells back"
        assert live(*command).end().code == 0
        after_kill = cells(folder)
        for key, row in before.items():
            assert not is_done(row) or after_kill[key] == row
        assert after_kill == cells(expected)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers(place, live, tmp_path, number):
    pytest.importorskip("optuna")
    space = ("optim.lr.peak=log(1e-3,1e-1,9)", "seed=0,1")
    options = ("--search", "random", "--seed", 3, "--trials", 6, "--batch", 1)

    def search(folder, name):
        out, url = tmp_path / folder, f"sqlite:///{tmp_path / folder / 'study.sqlite'}"
        first = ("sweep", place / "single.py", *space, *options, "--out", out)
        join = ("worker", place / "single.py", *space, "--storage", url)
        join += ("--study", "single", "--grace", 3, "--batch", 1)
        return (live(*(first if name == "0" else join), name=folder + name), out)

    for count in (1, 2):  # the second time with cached programs
        life, out = search(f"whole{count}", "0")
        assert life.end().code == 0, life.text
    expected, seconds = trials(out), life.seconds
    for i, after in enumerate(moments(seconds, COUNTS[number][3], number)):
        life, out = search(str(i), "0")
        while not has_begun(out / "study.sqlite") and life.process.exitcode is None:
            life.process.join(0.02)
        others = [search(str(i), name)[0] for name in "12"]
        stopped([life, *others][i % 3], number, after)
        survivors = [x for x in (life, *others) if x is not [life, *others][i % 3]]
        for survivor in survivors:
            assert survivor.end().code == 0, survivor.text
        assert trials(out) == expected


def has_begun(study):
    """Whether workers can join a study."""
    if not study.exists():
        return False
    with contextlib.suppress(sqlite3.Error), sqlite3.connect(study) as connection:
        query = "SELECT COUNT(*) FROM study_user_attributes WHERE key = 'jaxtl:search'"
        return connection.execute(query).fetchone() != (0,)
    return False


def trials(folder):
    """Setting -> the result of each cell of a search, however it was distributed."""
    return {key: row for key, row in cells(folder).items() if is_done(row)}
