"""A killed run goes on bit for bit, whenever it was killed."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.core import checkpoint
from jaxtl.data import splits
from jaxtl.training import run_dir

pytestmark = pytest.mark.usefixtures("all_optimizations")  # of several processes


ROOT = pathlib.Path(tl.__file__).parent.parent

# Lives of one run, each a process of its own that ends by its own hand, as by kill -9:
# "save:N:S" S seconds into the Nth save, "step:N" at the Nth dispatch, "log:N" with
# half of the Nth line written, "rewrite" while metrics.jsonl is brought to the
# checkpoint, "result" with half of result.json written; "" lives to the end. They are
# forked from one process that has imported everything and computed nothing.
LIVES = """
import json, os, pathlib, signal, sys, threading
import jaxtl as tl
from jaxtl.core import atomic, checkpoint, orbax_module
from jaxtl.training import checkpointing, metrics_log
from jaxtl.training.run import Run

orbax_module.orbax(), tl.models.CNN, tl.data.Digits, tl.train
import sklearn.datasets
directory = pathlib.Path(sys.argv[1])

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def before(owner, name, action):
    original = getattr(owner, name)
    def wrapped(*args, **settings):
        action(*args)
        return original(*args, **settings)
    setattr(owner, name, wrapped)

def live(plan):
    kind, count, seconds = (plan + "::").split(":")[:3]
    left = iter(range(int(count or 1) - 1, -1, -1))

    def reached():
        return next(left, -1) == 0

    def dying_save(run):
        if reached():
            threading.Timer(float(seconds), die).start()

    def half_line(self, *_):
        if reached():
            self.file.write('{"step": 3, "kind"')
            self.file.flush()
            die()

    def half_file(path, content):
        if path.name == ("result.json" if kind == "result" else "metrics.jsonl"):
            with atomic.file(path) as draft:
                draft.write_bytes(content[: len(content) // 2])
                die()

    if kind == "save":
        before(checkpointing, "save", dying_save)
    elif kind == "step":
        before(Run, "dispatch", lambda *_: reached() and die())
    elif kind == "log":
        before(metrics_log.Log, "_write", half_line)
    elif kind in ("result", "rewrite"):
        before(atomic, "write_bytes", half_file)
    tl.train(tl.resume(directory))

ends = []
for plan in sys.argv[2:]:
    child = os.fork()
    if child == 0:
        live(plan)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    at = checkpoint.latest(directory / "checkpoints")
    ends.append([plan, code, at, (directory / "result.json").exists()])
print(json.dumps(ends))
"""

DEATHS = (
    "step:2",  # before the first save
    "save:1:0.001",
    "save:2:0.03",
    "log:9",
    "save:3:0.08",
    "rewrite",
    "result",
)


def experiment(**changes):
    fields = {
        "model": tl.models.CNN(widths=(2,), units=8, norm=True, dropout=0.3),
        "data": tl.data.Digits(labels_per_class=30),
        "terms": {
            "task": tl.losses.CrossEntropy(label_smoothing=0.1),
            "decay": tl.regularizers.WeightDecay(weight=1e-3),
        },
        "optim": tl.optim.AdamW(
            lr=tl.optim.Cosine(peak=0.02, warmup=3),
            groups={"block1/conv": tl.FROZEN, "head": 2.0, ".*": 1.0},
        ),
        "augment": (tl.data.Crop(pad=1),),
        "steps": 30,
        "batch": 32,
        "log_every": 2,
        "evaluate_every": 7,
        "save_every": 3,
        "monitor": "nll",
    }
    return tl.Experiment(**{**fields, **changes})


def metrics(directory):
    """Returns metrics.jsonl without what the clock wrote."""
    rows = [
        json.loads(x) for x in (directory / "metrics.jsonl").read_text().splitlines()
    ]
    for row in rows:
        row.pop("examples_per_second", None)
    return rows


def live(directory, plans):
    """Returns [plan, exit code, last checkpoint, is there a result] of each life."""
    cache = jax.config.jax_compilation_cache_dir
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIVES, str(directory), *plans],
        cwd=ROOT,
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def stored(directory, item):
    folder = directory / "checkpoints"
    return checkpoint.read(folder, checkpoint.latest(folder), item)


def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    tl.setup(experiment(), killed)
    ends, told = live(killed, [*DEATHS, ""])
    for plan, code, _, finished in ends[:-1]:
        assert (code, finished) == (-9, False), f"{plan}: {told}"
    assert ends[-1][1:] == [0, 30, True], told
    reached = [at or 0 for _, _, at, _ in ends]
    assert reached == sorted(reached), "no death loses a checkpoint"
    assert reached[0] == 0 < reached[3] < reached[-1]

    expected = tl.train(tl.setup(experiment(), whole))
    result = run_dir.read_json(killed / "result.json")
    for name in ("val", "test", "steps", "chosen", "examples", "optimizer_bytes"):
        assert result[name] == expected[name], name
    assert metrics(killed) == metrics(whole)
    for item in ("last", "best", "state"):
        jax.tree.map(
            np.testing.assert_array_equal, stored(killed, item), stored(whole, item)
        )


class Stop(Exception):
    pass


def broken_off(exp, directory, at):
    """Trains until a step has been taken and drops everything."""
    run = tl.setup(exp, directory)
    dispatch = run.dispatch

    def stopping(count):
        if run.steps_done >= at:
            raise Stop
        return dispatch(count)

    run.dispatch = stopping
    with pytest.raises(Stop):
        tl.train(run)
    return tl.resume(directory)


def test_streams_from_the_host_go_on_where_they_were(tmp_path):
    pytest.importorskip("grain")
    exp = experiment(device_bytes=0, steps=10)
    again, whole = broken_off(exp, tmp_path / "run", 7), tl.setup(exp)
    assert again.steps_done == 6
    again.compile()
    assert tl.train(again)["test"] == tl.train(whole)["test"]
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)


def test_the_best_so_far_is_remembered(tmp_path):
    exp = experiment(steps=10, evaluate_every=3)
    again = broken_off(exp, tmp_path / "run", 7)
    assert again.best["step"] in (3, 6)
    assert again.best["metrics"]["nll"] == again.best["value"]
    assert tl.evaluate(again, "val", which="best")["nll"] == pytest.approx(
        again.best["value"], rel=1e-6
    )


def test_changed_data_are_noticed(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90, 4)).astype(np.float32), np.arange(90) % 3
    path = tmp_path / "data.npz"
    np.savez(path, x=x, y=y)
    exp = experiment(
        model=tl.models.MLP(widths=(4,)),
        optim=tl.optim.AdamW(),
        data=tl.data.Arrays(str(path)),
        augment=(),
        steps=4,
    )
    tl.train(tl.setup(exp, tmp_path / "run"))
    np.savez(path, x=x, y=y[::-1])
    os.utime(path, (1, 1))
    with pytest.raises(tl.UserError, match="splits of other data"):
        tl.resume(tmp_path / "run")


def test_other_splits_are_noticed(tmp_path):
    exp = experiment(steps=0)
    run = tl.setup(exp, tmp_path / "run")
    data = run.parts.datasets["target"]
    data.rows["val"][:] = np.roll(data.rows["val"], 1)
    splits.save_splits(tmp_path / "run" / "splits.npz", data)
    with pytest.raises(tl.UserError, match=r"split differently .*\(val changed\)"):
        tl.resume(tmp_path / "run")


def test_what_is_no_run_is_told(tmp_path):
    with pytest.raises(tl.UserError, match=r"there is no experiment\.json"):
        tl.resume(tmp_path / "none")


def test_a_damaged_checkpoint_is_told(tmp_path):
    tl.train(tl.setup(experiment(steps=2), tmp_path / "run"))
    for path in (tmp_path / "run" / "checkpoints" / "2" / "last").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(tl.UserError, match="can't be read"):
        tl.resume(tmp_path / "run")
