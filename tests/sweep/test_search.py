"""Searches: what is drawn, trials that several processes share, one of them killed."""

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

import hypothesis
import numpy as np
import pytest
import scipy.stats
from hypothesis import strategies as st

import jaxtl as tl
from jaxtl.cli import main
from jaxtl.core.errors import UserError
from jaxtl.results.database import DONE, STOPPED, Database
from jaxtl.sweep import optuna_storage, optuna_study, search_space, slurm
from jaxtl.sweep.axes import Grid
from jaxtl.sweep.grid import build_grid
from jaxtl.training import experiment_file

optuna = pytest.importorskip("optuna")

FILE = '''
"""Rates of a small network."""
import os, time
import jaxtl as tl

if os.environ.get("HANGS"):  # a worker that takes trials and never finishes them
    from jaxtl.sweep import runner
    runner.chunk = lambda *_: time.sleep(600)

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
def file(tmp_path) -> pathlib.Path:
    path = tmp_path / "rates.py"
    path.write_text(FILE)
    return path


def axes_of(file, axes, exclude=()):
    made = experiment_file.read_file(file)
    return made, build_grid(made, Grid(axes, exclude))


def drawn(file, grid, count, kind="random", seed=0):
    """Returns the cells of some trials of a fresh study."""
    space, found = search_space.space(file, grid), []
    study = optuna.create_study(direction="maximize")
    for _ in range(count):
        trial = study.ask()
        study.sampler = search_space.sampler(kind, seed, trial.number)
        found.append(search_space.draw(trial, file, grid, space))
        study.tell(trial, 0.0)
    return found


def test_rates_are_log_uniform_and_of_six_digits(file):
    made, grid = axes_of(file, {"optim.lr": tl.sweep.log(1e-4, 1e-1, 3)})
    rates = [cells[0].labels["optim.lr"] for cells in drawn(made, grid, 300)]
    assert all(float(f"{rate:.6g}") == rate for rate in rates)
    law = scipy.stats.loguniform(1e-4, 1e-1)
    assert scipy.stats.kstest(rates, law.cdf).pvalue > 1e-3


def test_a_trial_is_a_cell_per_seed_of_the_drawn_setting(file):
    axes = {
        "how": {"plain": {}, "long": {"batch": 64}},
        "steps": tl.sweep.When({"how": "long"}, tl.sweep.linear(2, 9, 3)),
        ("optim.lr", "optim.weight_decay"): [(1e-3, 0.0), (1e-2, 0.1)],
        "seed": range(3),
    }
    made, grid = axes_of(file, axes)
    assert search_space.space(made, grid)["steps"] == {
        "low": 2,
        "high": 9,
        "log": False,
        "whole": True,
        "when": {"how": "long"},
    }
    seen = set()
    for cells in drawn(made, grid, 40):
        assert [cell.labels["seed"] for cell in cells] == [0, 1, 2]
        for cell in cells:
            labels = cell.labels
            assert ("steps" in labels) == (labels["how"] == "long")
            assert cell.exp.steps == labels.get("steps", 5)
            assert cell.exp.batch == (64 if labels["how"] == "long" else 32)
            pair = labels["optim.lr, optim.weight_decay"]
            assert pair == f"{cell.exp.optim.lr}, {cell.exp.optim.weight_decay}"
            seen.add((labels["how"], pair))
    assert len(seen) == 4


def test_excluded_settings_are_no_cells(file):
    axes = {"batch": [16, 32], "steps": [3, 4]}
    made, grid = axes_of(file, axes, exclude=({"batch": 16, "steps": (3,)},))
    found = drawn(made, grid, 30)
    kept = {tuple(c[0].labels.values()) for c in found if c}
    assert kept == {(16, 4), (32, 3), (32, 4)}
    assert any(not cells for cells in found)


@pytest.mark.parametrize("kind", ["random", "tpe"])
def test_what_is_drawn_depends_on_the_seed_and_the_number_alone(file, kind):
    made, grid = axes_of(file, {"optim.lr": tl.sweep.log(1e-4, 1e-1, 3)})

    def rates(seed):
        return [c[0].labels["optim.lr"] for c in drawn(made, grid, 6, kind, seed)]

    assert rates(0) == rates(0)
    assert len(set(rates(0))) == 6
    assert rates(0) != rates(1)


class Worker:
    """A process of a search, as the simulation below plays it."""

    def __init__(self, study):
        self.shared, self.held = optuna_study.SharedStudy(study, grace=0.0), []

    def act(self, what):
        if what == "ask":
            trial = self.shared.ask(lambda n: optuna.samplers.RandomSampler(seed=n))
            if trial is not None:
                trial.suggest_float("x", 0, 1)
                self.held.append(trial)
        elif what == "tell" and self.held:
            self.shared.tell(self.held.pop(0), 1.0)
        elif what == "stop" and self.held:
            self.shared.hand_back(self.held.pop())
        elif what == "die":
            self.held.clear()
            self.shared.mine.clear()
        elif what == "look":
            self.shared.revive()


ACTS = st.tuples(
    st.integers(0, 2), st.sampled_from(["ask", "tell", "stop", "die", "look"])
)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.lists(ACTS, max_size=60), st.integers(1, 6))
def test_whoever_dies_when_every_slot_is_counted_once(acts, total):
    """Whatever three processes do: in the end the number of trials is what was asked.

    Without grace each takes the others for dead at the second look: so the law holds
    for processes that were wrongly taken for dead too.
    """
    study = optuna.create_study(direction="maximize")
    study.set_user_attr(optuna_storage.TOTAL, total)
    workers = [Worker(study) for _ in range(3)]
    for who, what in acts:
        workers[who].act(what)
    last = Worker(study)
    for _ in range(100):
        if last.shared.counts() == (total, total):
            break
        for what in ("look", "look", "ask", "tell"):
            last.act(what)
    assert last.shared.counts() == (total, total)
    done = [t for t in study.trials if t.state.name in ("COMPLETE", "PRUNED")]
    roots = [t.user_attrs.get(optuna_study.RETRY, t.number) for t in done]
    assert len(roots) == len(set(roots)) == total
    for trial in done:  # again with the parameters that it had
        root = study.trials[trial.user_attrs.get(optuna_study.RETRY, trial.number)]
        assert all(trial.params[name] == x for name, x in root.params.items())


def test_what_kills_its_processes_is_given_up(monkeypatch):
    study = optuna.create_study()
    study.set_user_attr(optuna_storage.TOTAL, 1)
    for _ in range(optuna_study.DEATHS):
        worker = Worker(study)
        worker.act("ask")
        [trial] = worker.held
        worker.shared.hand_back(trial, died=True)
    last = Worker(study)
    last.act("ask")
    assert last.held == []
    assert last.shared.counts() == (1, 1)
    assert "3 processes" in study.trials[-1].user_attrs[optuna_study.ERROR]


def run(*arguments) -> int:
    return main.main([str(a) for a in arguments])


def test_a_search_records_its_cells_and_goes_on(file, tmp_path, capsys):
    out = tmp_path / "out"
    first = ["sweep", file, "--search", "random", "seed=0,1", "--out", out]
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
    for trial in study.trials:  # the mean over its seeds of what was monitored on val
        rate = float(f"{trial.params['optim.lr']:.6g}")
        own = [e.result for e in entries if e.labels["optim.lr"] == rate]
        assert sorted(r["seed"] for r in own) == [0, 1]
        mean = np.mean([r["val"][r["monitor"]] for r in own])
        np.testing.assert_allclose(trial.value, mean, rtol=1e-12)
    assert run("report", out) == 0
    assert run("watch", out, "--once") == 0
    assert "6" in capsys.readouterr().out


def test_halving_stops_the_worst_and_keeps_the_best(file, tmp_path):
    out = tmp_path / "out"
    more = ["steps=20", "optim.lr=log(1e-5,1e-1,4)", "seed=0,1", "--batch", 4]
    asked = ["sweep", file, *more, "--search", "halving", "--trials", 4, "--out", out]
    assert run(*asked) == 0
    url = f"sqlite:///{out / 'study.sqlite'}"
    study = optuna.load_study(study_name="rates", storage=url)
    states = [t.state.name for t in study.trials]
    # Of four two go on at a quarter of the steps, and one at half of them.
    assert sorted(states) == ["COMPLETE", "PRUNED", "PRUNED", "PRUNED"]
    first = {t.number: t.intermediate_values[250] for t in study.trials}
    went_on = [t.number for t in study.trials if 500 in t.intermediate_values]
    assert set(went_on) == set(sorted(first, key=first.get)[-2:])
    with Database(out) as database:
        counts = database.counts()
    assert counts == {DONE: 2, STOPPED: 6}


def test_a_rung_lets_the_best_share_of_all_that_came_there_pass():
    values = [0.1, 0.9, 0.5, 0.7, 0.3]
    passed = [v for v in values if search_space.goes_on(v, values, 0.4, higher=True)]
    assert passed == [0.9, 0.7]
    passed = [v for v in values if search_space.goes_on(v, values, 0.5, higher=False)]
    assert passed == [0.1, 0.5, 0.3]
    assert search_space.goes_on(0.1, [0.1], 0.5, higher=True)
    assert not search_space.goes_on(float("nan"), [float("nan")], 0.5, higher=True)


def _environment(**more) -> dict:
    cache = pathlib.Path(__file__).parents[2] / ".jax_cache"
    return {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache), **more}


def _worker(file, url, out, **environment) -> subprocess.Popen:
    command = [sys.executable, "-m", "jaxtl", "worker", file, "--storage", url]
    command += ["--trials", 6, "--batch", 2, "--grace", 4, "--out", out]
    return subprocess.Popen(
        [str(x) for x in command],
        env=_environment(**environment),
        cwd=pathlib.Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _until(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(Exception):  # no table, or no study, as yet
            if found := condition():
                return found
        time.sleep(0.2)
    raise AssertionError("it never came about")


def _killed_on_the_way(file, url, tmp_path) -> None:
    """Three workers of one study, one of which is killed while it holds two trials."""
    storage = optuna_storage.connect(url)

    def study():
        return optuna.load_study(study_name="rates", storage=storage)

    def states(name):
        return [t for t in study().trials if t.state.name == name]

    victim = _worker(file, url, tmp_path / "0", HANGS="yes")
    others = []
    try:
        held = _until(lambda: [t for t in states("RUNNING") if t.params])
        held = _until(lambda: h if len(h := states("RUNNING")) == 2 else None)
        others = [_worker(file, url, tmp_path / str(i)) for i in (1, 2)]
        _until(lambda: states("COMPLETE"))
        victim.send_signal(signal.SIGKILL)
        for other in others:
            text, _ = other.communicate(timeout=240)
            assert other.returncode == 0, text
            assert "6/6 trials" in text or "6 trials" in text
    finally:
        for process in (victim, *others):
            process.kill()
            process.wait()
    found = study().trials
    done = [t for t in found if t.state.name == "COMPLETE"]
    again = [t for t in done if optuna_study.RETRY in t.user_attrs]
    roots = [t.user_attrs.get(optuna_study.RETRY, t.number) for t in done]
    assert len(done) == len(set(roots)) == 6
    assert {t.user_attrs[optuna_study.RETRY] for t in again} == {t.number for t in held}
    for trial in again:
        assert trial.params == found[trial.user_attrs[optuna_study.RETRY]].params
    keys = []
    for i in (1, 2):
        with Database(tmp_path / str(i)) as database:
            entries = database.entries()
        keys += [entry.key for entry in entries]
        assert {entry.status for entry in entries} <= {DONE}
    assert len(keys) == len(set(keys)) == 6


def test_a_killed_workers_trials_are_run_by_others_sqlite(file, tmp_path):
    _killed_on_the_way(file, f"sqlite:///{tmp_path / 'study.sqlite'}", tmp_path)


@pytest.fixture
def postgres():
    """The URL of a PostgreSQL server that is there for a test."""
    missing = [x for x in ("initdb", "pg_ctl", "postgres") if not shutil.which(x)]
    if missing:
        pytest.skip(f"needs PostgreSQL: no {', '.join(missing)} on the PATH")
    pytest.importorskip("psycopg2")
    before, folder = [], pathlib.Path(tempfile.mkdtemp(prefix="jaxtl-postgres-"))
    if os.geteuid() == 0:  # its server refuses to be root
        if not shutil.which("setpriv"):
            pytest.skip("needs setpriv: PostgreSQL does not run as root")
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
        os.chown(folder, user.pw_uid, user.pw_gid)
        before = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}"]
        before += ["--clear-groups"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def tell(*command):
        found = subprocess.run(
            [*before, *command],
            cwd=folder,
            env={**os.environ, "LC_ALL": "C", "HOME": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert found.returncode == 0, found.stderr

    data, log = f"{folder}/data", f"{folder}/log"
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off "
    options += "-c unix_socket_directories=''"
    try:
        tell("initdb", "-D", data, "-U", "tester", "-A", "trust", "--no-sync")
        tell("pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start")
        try:
            yield f"postgresql://tester:geheim@127.0.0.1:{port}/postgres"
        finally:
            tell("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_killed_workers_trials_are_run_by_others_postgres(file, tmp_path, postgres):
    _killed_on_the_way(file, postgres, tmp_path)


def test_workers_as_jobs_of_this_machine(file, tmp_path):
    if importlib.util.find_spec("submitit") is None:
        pytest.skip("needs submitit")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "jaxtl", "sweep", file, "--out", out]
    command += ["--search", "tpe", "--trials", 3, "--batch", 1]
    command += ["--slurm", 2, "--slurm-local", "--slurm-arg", "partition=gpu"]
    found = subprocess.run(
        [str(x) for x in command],
        env=_environment(),
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert "2 workers submitted" in found.stdout
    with Database(out) as database:
        assert database.counts() == {DONE: 3}
    assert len(list((out / "slurm").glob("*_log.out"))) == 2


def fails(capsys, *arguments) -> str:
    assert run(*arguments) == 1
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert text.startswith("jaxtl ")
    return text


@pytest.mark.parametrize(
    ("arguments", "said"),
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
def test_bad_searches_are_one_sentence(file, tmp_path, capsys, arguments, said):
    text = fails(capsys, "sweep", file, "--out", tmp_path / "out", *arguments)
    assert said in text
    assert "geheim" not in text
    assert not (tmp_path / "out").exists()


def test_nothing_to_search(file, tmp_path, capsys):
    file.write_text(
        FILE.replace('"optim.lr": tl.sweep.log(1e-4, 1e-1, 5)', "'seed': [0, 1]")
    )
    text = fails(capsys, "sweep", file, "--search", "tpe", "--trials", 2)
    assert "nothing to search" in text


def test_a_silent_database_is_named_without_its_password(file, capsys):
    pytest.importorskip("psycopg2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"postgresql://me:geheim@127.0.0.1:{free.getsockname()[1]}/db"
        text = fails(
            capsys, "sweep", file, "--search", "tpe", "--trials", 2, "--storage", url
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
def test_what_is_not_installed(file, capsys, monkeypatch, module, extra, arguments):
    monkeypatch.setitem(sys.modules, module, None)
    asked = ["sweep", file, "--search", "tpe", "--trials", 2]
    text = fails(capsys, *asked, *arguments)
    assert f"pip install '{extra}'" in text
    assert "geheim" not in text


def test_a_study_of_something_else_is_refused(tmp_path):
    storage = optuna_storage.connect(f"sqlite:///{tmp_path / 's.sqlite'}")
    space = {"optim.lr": {"low": 0.1, "high": 1.0}}
    facts = {"metric": "accuracy", "space": space}
    made = optuna_storage.open_(storage, "a", "maximize", facts, 2)
    assert optuna_storage.open_(storage, "a", "maximize", facts, None).study_name == "a"
    with pytest.raises(UserError, match=r"there to maximize.*to minimize nll"):
        optuna_storage.open_(storage, "a", "minimize", {**facts, "metric": "nll"}, 2)
    other = {**facts, "space": {"optim.lr": {"low": 0.2, "high": 1.0}}}
    with pytest.raises(UserError, match=r"another space: optim\.lr is .*0\.1.*0\.2"):
        optuna_storage.open_(storage, "a", "maximize", other, 2)
    with pytest.raises(UserError, match=r"no study 'b'.*studies: a\)"):
        optuna_storage.open_(storage, "b", "maximize", facts, None)
    foreign = optuna.create_study(storage=storage, study_name="c", direction="maximize")
    foreign.ask()
    with pytest.raises(UserError, match="not made by jaxtl"):
        optuna_storage.open_(storage, "c", "maximize", facts, 2)
    assert made.user_attrs[optuna_storage.TOTAL] == 2


def test_passwords_are_hidden():
    for url in ("postgresql://u:p@ss/w@h/d", "postgresql://u@h/d?password=p@ss/w"):
        assert "p@" not in optuna_storage.hidden(url)
        assert "ss/w" not in optuna_storage.hidden(url)
        assert "h/d" in optuna_storage.hidden(url)


def test_jobs_need_slurm(monkeypatch):
    if importlib.util.find_spec("submitit") is None:
        pytest.skip("needs submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="no srun on the PATH"):
        slurm.check(1, "postgresql://h/d", False, [])
    with pytest.raises(UserError, match="name=value"):
        slurm.check(1, None, True, ["partition"])
