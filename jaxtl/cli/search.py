"""Searches on the terminal, for `jaxtl sweep --search` and `jaxtl worker`.

A search is an Optuna study, which all its workers share, and a folder per worker, in
which that records its runs as a sweep does.
"""

import argparse
import os
import pathlib
import socket
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

from jaxtl.cli import arguments, formatting, grid
from jaxtl.core import console, devices
from jaxtl.core.errors import UserError
from jaxtl.results.database import DATABASE_FILE, Database
from jaxtl.sweep import (
    optuna_storage,
    optuna_study,
    search_runner,
    search_space,
    slurm,
)
from jaxtl.sweep.axes import SEED, Grid
from jaxtl.sweep.sweep_folder import Sweep, open_database

STUDY_FILE = "study.sqlite"  # in the folder of a search without --storage


def start(args: argparse.Namespace) -> int:
    """Starts or continues a search: works on it, or submits workers to a cluster.

    Returns:
      The exit code: 1 where a trial failed, else 0.

    Raises:
      UserError: options that do not fit the search, or no --trials.
    """
    file, axes, _ = grid.read_grid(args)
    search_space.check(args.search, axes, args.trials, args.batch)
    space = search_space.space(file, axes)
    if args.plan:
        _print_space(space, axes)
        return 0
    if args.trials is None:
        raise UserError("say how many settings to try: --trials 32, for example.")
    if args.slurm is not None:
        slurm.check(args.slurm, args.storage, args.slurm_local, args.slurm_arg)
    folder = args.out or arguments.default_folder(f"sweep-{args.file.stem}")
    optuna_storage.optuna()  # raises before anything is written
    storage = optuna_storage.connect(args.storage) if args.storage else None
    sweep = Sweep(file, axes, (), (), folder, args.mode, args.lanes)
    if args.overwrite and args.storage is None:
        (folder / STUDY_FILE).unlink(missing_ok=True)
    with _open_database(sweep, args.overwrite) as database:
        url = args.storage or f"sqlite:///{folder.absolute() / STUDY_FILE}"
        storage = storage or optuna_storage.connect(url)
        search, study = _open_study(args, sweep, space, storage, url)
        if args.slurm is not None:
            return _submit(args, search, study, url, database)
        return _work(args, search, study, space, url, database)


def join(args: argparse.Namespace) -> int:
    """Works on a search that another process started.

    Returns:
      The exit code: 1 where a trial failed, else 0.

    Raises:
      UserError: no --storage, or options that do not fit the study.
    """
    if args.storage is None:
        raise UserError(
            "a worker joins a study by its storage: --storage sqlite:///FILE or "
            "postgresql://USER:PASSWORD@HOST/DATABASE."
        )
    file, axes, _ = grid.read_grid(args)
    search_space.check(args.search or search_space.TPE, axes, args.trials, args.batch)
    space = search_space.space(file, axes)
    storage = optuna_storage.connect(args.storage)
    folder = _worker_folder(args)
    sweep = Sweep(file, axes, (), (), folder, args.mode, args.lanes)
    with _open_database(sweep) as database:
        search, study = _open_study(args, sweep, space, storage, args.storage)
        return _work(args, search, study, space, args.storage, database)


def _worker_folder(args: argparse.Namespace) -> pathlib.Path:
    """Folder that a worker records in: beside its SQLite study, or one by itself."""
    if args.out is not None:
        return args.out
    if args.storage.startswith("sqlite:///"):
        folder = pathlib.Path(args.storage.removeprefix("sqlite:///")).parent
        if (folder / DATABASE_FILE).exists():
            return folder
    process = f"{socket.gethostname()}-{os.getpid()}"
    return pathlib.Path("runs") / f"sweep-{args.file.stem}" / process


def _open_database(sweep: Sweep, overwrite: bool = False) -> Database:
    """Opens the folder's database; of workers that start at once, one creates it."""
    for _ in range(20):
        try:
            return open_database(sweep, overwrite=overwrite)
        except UserError:
            if not (sweep.folder / "experiment.py").exists():
                raise
            if (sweep.folder / DATABASE_FILE).exists():
                break
            time.sleep(0.1)
    return open_database(sweep, overwrite=overwrite)


def _open_study(
    args: argparse.Namespace,
    sweep: Sweep,
    space: Mapping[str, Mapping[str, Any]],
    storage: Any,
    url: str,
) -> tuple[search_space.Search, Any]:
    """Opens the Optuna study of a search, or creates it.

    The kind and seed are stored with the study, so that its workers need not repeat
    them.

    Returns:
      The search, and the study.
    """
    metric = search_space.metric_of(sweep)
    draft = search_space.Search(sweep, args.search or "", 0, args.batch or 1, metric)
    begun = {"kind": args.search or search_space.TPE, "seed": args.seed or 0}
    with optuna_storage.storage_errors(url):
        study = optuna_storage.open_study(
            storage,
            args.study or args.file.stem,
            search_space.direction(draft),
            search_space.shared_settings(draft, space),
            args.trials,
            begun,
        )
        stored = study.user_attrs.get(optuna_storage.BEGUN, begun)
        kind = args.search or stored["kind"]
        seed = stored["seed"] if args.seed is None else args.seed
        if args.search is not None and stored != {"kind": kind, "seed": seed}:
            study.set_user_attr(optuna_storage.BEGUN, {"kind": kind, "seed": seed})
    batch = args.batch or search_space.BATCH[kind]
    return search_space.Search(sweep, kind, seed, batch, metric), study


def _work(
    args: argparse.Namespace,
    search: search_space.Search,
    study: Any,
    space: Mapping[str, Mapping[str, Any]],
    url: str,
    database: Database,
) -> int:
    """Runs trials until the study has all of them; prints progress and tables.

    Returns:
      The exit code: 1 where a trial failed, else 0.
    """
    terminal, started = console.console(), time.perf_counter()
    terminal.print(f"device: {devices.describe()}", markup=False)
    shared = optuna_study.SharedStudy(study, args.grace)
    database.set_meta(
        search={
            "kind": search.kind,
            "seed": search.seed,
            "study": study.study_name,
            "storage": optuna_storage.without_password(url),
            "metric": search.metric,
        }
    )

    def print_trial(outcome: search_runner.TrialOutcome) -> None:
        if outcome.error:
            cell = ", ".join(f"{k}={v}" for k, v in outcome.labels.items())
            print(f"{cell} failed: {outcome.error}", file=sys.stderr)
        done, total = shared.counts()
        line = f"{time.perf_counter() - started:6.0f} s  {done}/{total} trials"
        best = _describe_best(shared.trials(), search)
        terminal.print(line + (f"; {best}" if best else ""), markup=False)

    def print_note(text: str) -> None:
        terminal.print(text, markup=False)

    with optuna_storage.storage_errors(url):
        search_runner.run_search(
            search, database, shared, space, print_trial, print_note
        )
        done, _ = shared.counts()
        best = _describe_best(shared.trials(), search)
        failed = any(optuna_study.ERROR in t.user_attrs for t in shared.trials())
    folder = search.sweep.folder
    terminal.print(
        f"{done} trials; recorded in {folder}; the study {study.study_name!r} is in "
        f"{optuna_storage.without_password(url)}",
        markup=False,
    )
    if best:
        terminal.print(best, markup=False)
    grid.print_report(folder, database.counts())
    return 1 if failed else 0


def _describe_best(trials: Iterable[Any], search: search_space.Search) -> str:
    """Describes the best trial on val in a sentence; "" where none is complete."""
    complete = [t for t in trials if t.state.name == optuna_study.COMPLETE]
    if not complete:
        return ""
    metric = search.metric
    sign = 1 if search_space.higher_is_better(search) else -1
    best = max(complete, key=lambda trial: sign * trial.value)
    setting = ", ".join(
        f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in best.params.items()
    )
    value = formatting.metric_value(metric, best.value)
    return f"best on val so far: {metric} {value} at {setting}"


def _print_space(space: Mapping[str, Mapping[str, Any]], axes: Grid) -> None:
    """Prints a row per axis: the values that are drawn of it, and under which others.

    Args:
      space: from `search_space.space`.
      axes: the sweep's, for the seeds.
    """
    rows = []
    for name, axis in space.items():
        if "choices" in axis:
            text = f"one of {', '.join(axis['choices'])}"
        else:
            scale = " on a logarithmic scale" if axis["log"] else ""
            kind = "whole numbers" if axis["whole"] else "numbers"
            text = f"{kind} from {axis['low']:g} to {axis['high']:g}{scale}"
        condition = ", ".join(f"{k} is {v}" for k, v in axis.get("when", {}).items())
        rows.append((name, text, condition))
    seeds = len(list(axes.axes.get(SEED, (0,))))
    title = f"the space; each trial runs {seeds} seed{'s' * (seeds > 1)}"
    table = console.table(title, ("axis", "drawn", "only where"), rows, left=3)
    console.console().print(table, markup=False)


def _submit(
    args: argparse.Namespace,
    search: search_space.Search,
    study: Any,
    url: str,
    database: Database,
) -> int:
    """Submits the workers of a search; waits for them where they run on this machine.

    Returns:
      The exit code: the largest of the workers' where they were waited for, else 0.
    """
    folder = search.sweep.folder
    outs = [folder.absolute() / f"worker-{i}" for i in range(args.slurm)]
    if args.storage is None:
        outs = [folder.absolute()] * args.slurm
    worker = _worker_command(args, study, url)
    commands = [[*worker, "--out", str(out)] for out in outs]
    jobs = slurm.submit(commands, folder / "slurm", args.slurm_local, args.slurm_arg)
    print(f"{len(jobs)} workers submitted: {', '.join(job.job_id for job in jobs)}")
    if not args.slurm_local:
        print(f"see them go on: jaxtl watch {outs[0]}")
        print(f"and what they found: jaxtl report {folder}/worker-*")
        return 0
    codes = slurm.wait(jobs)
    shared = optuna_study.SharedStudy(study, args.grace)
    with optuna_storage.storage_errors(url):
        print(_describe_best(shared.trials(), search))
    if args.storage is None:
        grid.print_report(folder, database.counts())
    return max(codes)


def _worker_command(args: argparse.Namespace, study: Any, url: str) -> list[str]:
    """Arguments of `jaxtl` for a worker of this search, without its --out."""
    command = ["worker", str(args.file.absolute()), *args.overrides]
    command += ["--storage", url, "--study", study.study_name]
    command += ["--grace", str(args.grace), "--mode", args.mode]
    for name in ("batch", "lanes", "device"):
        if getattr(args, name) is not None:
            command += [f"--{name}", str(getattr(args, name))]
    return command
