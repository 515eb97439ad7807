"""Searches: their drawn settings, and studies that several processes work on."""

import contextlib
import importlib.util
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types

import hypothesis
import numpy as np
import pytest
import scipy.stats
from hypothesis import strategies as st

import jaxtl as tl
from jaxtl.cli import main
from jaxtl.core.errors import UserError
from jaxtl.results.database import DONE, STOPPED, Database
from jaxtl.sweep import halving, optuna_storage, optuna_study, search_space, slurm
from jaxtl.sweep.axes import Grid, Halving
from jaxtl.sweep.grid import build_grid
from jaxtl.training import experiment_file

optuna = pytest.importorskip("optuna")

FILE = '''
"""Rates of a small network."""
import os, time
import jaxtl as tl

if os.environ.get("HANGS"):  # a worker that takes trials and never finishes them
    from jaxtl.sweep import chunk
    chunk.run_chunk = lambda *_: time.sleep(600)

def experiment():
    return tl.Experiment(
        model=tl.models.MLP(widths=(8,)),
        data=tl.data.Digits(val=0.2, split_seed=0),
        steps=5,
        batch=32,
    )

SWEEP = {"optim.lr": tl.sweep.log(1e-4, 1e-1, 5)}
'''


@pytest.fixture
def path(tmp_path) -> pathlib.Path:
    """An experiment file."""
    path = tmp_path / "rates.py"
    path.write_text(FILE)
    return path


def read_grid(path, axes, exclude=()):
    """(experiment file, grid of the axes)."""
    file = experiment_file.read_file(path)
    return file, build_grid(file, Grid(axes, exclude))


def draw_trials(file, grid, count, kind="random", seed=0):
    """The cells of each of some trials of a new study."""
    space, trials = search_space.space(file, grid), []
    study = optuna.create_study(direction="maximize")
    for _ in range(count):
        trial = study.ask()
        study.sampler = search_space.sampler(kind, seed, trial.number)
        trials.append(search_space.draw(trial, file, grid, space))
        study.tell(trial, 0.0)
    return trials


def test_rates_are_log_uniform_and_of_six_digits(path):
    file, grid = read_grid(path, {"optim.lr": tl.sweep.log(1e-4, 1e-1, 3)})
    rates = [cells[0].labels["optim.lr"] for cells in draw_trials(file, grid, 300)]
    assert all(float(f"{rate:.6g}") == rate for rate in rates)
    law = scipy.stats.loguniform(1e-4, 1e-1)
    assert scipy.stats.kstest(rates, law.cdf).pvalue > 1e-3


def test_a_trial_is_a_cell_per_seed_of_the_drawn_setting(path):
    axes = {
        "how": {"plain": {}, "long": {"batch": 64}},
        "steps": tl.sweep.When({"how": "long"}, tl.sweep.linear(2, 9, 3)),
        ("optim.lr", "optim.weight_decay"): [(1e-3, 0.0), (1e-2, 0.1)],
        "seed": range(3),
    }
    file, grid = read_grid(path, axes)
    assert search_space.space(file, grid)["steps"] == {
        "low": 2,
        "high": 9,
        "log": False,
        "whole": True,
        "when": {"how": "long"},
    }
    settings = set()
    for cells in draw_trials(file, grid, 40):
        assert [cell.labels["seed"] for cell in cells] == [0, 1, 2]
        for cell in cells:
            labels = cell.labels
            assert ("steps" in labels) == (labels["how"] == "long")
            assert cell.exp.steps == labels.get("steps", 5)
            assert cell.exp.batch == (64 if labels["how"] == "long" else 32)
            pair = labels["optim.lr, optim.weight_decay"]
            assert pair == f"{cell.exp.optim.lr}, {cell.exp.optim.weight_decay}"
            settings.add((labels["how"], pair))
    assert len(settings) == 4


def test_excluded_settings_have_no_cells(path):
    axes = {"batch": [16, 32], "steps": [3, 4]}
    file, grid = read_grid(path, axes, exclude=({"batch": 16, "steps": (3,)},))
    trials = draw_trials(file, grid, 30)
    settings = {tuple(cells[0].labels.values()) for cells in trials if cells}
    assert settings == {(16, 4), (32, 3), (32, 4)}
    assert any(not cells for cells in trials)


@pytest.mark.parametrize("kind", ["random", "tpe"])
def test_drawn_settings_depend_on_the_seed_and_the_number_only(path, kind):
    file, grid = read_grid(path, {"optim.lr": tl.sweep.log(1e-4, 1e-1, 3)})

    def rates(seed):
        trials = draw_trials(file, grid, 6, kind, seed)
        return [cells[0].labels["optim.lr"] for cells in trials]

    assert rates(0) == rates(0)
    assert len(set(rates(0))) == 6
    assert rates(0) != rates(1)


class SimulatedWorker:
    """A process of a search that does one action at a time."""

    def __init__(self, study):
        self.shared, self.trials = optuna_study.SharedStudy(study, grace=0.0), []

    def act(self, action):
        if action in ("ask", "half"):
            trial = self.shared.ask(lambda n: optuna.samplers.RandomSampler(seed=n))
            if trial is not None:
                trial.suggest_float("x", 0, 1)
                self.trials.append(trial)
                if action == "half":  # it dies before all parameters are drawn
                    return self.act("die")
                trial.suggest_float("y", 0, 1)
                self.shared.mark_drawn(trial)
        elif action == "tell" and self.trials:
            self.shared.tell(self.trials.pop(0), 1.0)
        elif action == "stop" and self.trials:
            self.shared.requeue(self.trials.pop())
        elif action == "die":
            self.trials.clear()
            self.shared.running.clear()
        elif action == "look":
            self.shared.requeue_dead()


ACTIONS = st.tuples(
    st.integers(0, 2), st.sampled_from(["ask", "tell", "stop", "die", "half", "look"])
)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.lists(ACTIONS, max_size=60), st.integers(1, 6))
def test_every_slot_counts_once_whichever_processes_die(actions, total):
    """Whatever three processes do, the settings are those of an undisturbed study.

    Without a grace period each takes the others for dead at the second look, so this
    holds for processes that were wrongly taken for dead as well.
    """
    study = optuna.create_study(direction="maximize")
    study.set_user_attr(optuna_storage.TOTAL, total)
    workers = [SimulatedWorker(study) for _ in range(3)]
    for worker, action in actions:
        workers[worker].act(action)
    last = SimulatedWorker(study)
    for _ in range(100):
        if last.shared.counts() == (total, total):
            break
        for action in ("look", "look", "ask", "tell"):
            last.act(action)
    assert last.shared.counts() == (total, total)
    done = [t for t in study.trials if t.state.name in ("COMPLETE", "PRUNED")]
    roots = [t.user_attrs.get(optuna_study.RETRY, t.number) for t in done]
    assert len(roots) == len(set(roots)) == total
    drawn = {(t.params["x"], t.params["y"]) for t in done if t.state.name == "COMPLETE"}
    expected = [np.random.RandomState(seed).uniform(size=2) for seed in range(total)]
    assert len(drawn) == sum(t.state.name == "COMPLETE" for t in done)
    assert drawn <= {tuple(setting) for setting in expected}


def test_a_slot_whose_processes_die_is_given_up():
    study = optuna.create_study()
    study.set_user_attr(optuna_storage.TOTAL, 1)
    for _ in range(optuna_study.MAX_DEATHS):
        worker = SimulatedWorker(study)
        worker.act("ask")
        [trial] = worker.trials
        worker.shared.requeue(trial, died=True)
    last = SimulatedWorker(study)
    last.act("ask")
    assert last.trials == []
    assert last.shared.counts() == (1, 1)
    assert "3 processes" in study.trials[-1].user_attrs[optuna_study.ERROR]


def test_a_study_can_be_joined_when_its_kind_is_stored(monkeypatch):
    """A process joins after any write of the one that begins the study, or is told."""
    storage = optuna.storages.InMemoryStorage()
    arguments = (storage, "a", "maximize", {"metric": "accuracy"})
    tpe, random = {"kind": "tpe", "seed": 0}, {"kind": "random", "seed": 3}
    joined = []

    def after(function):
        def called(*args, **settings):
            result = function(*args, **settings)
            with contextlib.suppress(UserError):
                study = optuna_storage.open_study(*arguments, None, tpe)
                joined.append(study.user_attrs[optuna_storage.BEGUN])
            return result

        return called

    for name in ("create_new_study", "set_study_user_attr"):
        monkeypatch.setattr(storage, name, after(getattr(storage, name)))
    optuna_storage.open_study(*arguments, 2, random)
    assert joined == [random]


def run(*arguments) -> int:
    return main.main([str(a) for a in arguments])


def test_a_search_records_its_cells_and_continues(path, tmp_path, capsys):
    out = tmp_path / "out"
    first = ["sweep", path, "--search", "random", "seed=0,1", "--out", out]
    assert run(*first, "--trials", 2) == 0
    assert run(*first, "--trials", 3) == 0
    assert "3/3 trials" in capsys.readouterr().out
    url = f"sqlite:///{out / 'study.sqlite'}"
    study = optuna.load_study(study_name="rates", storage=url)
    with Database(out) as database:
        entries = database.entries()
    assert len(study.trials) == 3
    assert len(entries) == 6
    assert {entry.status for entry in entries} == {DONE}
    for trial in study.trials:  # its value: the mean over seeds of the metric on val
        rate = float(f"{trial.params['optim.lr']:.6g}")
        results = [e.result for e in entries if e.labels["optim.lr"] == rate]
        assert sorted(result["seed"] for result in results) == [0, 1]
        mean = np.mean([result["val"][result["monitor"]] for result in results])
        np.testing.assert_allclose(trial.value, mean, rtol=1e-12)
    assert run("report", out) == 0
    assert run("watch", out, "--once") == 0
    assert "6" in capsys.readouterr().out


def test_halving_stops_the_worst_and_keeps_the_best(path, tmp_path):
    out = tmp_path / "out"
    axes = ["steps=20", "optim.lr=log(1e-5,1e-1,4)", "seed=0,1"]
    options = ["--search", "halving", "--trials", 4, "--batch", 4, "--out", out]
    assert run("sweep", path, *axes, *options) == 0
    url = f"sqlite:///{out / 'study.sqlite'}"
    study = optuna.load_study(study_name="rates", storage=url)
    states = [t.state.name for t in study.trials]
    # Of four trials two pass the rung at a quarter of the steps, one that at half.
    assert sorted(states) == ["COMPLETE", "PRUNED", "PRUNED", "PRUNED"]
    first = {t.number: t.intermediate_values[250] for t in study.trials}
    second = [t.number for t in study.trials if 500 in t.intermediate_values]
    assert set(second) == set(sorted(first, key=first.get)[-2:])
    with Database(out) as database:
        counts = database.counts()
    assert counts == {DONE: 2, STOPPED: 6}


def test_the_best_share_of_all_trials_at_a_rung_passes():
    values = [0.1, 0.9, 0.5, 0.7, 0.3]

    def passing(keep, higher_is_better):
        return [
            value
            for value in values
            if halving.passes_rung(value, values, keep, higher_is_better)
        ]

    assert passing(0.4, True) == [0.9, 0.7]
    assert passing(0.5, False) == [0.1, 0.5, 0.3]
    assert halving.passes_rung(0.1, [0.1], 0.5, True)
    assert not halving.passes_rung(float("nan"), [float("nan")], 0.5, True)


def test_a_trial_with_a_failed_seed_stops_at_a_rung_and_is_compared_with_none():
    class Trial:
        def __init__(self, number):
            self.number, self.intermediate_values = number, {}

        def report(self, value, step):
            self.intermediate_values[step] = value

    trials, stopped = [Trial(0), Trial(1)], []
    cells = [types.SimpleNamespace(key=f"{i}") for i in range(4)]
    replicas = types.SimpleNamespace(
        active=[0, 1, 2],
        failures={3: "the loss is NaN"},
        curves=[{"val": [{"accuracy": x}]} for x in (0.1, 0.1, 0.9)],
        exp=types.SimpleNamespace(steps=10),
        steps_done=5,
        stop=stopped.extend,
    )
    rungs = halving.Rungs(
        Halving((0.5,)),
        "accuracy",
        {f"{i}": trials[i // 2] for i in range(4)},
        types.SimpleNamespace(trials=lambda: trials),
        higher=True,
    )
    rungs(replicas, cells)
    assert stopped == [2]
    assert trials[0].intermediate_values == {500: pytest.approx(0.1)}
    assert not trials[1].intermediate_values


def environment(**variables) -> dict:
    cache = pathlib.Path(__file__).parents[2] / ".jax_cache"
    return {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache), **variables}


def start_worker(path, url, out, **variables) -> subprocess.Popen:
    command = [sys.executable, "-m", "jaxtl", "worker", path, "--storage", url]
    command += ["--trials", 6, "--batch", 2, "--grace", 4, "--out", out]
    return subprocess.Popen(
        [str(x) for x in command],
        env=environment(**variables),
        cwd=pathlib.Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition, seconds=120.0):
    """Waits until a function returns a true value, and returns it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):  # the table or the study may not exist yet
            if value := condition():
                return value
        time.sleep(0.2)
    raise AssertionError("the condition did not become true")


def check_a_killed_workers_trials_are_retried(path, url, tmp_path) -> None:
    """Runs three workers of one study and kills one while it holds two trials."""
    storage = optuna_storage.connect(url)

    def load():
        return optuna.load_study(study_name="rates", storage=storage)

    def trials_in(state):
        return [t for t in load().trials if t.state.name == state]

    def two_running():
        trials = trials_in("RUNNING")
        return trials if len(trials) == 2 else []

    victim = start_worker(path, url, tmp_path / "0", HANGS="yes")
    survivors = []
    try:
        wait_for(lambda: [t for t in trials_in("RUNNING") if t.params])
        lost = wait_for(two_running)
        survivors = [start_worker(path, url, tmp_path / str(i)) for i in (1, 2)]
        wait_for(lambda: trials_in("COMPLETE"))
        victim.send_signal(signal.SIGKILL)
        for survivor in survivors:
            output, _ = survivor.communicate(timeout=240)
            assert survivor.returncode == 0, output
            assert "6/6 trials" in output or "6 trials" in output
    finally:
        for process in (victim, *survivors):
            process.kill()
            process.wait()
    trials = load().trials
    done = [t for t in trials if t.state.name == "COMPLETE"]
    retries = [t for t in done if optuna_study.RETRY in t.user_attrs]
    retried = {t.user_attrs[optuna_study.RETRY] for t in retries}
    roots = [t.user_attrs.get(optuna_study.RETRY, t.number) for t in done]
    assert len(done) == len(set(roots)) == 6
    assert retried == {t.number for t in lost}
    for trial in retries:
        assert trial.params == trials[trial.user_attrs[optuna_study.RETRY]].params
    keys = []
    for i in (1, 2):
        with Database(tmp_path / str(i)) as database:
            entries = database.entries()
        keys += [entry.key for entry in entries]
        assert {entry.status for entry in entries} <= {DONE}
    assert len(keys) == len(set(keys)) == 6


def test_a_killed_workers_trials_are_retried_by_others_with_sqlite(path, tmp_path):
    url = f"sqlite:///{tmp_path / 'study.sqlite'}"
    check_a_killed_workers_trials_are_retried(path, url, tmp_path)


@pytest.fixture
def postgres():
    """The URL of a PostgreSQL server that runs during a test."""
    missing = [x for x in ("initdb", "pg_ctl", "postgres") if not shutil.which(x)]
    if missing:
        pytest.skip(f"needs PostgreSQL: no {', '.join(missing)} on the PATH")
    pytest.importorskip("psycopg2")
    prefix, folder = [], pathlib.Path(tempfile.mkdtemp(prefix="jaxtl-postgres-"))
    if os.geteuid() == 0:  # the server refuses to run as root
        if not shutil.which("setpriv"):
            pytest.skip("needs setpriv: PostgreSQL does not run as root")
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
        os.chown(folder, user.pw_uid, user.pw_gid)
        prefix = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}"]
        prefix += ["--clear-groups"]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

    def call(*command):
        process = subprocess.run(
            [*prefix, *command],
            cwd=folder,
            env={**os.environ, "LC_ALL": "C", "HOME": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.returncode == 0, process.stderr

    data, log = f"{folder}/data", f"{folder}/log"
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off "
    options += "-c unix_socket_directories=''"
    try:
        call("initdb", "-D", data, "-U", "tester", "-A", "trust", "--no-sync")
        call("pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start")
        try:
            yield f"postgresql://tester:geheim@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow  # the same on SQLite is not
def test_a_killed_workers_trials_are_retried_by_others_with_postgresql(
    path, tmp_path, postgres
):
    check_a_killed_workers_trials_are_retried(path, postgres, tmp_path)


@pytest.mark.slow  # each job is a process that compiles on its own
def test_workers_run_as_jobs_on_this_machine(path, tmp_path):
    if importlib.util.find_spec("submitit") is None:
        pytest.skip("needs submitit")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "jaxtl", "sweep", path, "--out", out]
    command += ["--search", "tpe", "--trials", 3, "--batch", 1]
    command += ["--slurm", 2, "--slurm-local", "--slurm-arg", "partition=gpu"]
    process = subprocess.run(
        [str(x) for x in command],
        env=environment(),
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert "2 workers submitted" in process.stdout
    with Database(out) as database:
        assert database.counts() == {DONE: 3}
    assert len(list((out / "slurm").glob("*_log.out"))) == 2


def error_of(capsys, *arguments) -> str:
    """The message of a command that fails, one line."""
    assert run(*arguments) == 1
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert text.startswith("jaxtl ")
    return text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--search", "tbe", "--trials", 3], "did you mean 'tpe'"),
        (["--search", "tpe", "--trials", 0], "trials=0: expected at least 1"),
        (["--search", "tpe"], "--trials 32"),
        (["--search", "tpe", "--trials", 2, "--batch", 0], "batch=0"),
        (["--trials", 3], "add --search"),
        (["--search", "tpe", "--trials", 1, "--slurm", 2], "--storage postgresql://"),
        (
            ["--search", "tpe", "--trials", 1, "--slurm", 0, "--slurm-local"],
            "at least 1 worker",
        ),
        (
            ["--search", "tpe", "--trials", 1, "--storage", "nosuch://a:geheim@b/c"],
            "expected sqlite:///FILE",
        ),
        (
            ["--search", "tpe", "--trials", 1, "--storage", "study.sqlite"],
            "expected sqlite:///FILE",
        ),
        (
            ["--search", "tpe", "--trials", 1, "--storage", "sqlite:////no/where/s"],
            "does not answer: unable to open database file",
        ),
    ],
)
def test_wrong_searches_are_refused(path, tmp_path, capsys, arguments, message):
    text = error_of(capsys, "sweep", path, "--out", tmp_path / "out", *arguments)
    assert message in text
    assert "geheim" not in text
    assert not (tmp_path / "out").exists()


def test_a_search_without_axes_is_refused(path, tmp_path, capsys):
    path.write_text(
        FILE.replace('"optim.lr": tl.sweep.log(1e-4, 1e-1, 5)', "'seed': [0, 1]")
    )
    text = error_of(capsys, "sweep", path, "--search", "tpe", "--trials", 2)
    assert "nothing to search" in text


def test_a_database_that_does_not_answer_is_named_without_its_password(path, capsys):
    pytest.importorskip("psycopg2")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"postgresql://me:geheim@127.0.0.1:{silent.getsockname()[1]}/db"
        text = error_of(
            capsys, "sweep", path, "--search", "tpe", "--trials", 2, "--storage", url
        )
    assert "does not answer" in text
    assert "me:***@127.0.0.1" in text
    assert "geheim" not in text


@pytest.mark.parametrize(
    ("module", "extra", "arguments"),
    [
        ("optuna", "jaxtl[sweep]", []),
        ("psycopg2", "jaxtl[postgres]", ["--storage", "postgresql://a:geheim@b/c"]),
        ("submitit", "jaxtl[cluster]", ["--slurm", 1, "--slurm-local"]),
    ],
)
def test_missing_libraries_are_named(
    path, capsys, monkeypatch, module, extra, arguments
):
    monkeypatch.setitem(sys.modules, module, None)
    command = ["sweep", path, "--search", "tpe", "--trials", 2]
    text = error_of(capsys, *command, *arguments)
    assert f"pip install '{extra}'" in text
    assert "geheim" not in text


def test_a_study_of_another_search_is_refused(tmp_path):
    storage = optuna_storage.connect(f"sqlite:///{tmp_path / 's.sqlite'}")
    space = {"optim.lr": {"low": 0.1, "high": 1.0}}
    settings = {"metric": "accuracy", "space": space}

    def open_study(name="a", direction="maximize", total=2, **changes):
        return optuna_storage.open_study(
            storage, name, direction, {**settings, **changes}, total, {"kind": "tpe"}
        )

    study = open_study()
    assert open_study(total=None).study_name == "a"
    with pytest.raises(UserError, match=r"there to maximize.*to minimize nll"):
        open_study(direction="minimize", metric="nll")
    with pytest.raises(UserError, match=r"another space: optim\.lr is .*0\.1.*0\.2"):
        open_study(space={"optim.lr": {"low": 0.2, "high": 1.0}})
    with pytest.raises(UserError, match=r"no study 'b'.*studies: a\)"):
        open_study("b", total=None)
    foreign = optuna.create_study(storage=storage, study_name="c", direction="maximize")
    foreign.ask()
    with pytest.raises(UserError, match="not made by jaxtl"):
        open_study("c")
    assert study.user_attrs[optuna_storage.TOTAL] == 2


def test_passwords_are_hidden():
    for url in ("postgresql://u:p@ss/w@h/d", "postgresql://u@h/d?password=p@ss/w"):
        hidden = optuna_storage.without_password(url)
        assert "p@" not in hidden
        assert "ss/w" not in hidden
        assert "h/d" in hidden


def test_jobs_need_slurm_and_named_arguments(monkeypatch):
    if importlib.util.find_spec("submitit") is None:
        pytest.skip("needs submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="no srun on the PATH"):
        slurm.check(1, "postgresql://h/d", False, [])
    with pytest.raises(UserError, match="name=value"):
        slurm.check(1, None, True, ["partition"])
