"""One training run by several processes, as `jaxtl launch` supervises them."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.cli import main
from jaxtl.core import checkpoint
from jaxtl.core import tree as trees
from jaxtl.training import setup

ROOT = pathlib.Path(tl.__file__).parents[1]
# A file of this name says which process sends itself which signal, and when: "1 9 2" is
# process 1, SIGKILL, its second evaluation; "save" is when the checkpoint of step 6 has
# its temporary name.
KILL = "kill"
FILE = f'''
import os, pathlib, threading, time
import jax
import jaxtl as tl

FOLDER = pathlib.Path(__file__).parent
evaluations = []


def kill(moment):
    file = FOLDER / "{KILL}"
    if file.exists():
        index, number, when = file.read_text().split()
        if jax.process_index() == int(index) and moment == when:
            file.unlink()
            os.kill(os.getpid(), int(number))


def watch():
    while not any(FOLDER.glob("*/checkpoints/6.*tmp*")):
        time.sleep(0.001)
    kill("save")


def zero(outputs, labels):
    evaluations.append(len(labels))
    # Not where a test evaluates the model in its own process, which goes on.
    if len(evaluations) == 1 and (FOLDER / "{KILL}").exists():
        threading.Thread(target=watch, daemon=True).start()
    kill(str(len(evaluations)))
    return 0.0


def experiment():
    # Each process reads its rows of a batch and holds its part of the parameters.
    return tl.Experiment(
        model=tl.models.MLP(widths=(16,)),
        data=tl.data.Digits(limit=400),
        optim=tl.optim.AdamW(lr=0.01, clip=1.0),
        steps=6, batch=32, evaluate_every=3, save_every=3,
        devices=2, param_shards=2, device_bytes=0,
        metrics={{"zero": zero}},
    )
'''


SPLIT = """
import dataclasses
import numpy as np
import jaxtl as tl


@dataclasses.dataclass(frozen=True)
class Texts(tl.data.Data):
    def read(self):
        rng = np.random.default_rng(0)
        x = {"input_ids": rng.integers(1, 32, (40, 8)).astype(np.int32)}
        x["attention_mask"] = np.arange(8) < 5 + np.arange(40)[:, None] % 4
        return tl.data.Table(x=x, y=np.arange(40) % 4, class_names=tuple("abcd"))


def experiment():
    size = dict(vocab=32, width=16, layers=1, heads=4, context=8, hidden=32)
    return tl.Experiment(
        model=tl.models.Llama(predict="class", **size), data=Texts(), steps=4,
        optim=tl.optim.AdamW(lr=0.01, clip=1.0), batch=8, evaluate_batch=8,
        save_every=2, devices=4, param_shards=2, tensor_shards=2, device_bytes=0,
    )
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Returns a folder with the runs "one" and "two" of one file, and their outputs.

    They are of one process with virtual devices, and of two processes of which one is
    killed after the first checkpoint, so that both start again.
    """
    folder = tmp_path_factory.mktemp("launch")
    (folder / "file.py").write_text(FILE)
    file, output = str(folder / "file.py"), {}
    # With as many virtual devices as threads these may wait for each other.
    output["one"] = _jaxtl("run", file, "--out", folder / "one", devices=6)
    (folder / KILL).write_text("1 9 2")
    two = ("--nproc", 2, "--out", folder / "two")
    output["two"] = _jaxtl("launch", file, *two)
    return folder, output


def _jaxtl(*arguments, devices=1, **variables):
    """Runs a command in a process with so many virtual devices; returns its outputs."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-m", "jaxtl", *map(str, arguments)],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}",
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, done.stderr


def _weights(run, step=6):
    """{path: array} of a run's last checkpoint, both items; `step` is its step."""
    folder = run / "checkpoints"
    assert checkpoint.latest(folder) == step
    items = {name: checkpoint.read(folder, step, name) for name in ("last", "best")}
    return {path: np.asarray(leaf) for path, leaf in trees.flatten(items).items()}


def _result(run):
    return json.loads((run / "result.json").read_text())


def _assert_same(run, expected, step=6):
    """Compares the last checkpoints and the results of two runs, bit for bit."""
    leaves, weights = _weights(expected, step), _weights(run, step)
    assert weights.keys() == leaves.keys()
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(weights[path], leaf, path)
    for name in ("val", "test", "chosen"):
        assert _result(run)[name] == _result(expected)[name]


def test_two_processes_end_as_one_with_two_devices(runs):
    """Bit for bit, though one of them was killed and both have started again."""
    folder, _ = runs
    _assert_same(folder / "two", folder / "one")


def test_one_process_prints_and_writes(runs):
    folder, output = runs
    starts = output["two"][0].count("job: process 0 of 2, which meet at 127.0.0.1:")
    assert starts == 2, "one before, one after the loss"
    assert "devices: 2, 1 of each of 2 processes" in output["two"][0]
    assert output["two"][0].count("written to") == 1
    lines = (folder / "two" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(steps), "each line once"
    assert len(lines) == len((folder / "one/metrics.jsonl").read_text().splitlines())


def test_a_killed_process_is_told_and_the_run_goes_on(runs):
    folder, output = runs
    assert not (folder / KILL).exists()
    text = "process 1 of 2 was ended by SIGKILL; all start again (1 of 3 restarts)."
    assert text in output["two"][1]


def test_one_process_reads_what_two_have_saved(runs):
    folder, _ = runs
    weights = tl.pretrained.FromRun(str(folder / "two"), which="last").read()
    expected = _weights(folder / "one")
    for path, leaf in trees.flatten({"last": {"params": weights.params}}).items():
        np.testing.assert_array_equal(leaf, expected[path])
    values = tl.evaluate(tl.load_model(folder / "two"), "test")
    assert values == pytest.approx(_result(folder / "two")["test"])
    assert not [t for t in threading.enumerate() if "watch" in t.name]


def test_one_device_goes_on_with_what_two_have_begun(runs):
    folder, _ = runs
    run = setup.resume(folder / "two", placement={"devices": 1, "param_shards": 1})
    assert run.steps_done == 6
    expected = _weights(folder / "one")
    for path, leaf in trees.flatten({"last": {"params": run.params}}).items():
        assert leaf.sharding.is_fully_replicated
        np.testing.assert_array_equal(leaf, expected[path])


def test_layers_are_split_in_each_of_two_processes(tmp_path):
    """Two devices of a process share a layer; examples and parameters are split over
    processes. Bit for bit as one process with four devices."""
    file = tmp_path / "split.py"
    file.write_text(SPLIT)
    # More threads of XLA, or its sums wait for each other.
    one = ("run", file, "--out", tmp_path / "one")
    _jaxtl(*one, devices=4, NPROC="16")
    two = ("launch", file, "--nproc", 2, "--out", tmp_path / "two")
    told, _ = _jaxtl(*two, devices=2, NPROC="16")
    assert "devices: 4, 2 of each of 2 processes" in told
    _assert_same(tmp_path / "two", tmp_path / "one", step=4)


def test_nothing_else_changes_when_a_run_goes_on(tmp_path, capsys):
    assert main.main(["resume", str(tmp_path), "steps=5"]) == 1
    told = "only devices=, param_shards=, tensor_shards= may change"
    assert told in capsys.readouterr().err
    options = ["--nproc", "2", "--overwrite"]
    assert main.main(["launch", str(tmp_path), *options]) == 1
    assert "--overwrite is of a run that begins" in capsys.readouterr().err


@pytest.mark.slow
def test_four_processes_go_on_with_what_two_have_begun(runs):
    """Their sums of gradients are rounded otherwise than those of two."""
    folder, _ = runs
    (folder / KILL).write_text("1 9 2")
    out = str(folder / "four")
    two = [str(folder / "file.py"), "--nproc", "2", "--restarts", "0", "--out", out]
    assert main.main(["launch", *two]) == 75
    assert checkpoint.latest(folder / "four" / "checkpoints") == 3
    four = ["devices=4", "param_shards=4", "--nproc", "4"]
    assert main.main(["launch", out, *four]) == 0
    expected, weights = _weights(folder / "one"), _weights(folder / "four")
    for path, leaf in expected.items():
        np.testing.assert_allclose(weights[path], leaf, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nproc", "0"], "--nproc 0: expected a whole number of at least 1."),
        (["--nproc", "2", "--restarts", "-1"], "--restarts -1: expected"),
        (["--nproc", "2", "--port", "0"], "--port 0: expected a number from 1"),
    ],
)
def test_numbers_that_cant_be_are_told(capsys, options, message):
    assert main.main(["launch", "file.py", *options]) == 1
    assert message in capsys.readouterr().err


def test_a_taken_port_is_told(capsys):
    with socket.socket() as server:
        server.bind(("", 0))
        server.listen()
        port = server.getsockname()[1]
        code = main.main(["launch", "file.py", "--nproc", "2", "--port", str(port)])
    assert code == 1
    assert re.search(
        f"--port {port} can't be used: address", capsys.readouterr().err.lower()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("process", "number", "moment"),
    [
        (0, signal.SIGKILL, 1),
        (0, signal.SIGKILL, 2),
        (0, signal.SIGKILL, "save"),
        (1, signal.SIGKILL, 1),
        (1, signal.SIGKILL, "save"),
        (0, signal.SIGTERM, 1),
        (0, signal.SIGTERM, "save"),
        (1, signal.SIGTERM, 2),
    ],
)
def test_whichever_process_ends_whenever_the_run_ends_the_same(
    runs, tmp_path, process, number, moment
):
    """Process 0 writes the files; evaluation 1 is before the first checkpoint."""
    folder, _ = runs
    (tmp_path / "file.py").write_text(FILE)
    (tmp_path / KILL).write_text(f"{process} {number:d} {moment}")
    two = ("--nproc", 2, "--out", tmp_path / "two")
    _, told = _jaxtl("launch", tmp_path / "file.py", *two)
    assert not (tmp_path / KILL).exists()
    reason = {
        signal.SIGKILL: f"process {process} of 2 was ended by SIGKILL",
        signal.SIGTERM: "one of 2 processes was sent SIGTERM",
    }
    assert f"{reason[number]}; all start again (1 of 3 restarts)." in told
    _assert_same(tmp_path / "two", folder / "one")
    left = [p.name for p in (tmp_path / "two" / "checkpoints").iterdir()]
    assert left == ["6"], "no half checkpoint is left"
